"""Block outputs of a PyTorch network: forward hooks read them, and replace the inputs of blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..metrics.blocks import BlockObserver, BlockValues

_PRECISIONS = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@contextmanager
def observed(network: nn.Module, pattern: str, observe: BlockObserver, copies: bool = False) -> Iterator[None]:
    """Pass every block to an observer, in every run of the network inside the ``with`` block.

    A block has one floating-point output, alone or in a tuple with other values; other modules are left out.

    Parameters
    ----------
    network
        The network.
    pattern
        Regular expression for the names of the blocks: `Architecture.blocks`.
    observe
        Called with each block.
    copies
        Whether to pass copies, as needed where a module changes tensors in place. Otherwise the arrays are views of the
        network's own tensors.
    """
    before: dict[str, tuple[NDArray[Any], ...]] = {}

    def convert(value: Tensor) -> NDArray[Any]:
        return _array(value.clone() if copies else value)

    def on_call(name: str, arguments: Any) -> None:
        before[name] = tuple(convert(value) for value in _features(arguments))

    def on_forward(name: str, arguments: Any, result: Any) -> None:
        output = feature_of(result)
        if output is not None:
            inputs = before.pop(name) if copies else tuple(convert(value) for value in _features(arguments))
            observe(BlockValues(name, convert(output), inputs, _PRECISIONS[output.dtype]))

    blocks = [(name, module) for name, module in network.named_modules() if re.fullmatch(pattern, name)]
    hooks = [
        module.register_forward_hook(
            lambda _module, arguments, keywords, output, name=name: on_forward(name, (arguments, keywords), output),
            with_kwargs=True,
        )
        for name, module in blocks
    ]
    if copies:
        hooks += [
            module.register_forward_pre_hook(
                lambda _module, arguments, keywords, name=name: on_call(name, (arguments, keywords)), with_kwargs=True
            )
            for name, module in blocks
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def replaced_inputs(network: nn.Module, inputs: Mapping[str, Sequence[NDArray[Any]]]) -> Iterator[None]:
    """Replace the inputs of modules, in every run of the network inside the ``with`` block.

    Parameters
    ----------
    network
        The network.
    inputs
        Module's name -> as `BlockValues.inputs`, of the shapes of its own inputs.
    """

    def replace(arguments: Any, values: Sequence[NDArray[Any]]) -> Any:
        remaining = iter(values)
        leaves, structure = tree_flatten(arguments)
        return tree_unflatten(
            [  # Copies, because a module may change its input in place.
                torch.from_numpy(next(remaining)).to(value.device, value.dtype, copy=True)
                if _is_feature(value)
                else value
                for value in leaves
            ],
            structure,
        )

    hooks = [
        module.register_forward_pre_hook(
            lambda _module, arguments, keywords, values=inputs[name]: replace((arguments, keywords), values),
            with_kwargs=True,
        )
        for name, module in network.named_modules()
        if name in inputs
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def feature_of(result: Any) -> Tensor | None:
    """Return the one floating-point tensor of a module's result; None where there are several or none."""
    found = _features(result)
    return found[0] if len(found) == 1 else None


@contextmanager
def running_modules(network: nn.Module) -> Iterator[list[str]]:
    """Keep a list of the names of the modules that are running, the innermost last."""
    names: list[str] = []
    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _module, _inputs, name=name: names.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: _pop(names), always_call=True))
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def _pop(names: list[str]) -> None:
    """Remove the last name. A hook's return value would replace the module's output, so it must be None."""
    names.pop()


def _features(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if _is_feature(value)]


def _is_feature(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _array(value: Tensor) -> NDArray[Any]:
    """Convert to NumPy, which has no bfloat16: that becomes float32."""
    array: NDArray[Any] = (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()
    return array
