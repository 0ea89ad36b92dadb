"""Put KeyGraphAttention, on a key graph, in the place of an attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from ...plugins import torch as _operators  # noqa: F401 - registers keygraph::* with PyTorch
from .attentions import Attention
from .graph_builder import GraphBuilder
from .key_graphs import KeyGraphs
from .layouts import heads_first, heads_last
from .matrices import float32, four, lead_of, same_lead, three_or_four
from .nodes import Refused, equal, equal_sizes, rank, sizes, tensor

aten = torch.ops.aten

#: Most channels of a head for each node. Where there are more, the product q k^T takes most of the time, and a dense
#: attention to its own best scores computes it once, not twice. Measured on one CPU thread, with k a quarter and three
#: quarters of 32, 64 and 256 nodes: 1.3 to 3.6 times as fast with 2 channels for each node, 0.7 to 1.9 times with 4,
#: and half as fast with 32.
CHANNELS_PER_NODE = 2


@dataclass(frozen=True)
class Replacement:
    """The operators that were added for an attention.

    Attributes
    ----------
    attention
        What they replace.
    key_graph
        The node of the operator KeyGraph, TopKGraph or PackGraph, which attentions may share.
    operator
        The node of the operator KeyGraphAttention.
    result
        A tensor with the shape and type of `attention.result`.
    """

    attention: Attention
    key_graph: Node
    operator: Node
    result: Node


def add_replacement(graph: Graph, attention: Attention, graphs: KeyGraphs) -> Replacement:
    """Add the operators before an attention's result, which keeps its users.

    Parameters
    ----------
    graph
        Changed in place.
    attention
        From `find_attentions` on the same graph.
    graphs
        Key graphs are shared through this.

    Returns
    -------
    Replacement

    Raises
    ------
    Refused
        The operators cannot express it, or would be slower. Nodes that were added until then have no users.
    """
    build = GraphBuilder(graph, attention.result)
    scores = attention.scores
    q, k, v = (float32(build, each) for each in (scores.left, scores.right, attention.values))
    _check_cost(sizes(q)[-1], sizes(k)[-2])
    q, k = same_lead(build, [q, k])
    if scores.outer:
        v = build(aten.reshape.default, v, [*build.sizes(q)[:-2], *build.sizes(v)[-2:]])
    q, k, v = same_lead(build, [q, k, v])
    # Heads are a number: what depends on the image's size are windows.
    headless = rank(q) > 3 and not isinstance(sizes(q)[-3], int)
    if headless:
        q, k, v = (_with_one_head(build, each) for each in (q, k, v))
    lead = sizes(q)[:-2]
    key_graph, bits = graphs.get(attention)
    if not equal(sizes(attention.masks[0].selection.scores)[-1], sizes(k)[-2]):
        raise Refused("the mask's nodes are not those of the scores")
    bits = _aligned(build, _with_one_head(build, bits) if headless else bits, q)
    bias = _bias(build, attention, q, k, headless)
    heads = lead[-1] if len(lead) > 1 else 1
    arguments = [heads_last(build, three_or_four(build, each)) for each in (q, k, v)]
    operator = build(torch.ops.keygraph.key_graph_attention.default, *arguments, bits, bias, float(scores.scale), heads)
    result = heads_first(build, operator, heads, build.size(v, rank(v) - 1)) if len(lead) > 1 else operator
    if len(lead) != 1:
        result = lead_of(build, result if len(lead) > 1 else build(aten.unsqueeze.default, result, 1), q)
    if headless:
        result = build(aten.squeeze.dim, result, -3)
    for move in scores.outer:
        result = move.apply(build, result, 2)
    for step in attention.finish:
        result = step.apply(build, result)
    wanted = tensor(attention.result)
    if tensor(result).dtype != wanted.dtype:
        result = build(aten.to.dtype, result, wanted.dtype)
    if not equal_sizes(sizes(result), list(wanted.shape)):
        raise Refused(f"its shape {list(wanted.shape)} is not that of the operators, {sizes(result)}")
    return Replacement(attention, key_graph, operator, result)


def _check_cost(channels: Any, nodes: Any) -> None:
    """Refuse an attention that is faster dense: with many more channels than nodes, as between channels."""
    known = isinstance(channels, int)
    if isinstance(nodes, int) and (not known or channels > CHANNELS_PER_NODE * nodes):
        count = str(channels) if known else "as many channels as the image has pixels"
        raise Refused(f"it is faster as it is: {nodes} nodes of {count}" + (" channels" if known else ""))


def _with_one_head(build: GraphBuilder, node: Node) -> Node:
    """Return [..., M, N] as [..., 1, M, N], and [M, N] as it is."""
    return build(aten.unsqueeze.default, node, -3) if rank(node) > 2 else node


def _aligned(build: GraphBuilder, bits: Node, q: Node) -> Node:
    """Return bits [..., M, words] as [B, G, M, words], with G = 1 or H, for q [..., M, D]."""
    if rank(bits) > rank(q):
        raise Refused("the mask has more dimensions than the scores")
    while rank(bits) < rank(q):
        bits = build(aten.unsqueeze.default, bits, 0)
    if not equal(sizes(bits)[-2], sizes(q)[-2]):
        if not equal(sizes(bits)[-2], 1):
            raise Refused("the mask's rows are not those of the scores")
        bits = build(aten.expand.default, bits, [*[-1] * (rank(bits) - 2), build.size(q, rank(q) - 2), -1])
    lead, own = sizes(q)[:-2], sizes(bits)[:-2]
    if len(lead) > 1:
        keeps_heads = not equal(own[-1], 1) or equal(lead[-1], 1)
        if not equal_sizes(own[:-1], lead[:-1]):
            wanted = build.sizes(q)[:-3]
            bits = build(aten.expand.default, bits, [*wanted, -1, -1, -1])
        if keeps_heads and not equal(own[-1], lead[-1]):
            raise Refused("the mask's heads are not those of the scores")
    elif not equal_sizes(own, lead):
        bits = build(aten.expand.default, bits, [*build.sizes(q)[:-2], -1, -1])
    if len(lead) == 1:
        return build(aten.unsqueeze.default, bits, 1)
    return four(build, bits)


def _bias(build: GraphBuilder, attention: Attention, q: Node, k: Node, headless: bool) -> Node | None:
    """Return the sum of the biases as [H, M, N] or [W, H, M, N]; None without any."""
    total: Node | None = None
    heads = sizes(q)[-3] if rank(q) > 3 else 1
    for each in attention.scores.biases:
        node = float32(build, each.operand)
        if headless:
            node = _with_one_head(build, node)
        while rank(node) < 3:
            node = build(aten.unsqueeze.default, node, 0)
        while rank(node) > 3 and not each.windows:
            if not equal(sizes(node)[0], 1):
                raise Refused("its bias has more dimensions than the scores")
            node = build(aten.squeeze.dim, node, 0)
        if not equal_sizes(sizes(node)[-3:], [heads, sizes(q)[-2], sizes(k)[-2]]):
            count = build.size(q, rank(q) - 3) if rank(q) > 3 else 1
            last = [count, build.size(q, rank(q) - 2), build.size(k, rank(k) - 2)]
            if rank(q) == 3 and not equal(sizes(node)[-3], 1):
                raise Refused("its bias has other heads than the scores")
            node = build(aten.expand.default, node, [-1, *last] if each.windows else last)
        if each.scale != 1:
            node = build(aten.mul.Scalar, node, each.scale)
        total = node if total is None else build(aten.add.Tensor, total, node)
    return total
