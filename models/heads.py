"""Padding of attention heads with zero channels, so that rows of q, k and v are aligned to 16 bytes.

A head of D = 30 fp16 channels has rows of 60 bytes, aligned to 4, so a GPU copies 4 bytes at a time. With two more
channels it copies 16. The padding is in the weights of the projections, so that no activation is copied: zero rows in
the projections that compute q, k and v, which leave all scores unchanged, and zero columns in the projection of the
result. The attention's scale remains D^-1/2 with D before padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Half-precision channels in 16 bytes.
MULTIPLE = 8


def padded_size(size: int) -> int:
    """Return the channels of a head after padding: a multiple of `MULTIPLE`, or `size` where that would cost too much.

    Every added channel costs time on every engine: a row or column in four projections, and memory traffic for q, k, v
    and the result. At most an eighth is added: 30 -> 32 and 60 -> 64, but not 10 -> 16 or 20 -> 24. A CPU takes 1 to
    2 % longer with 32 instead of 30, and 25 % longer with 16 instead of 10 (docs/measurements/performance.md).
    """
    padded = -(-size // MULTIPLE) * MULTIPLE
    return padded if (padded - size) * 8 <= size else size


def pad_heads(tensor: Tensor, heads: int, size: int, dim: int = 0) -> Tensor:
    """Pad a projection's weight or bias with zeros at the end of every head.

    Parameters
    ----------
    tensor
        [..., heads * D, ...].
    heads
        Number of heads, which are consecutive in `dim`.
    size
        Channels of a head after padding, at least D.
    dim
        Dimension of the heads: 0 for a weight or bias that computes heads, 1 for a weight that reads them.

    Returns
    -------
    Tensor
        [..., heads * size, ...]; `tensor` itself when `size` is D.
    """
    more = size - tensor.shape[dim] // heads
    if not more:
        return tensor
    apart = tensor.reshape(*tensor.shape[:dim], heads, -1, *tensor.shape[dim + 1 :])
    behind = tensor.ndim - 1 - dim
    return torch.nn.functional.pad(apart, (*(0, 0) * behind, 0, more)).flatten(dim, dim + 1)
