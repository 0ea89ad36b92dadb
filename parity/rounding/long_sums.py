"""Sums over many values, one after the other: means, norms and normalisations over pixels as simple kernels do it.

PyTorch sums pairwise, which rounds little. ONNX Runtime adds to one vector register, in which the error grows with the
number of values: over 256 x 256 pixels it is 4 to 17 times larger. In the norm of a vector (ReduceL2) it adds to a
single number: over 16,384 pixels the error is 8 times that of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

#: Sums of fewer values are left alone, because their order makes little difference.
LONG = 256

#: Sums that are computed at once: the float32 values of a vector register.
LANES = 8


class LongSums(TorchDispatchMode):
    """Compute sums, means, norms, and normalisations over groups or pixels by adding one value after the other."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, with long sums one value after the other where the operator is known."""
        compute = _LONG.get(operator)
        if compute is not None and not kwargs and args[0].dtype == torch.float32:
            result = compute(*args)
            if result is not None:
                return result
        return operator(*args, **(kwargs or {}))


def _sum(values: Tensor) -> Tensor:
    """Sum over the last axis."""
    padded = functional.pad(values, (0, -values.shape[-1] % LANES)).unflatten(-1, (-1, LANES))
    total = torch.zeros_like(padded[..., 0, :])
    for one in padded.unbind(-2):
        total = total + one
    return total.sum(-1)


def _reduced(mean: bool) -> Callable[..., Tensor | None]:
    """Return the function for a sum or mean over axes."""

    def reduce(values: Tensor, axes: Sequence[int] | None = None, keep: bool = False) -> Tensor | None:
        chosen = sorted(axis % values.ndim for axis in axes or range(values.ndim))
        others = [axis for axis in range(values.ndim) if axis not in chosen]
        flat = values.permute(*others, *chosen).flatten(len(others))
        if flat.shape[-1] < LONG:
            return None
        result = _sum(flat) / (flat.shape[-1] if mean else 1)
        return (
            result.reshape([1 if axis in chosen else size for axis, size in enumerate(values.shape)])
            if keep
            else result
        )

    return reduce


def _vector_norm(
    values: Tensor, order: float = 2.0, axes: Sequence[int] | None = None, keep: bool = False
) -> Tensor | None:
    """Return the L2 norm, its squares added to one number."""
    if order != 2 or axes is None or len(axes) != 1 or values.shape[axes[0]] < LONG:
        return None
    total = np.add.accumulate(values.square().movedim(axes[0], -1).numpy(), axis=-1)[..., -1]
    norm = torch.from_numpy(total).sqrt()
    return norm.unsqueeze(axes[0]) if keep else norm


def _normalised(rows: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise the last axis and return the mean and the reciprocal standard deviation as well."""
    mean = _sum(rows) / rows.shape[-1]
    centred = rows - mean[..., None]
    scale = (_sum(centred.square()) / rows.shape[-1] + epsilon).rsqrt()
    return centred * scale[..., None], mean, scale


def _affine(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Apply a weight and bias for each channel, the second axis."""
    shape = (-1, *[1] * (values.ndim - 2))
    values = values if weight is None else values * weight.view(shape)
    return values if bias is None else values + bias.view(shape)


def _group_norm(
    values: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    pixels: int,
    groups: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    if channels // groups * pixels < LONG:
        return None
    normed, mean, scale = _normalised(values.reshape(batch, groups, -1), epsilon)
    return _affine(normed.reshape(values.shape), weight, bias), mean, scale


def _batch_norm(
    values: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    _mean: Tensor | None,
    _variance: Tensor | None,
    of_batch: bool,
    _momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Normalise by statistics of the values themselves, as instance norms do."""
    channels = values.transpose(0, 1).flatten(1)
    if not of_batch or channels.shape[-1] < LONG:
        return None
    normed, mean, scale = _normalised(channels, epsilon)
    shape = values.transpose(0, 1).shape
    return _affine(normed.reshape(shape).transpose(0, 1), weight, bias).contiguous(), mean, scale


_LONG: dict[Any, Callable[..., Any]] = {
    _aten.sum.default: _reduced(mean=False),
    _aten.sum.dim_IntList: _reduced(mean=False),
    _aten.mean.default: _reduced(mean=True),
    _aten.mean.dim: _reduced(mean=True),
    _aten.linalg_vector_norm.default: _vector_norm,
    _aten.native_group_norm.default: _group_norm,
    _aten.native_batch_norm.default: _batch_norm,
}
