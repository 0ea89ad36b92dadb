"""Attention heads padded with zero channels, so that rows of queries, keys and values start at 16-byte addresses.

A head of D = 30 halves has 60 bytes: its rows start at multiples of 4 bytes, and a GPU copies 4 bytes at a time. With
two more channels it copies 16. They are added to the weights of the projections, so that no activation is copied: zero
rows where q, k and v are made, which leave all scores as they are, and zero columns where the result is taken. The
attention's scale stays D^-1/2 of the D without padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Channels of half precision in 16 bytes.
MULTIPLE = 8


def padded_size(size: int) -> int:
    """Return the channels of a head of `size` with padding: a multiple of `MULTIPLE`, or `size` where that costs much.

    Every engine pays for an added channel: a row or column in four projections, and bytes in q, k, v and the result.
    The limit is an eighth: 30 -> 32 and 60 -> 64, but neither 10 -> 16 nor 20 -> 24. A CPU takes 1 to 2 % longer for 32
    in place of 30, and 25 % for 16 in place of 10 (docs/performance.md).
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
        In `dim`, one after the other.
    size
        Channels of a head afterwards, at least D.
    dim
        The dimension of the heads: 0 of a weight or bias whose results are heads, 1 of a weight that takes them.

    Returns
    -------
    Tensor
        [..., heads * size, ...]; `tensor` itself where `size` is D.
    """
    more = size - tensor.shape[dim] // heads
    if not more:
        return tensor
    apart = tensor.unflatten(dim, (heads, -1))
    behind = tensor.ndim - 1 - dim
    return torch.nn.functional.pad(apart, (*(0, 0) * behind, 0, more)).flatten(dim, dim + 1)
