"""Storage of the key graph: one bit per pair of nodes, 32 in an int32 word."""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 32


def words(nodes: int) -> int:
    """Return the number of words for one row of `nodes` bits."""
    return (nodes + WORD_BITS - 1) // WORD_BITS


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
    bits = torch.unflatten(padded, -1, (words(nodes), WORD_BITS))
    # The sum of distinct powers of two is their bitwise or; bit 31 is the sign of the int32.
    packed: Tensor = (bits * _bit_values(selected.device)).sum(-1, dtype=torch.int32)
    return packed


def unpack_graph(graph: Tensor, nodes: int) -> Tensor:
    """Undo `pack_bits`, and `pack_graph`: int32[..., ceil(N/32)] -> bool[..., N]."""
    bits = (graph.unsqueeze(-1) & _bit_values(graph.device)) != 0
    return bits.flatten(-2)[..., :nodes]


def _bit_values(device: torch.device) -> Tensor:
    """Return int32[32]: 1, 2, 4, ..., 2^30, -2^31."""
    return torch.ones((), dtype=torch.int32, device=device) << torch.arange(WORD_BITS, dtype=torch.int32, device=device)
