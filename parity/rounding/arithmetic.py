"""Arithmetic in which a PyTorch network is run again: another order of summation, or tensors stored in half precision.

Both are dispatch modes: they see every operator that PyTorch runs, whichever module calls it, and need nothing of the
network. keygraph's own operators count as one operator each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

#: Unit roundoff: the largest relative error of one rounding.
UNIT_ROUNDOFF = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}

HALF_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class ReorderedSums(TorchDispatchMode):
    """Sum in another order: permute the axis over which products, convolutions and layer norms sum.

    The result is the same but for rounding. Sums over kernel taps, windows' nodes and pixels keep their order.

    Parameters
    ----------
    seed
        Of the permutations.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._random = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator with its sums in another order, where the operator is known."""
        reorder = _REORDERED.get(operator)
        if reorder is not None and not kwargs:
            return reorder(operator, list(args), self._permutation)
        return operator(*args, **(kwargs or {}))

    def _permutation(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self._random)


Permutation = Callable[[int], Tensor]


def _products(first: int) -> Callable[[Any, list[Any], Permutation], Any]:
    """Return the function for a matrix product whose factors are arguments `first` and `first + 1`."""

    def reorder(operator: Any, args: list[Any], permutation: Permutation) -> Any:
        order = permutation(args[first].shape[-1])
        args[first] = args[first].index_select(-1, order)
        args[first + 1] = args[first + 1].index_select(-2, order)
        return operator(*args)

    return reorder


def _convolution(operator: Any, args: list[Any], permutation: Permutation) -> Any:
    image, weight, transposed, groups = args[0], args[1], args[6], args[8]
    if groups == 1:
        order = permutation(image.shape[1])
        args[0] = image.index_select(1, order)
        args[1] = weight.index_select(0 if transposed else 1, order)
    return operator(*args)


def _layer_norm(operator: Any, args: list[Any], permutation: Permutation) -> Any:
    if len(args[1]) != 1:
        return operator(*args)
    order = permutation(args[1][0])
    args[0] = args[0].index_select(-1, order)
    args[2:4] = [None if one is None else one.index_select(0, order) for one in args[2:4]]
    normed, *statistics = operator(*args)
    return (normed.index_select(-1, order.argsort()), *statistics)


def _key_graph_attention(operator: Any, args: list[Any], permutation: Permutation) -> Any:
    heads = args[6]
    size = args[0].shape[-1] // (heads or 1)
    order = permutation(size)
    if heads:
        order = torch.cat([order + head * size for head in range(heads)])
    args[:2] = [one.index_select(-1, order) for one in args[:2]]
    return operator(*args)


_REORDERED: dict[Any, Callable[[Any, list[Any], Permutation], Any]] = {
    _aten.mm.default: _products(0),
    _aten.bmm.default: _products(0),
    _aten.addmm.default: _products(1),
    _aten.baddbmm.default: _products(1),
    _aten.convolution.default: _convolution,
    _aten.native_layer_norm.default: _layer_norm,
    torch.ops.keygraph.key_graph_attention.default: _key_graph_attention,
}


class RoundedStorage(TorchDispatchMode):
    """Round what a float32 network reads and stores to half precision, as a device that accumulates in float32 does.

    Parameters
    ----------
    precision
        ``"fp16"`` or ``"bf16"``.
    kept_in_fp32
        Called with the name of each operator before it runs (``"native_layer_norm"``); True where its inputs and
        outputs stay in float32.
    unbounded
        Round to the bits of float16, but keep the range of float32: nothing overflows.
    """

    def __init__(self, precision: str, kept_in_fp32: Callable[[str], bool], unbounded: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        half = HALF_TYPES[precision]
        self._round: Callable[[Tensor], Tensor] = lambda value: value.to(half).float()
        if unbounded and precision == "fp16":
            self._round = ten_bits
        self._kept = kept_in_fp32

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator on rounded values and round its results; views are left alone."""
        kwargs = kwargs or {}
        if operator.is_view or self._kept(operator.overloadpacket.__name__):
            return operator(*args, **kwargs)
        if operator._schema.is_mutable:  # Its result is an argument, which must be changed itself.
            result = operator(*args, **kwargs)
            for value in _tensors(result):
                value.copy_(self._rounded(value))
            return result
        args = tuple(self._rounded_all(value) for value in args)
        return self._rounded_all(operator(*args, **kwargs))

    def _rounded_all(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(self._rounded_all(one) for one in value)
        return self._rounded(value) if isinstance(value, Tensor) else value

    def _rounded(self, value: Tensor) -> Tensor:
        return self._round(value) if value.dtype == torch.float32 else value


def ten_bits(values: Tensor) -> Tensor:
    """Round to TensorFloat-32: 10 bits after the first as in float16, the range of float32."""
    bits = values.float().contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32).to(values.dtype)


def _tensors(value: Any) -> Sequence[Tensor]:
    return [one for one in (value if isinstance(value, (tuple, list)) else (value,)) if isinstance(one, Tensor)]
