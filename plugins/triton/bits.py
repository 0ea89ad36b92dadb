"""The graph's words: which of their bits count, and how many are set."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def bits_of_nodes(word, nodes):
    """int32: the bits of a word that stand for nodes; none past the last."""
    left = nodes - word * 32
    return tl.where(left >= 32, -1, (1 << tl.minimum(tl.maximum(left, 0), 31)) - 1)


@triton.jit
def count_bits(bits):
    """How many bits of each uint32 are set (Warren, Hacker's Delight, 5-1): int32."""
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return ((bits * 0x01010101) >> 24).to(tl.int32)
