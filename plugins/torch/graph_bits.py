"""Storage of the key graph: one bit per pair of nodes, 32 in an int32 word."""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 32


def words(nodes: int) -> int:
    """Return the number of words for one row of `nodes` bits."""
    return (nodes + WORD_BITS - 1) // WORD_BITS


#: Byte i of a word with the bit i set, and every byte with the bit 0 set.
_DIAGONAL, _FIRST_BITS = 0x8040201008040201 - (1 << 64), 0x0101010101010101

#: A factor that moves bit 0 of byte i to bit 56 + i, for all eight bytes of a word. Nothing else gets there.
_GATHER = sum(1 << (56 - 7 * i) for i in range(8))


def pack_bits(selected: Tensor) -> Tensor:
    """Pack a boolean selection into words. The operator `pack_graph` does this in programs and files.

    Parameters
    ----------
    selected
        bool[..., N]; True where the row attends to the node.

    Returns
    -------
    Tensor
        int32[..., ceil(N/32)]; bit j mod 32 of word j div 32 is `selected[..., j]`, bits past N are 0.
    """
    nodes = selected.shape[-1]
    padded = torch.nn.functional.pad(selected, (0, words(nodes) * WORD_BITS - nodes))
    # Eight booleans are a word of eight bytes that are 0 or 1: one product for eight of them.
    packed = (padded.reshape(-1).view(torch.int64) * _GATHER) >> 56
    return packed.to(torch.uint8).view(torch.int32).view(*selected.shape[:-1], words(nodes))


def unpack_graph(graph: Tensor, nodes: int) -> Tensor:
    """Undo `pack_bits`, and `pack_graph`: int32[..., ceil(N/32)] -> bool[..., N]."""
    spread = (graph.reshape(-1).view(torch.uint8).long() * _FIRST_BITS) & _DIAGONAL
    return (spread.view(torch.uint8) != 0).view(*graph.shape[:-1], graph.shape[-1] * WORD_BITS)[..., :nodes]


def count_bits(graph: Tensor) -> int:
    """Count the pairs of nodes in a graph int32[..., ceil(N/32)]."""
    word = graph.long()
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        word = (word & mask) + ((word >> shift) & mask)
    return int(word.sum())
