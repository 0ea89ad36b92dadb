"""Block outputs of a PyTorch network: forward hooks read them, and replace the inputs of blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..metrics.blocks import BlockObserver, BlockValues

_PRECISIONS = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@contextmanager
def observed(network: nn.Module, pattern: str, observe: BlockObserver) -> Iterator[None]:
    """Pass every block to an observer, in every run of the network inside the ``with`` block.

    Parameters
    ----------
    network
        The network.
    pattern
        Regular expression for the names of the blocks: `Architecture.blocks`.
    observe
        Called with each block; the arrays are views of the network's own tensors.
    """

    def on_forward(name: str, arguments: tuple[Any, ...], output: Tensor) -> None:
        inputs = tuple(_array(value) for value in arguments if _is_feature(value))
        observe(BlockValues(name, _array(output), inputs, _PRECISIONS[output.dtype]))

    hooks = [
        module.register_forward_hook(lambda _module, arguments, output, name=name: on_forward(name, arguments, output))
        for name, module in network.named_modules()
        if re.fullmatch(pattern, name)
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

    def replace(arguments: tuple[Any, ...], values: Sequence[NDArray[Any]]) -> tuple[Any, ...]:
        remaining = iter(values)
        return tuple(
            torch.from_numpy(next(remaining)).to(value.device, value.dtype) if _is_feature(value) else value
            for value in arguments
        )

    hooks = [
        module.register_forward_pre_hook(lambda _module, arguments, values=inputs[name]: replace(arguments, values))
        for name, module in network.named_modules()
        if name in inputs
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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


def _is_feature(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _array(value: Tensor) -> NDArray[Any]:
    """Convert to NumPy, which has no bfloat16: that becomes float32."""
    array: NDArray[Any] = (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()
    return array
