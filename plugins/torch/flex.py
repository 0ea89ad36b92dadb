"""KeyGraphAttention by PyTorch's FlexAttention, compiled, with the graph as its block mask."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex

#: Rows and nodes of a block, which is skipped if nothing in it is selected.
_BLOCK = 128
_BLOCK_WORDS = _BLOCK // 32
#: The least head size that FlexAttention accepts.
_LEAST_CHANNELS = 16
#: With another number of nodes than a multiple of this, FlexAttention on a CPU uses memory that nobody has written, and
#: some rows are wrong or NaN, also without a mask (PyTorch 2.13).
_LANES = 16


def flex_attention(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Run FlexAttention with a block mask made from the graph; compiled at its first use.

    Parameters
    ----------
    q, k, v, graph, bias, scale
        As in `attention.Attention`.
    """
    q, k, v = (t.detach() for t in (q, k, v))  # FlexAttention's backward exists on GPUs only
    value_channels = v.shape[3]
    q, k, v = (torch.nn.functional.pad(t, (0, max(0, _LEAST_CHANNELS - t.shape[3]))) for t in (q, k, v))
    nodes = k.shape[2]
    k, v = pad_nodes(k), pad_nodes(v)
    score = None
    if bias is not None:
        added = torch.nn.functional.pad(bias.detach(), (0, k.shape[2] - nodes))
        added = added if added.dim() == 4 else added.unsqueeze(0)
        windows = added.shape[0]

        def score(value: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return value + added[b % windows, h, i, j]

    result = compiled()(q, k, v, score_mod=score, block_mask=block_mask(graph, k.shape[2]), scale=scale)
    return result[..., :value_channels].masked_fill(~(graph != 0).any(-1, keepdim=True), 0.0)


def pad_nodes(t: Tensor) -> Tensor:
    """Return keys or values with as many nodes as FlexAttention needs; no graph selects the added ones.

    Parameters
    ----------
    t
        [B, H, N, channels].

    Returns
    -------
    Tensor
        [B, H, N rounded up to a multiple of 16, channels], zeros from N on. A graph's bits beyond N are 0, so that
        `block_mask` of the same graph with the new number of nodes leaves them out.
    """
    return torch.nn.functional.pad(t, (0, 0, 0, -t.shape[2] % _LANES))


def block_mask(graph: Tensor, nodes: int) -> flex.BlockMask:
    """Return FlexAttention's block mask for a graph, made from its words without unpacking them.

    Parameters
    ----------
    graph
        int32[B, G, M, ceil(N/32)].
    nodes
        N.
    """
    _, groups, rows, words = graph.shape
    padding = (0, -words % _BLOCK_WORDS, 0, -rows % _BLOCK)
    blocks = torch.nn.functional.pad(graph, padding).unflatten(3, (-1, _BLOCK_WORDS)).unflatten(2, (-1, _BLOCK))
    occupied = (blocks != 0).any(5).any(3)
    indices = occupied.int().argsort(dim=-1, descending=True, stable=True).int()

    def selected(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (graph[b, h if groups > 1 else 0, i, j >> 5] >> (j & 31)) & 1 != 0

    return flex.BlockMask.from_kv_blocks(
        occupied.sum(-1, dtype=torch.int32),
        indices,
        BLOCK_SIZE=_BLOCK,
        mask_mod=selected,
        seq_lengths=(rows, nodes),
        compute_q_blocks=False,  # for the backward only
    )


@functools.cache
def compiled() -> Callable[..., Tensor]:
    """Return FlexAttention compiled; uncompiled, it stores all scores.

    It is compiled for each shape: its code for dynamic shapes does not compile on CPUs with a bias (PyTorch 2.13).
    """
    function: Callable[..., Tensor] = torch.compile(flex.flex_attention, dynamic=False)
    return function
