"""The blocks of a network in PyTorch: what goes in and out of its modules, told and replaced by hooks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..metrics.blocks import BlockValues, See

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@contextmanager
def seen(network: nn.Module, pattern: str, see: See) -> Iterator[None]:
    """Inside the block, every run of the network tells its blocks.

    Parameters
    ----------
    network
        The network.
    pattern
        `Architecture.blocks`.
    see
        Takes each block; the arrays are views of what the network computes with.
    """

    def tell(name: str, taken: tuple[Any, ...], output: Tensor) -> None:
        inputs = tuple(_array(value) for value in taken if _flows(value))
        see(BlockValues(name, _array(output), inputs, _PRECISIONS[output.dtype]))

    hooks = [
        module.register_forward_hook(lambda _module, taken, output, name=name: tell(name, taken, output))
        for name, module in network.named_modules()
        if re.fullmatch(pattern, name)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def given(network: nn.Module, inputs: Mapping[str, Sequence[NDArray[Any]]]) -> Iterator[None]:
    """Inside the block, these modules compute with these inputs, whatever they are called with.

    Parameters
    ----------
    network
        The network.
    inputs
        Module's name -> as `BlockValues.inputs`, of the shapes that it is called with.
    """

    def replace(taken: tuple[Any, ...], values: Sequence[NDArray[Any]]) -> tuple[Any, ...]:
        others = iter(values)
        return tuple(
            torch.from_numpy(next(others)).to(value.device, value.dtype) if _flows(value) else value for value in taken
        )

    hooks = [
        module.register_forward_pre_hook(lambda _module, taken, values=inputs[name]: replace(taken, values))
        for name, module in network.named_modules()
        if name in inputs
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _flows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _array(value: Tensor) -> NDArray[Any]:
    """NumPy has no bfloat16."""
    array: NDArray[Any] = (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()
    return array
