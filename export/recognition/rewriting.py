"""Put the operators KeyGraph and KeyGraphAttention in the place of an attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from ...plugins import torch as _operators  # noqa: F401 - registers keygraph::* with PyTorch
from .attentions import Attention
from .graph_builder import GraphBuilder
from .layouts import heads_first, heads_last
from .nodes import Refused, equal, equal_sizes, rank, sizes, tensor
from .operands import Operand
from .selections import Selection

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
        The node of the operator KeyGraph, which attentions may share.
    operator
        The node of the operator KeyGraphAttention.
    result
        A tensor with the shape and type of `attention.result`.
    """

    attention: Attention
    key_graph: Node
    operator: Node
    result: Node


@dataclass(frozen=True)
class KeyGraphs:
    """The key graphs that were added so far, by what they select."""

    known: list[tuple[Selection, Node, Node]]

    def get(self, graph: Graph, attention: Attention) -> tuple[Node, Node]:
        """Add KeyGraph after a selection's scores, unless it was added before.

        Parameters
        ----------
        graph
            Changed in place.
        attention
            Whose selection is computed.

        Returns
        -------
        key_graph : Node
            The operator.
        bits : Node
            Its result, with the leading dimensions of the scores: int32[..., M, ceil(N/32)].
        """
        for selection, key_graph, bits in self.known:
            if selection.same_with_ties(attention.selection):
                return key_graph, bits
        scores = attention.selection.scores
        build = GraphBuilder(graph, scores.next, scores)
        query, key = _float32(build, attention.query), _float32(build, attention.key)
        query, key = _same_lead(build, [query, key])
        k = build(aten.full.default, [1], attention.selection.k, dtype=torch.int64)
        key_graph = build(torch.ops.keygraph.key_graph.default, _four(build, query), _four(build, key), k)
        bits = _lead_of(build, key_graph, query)
        self.known.append((attention.selection, key_graph, bits))
        return key_graph, bits


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
    q, k, v = (_float32(build, each) for each in (scores.left, scores.right, attention.values))
    _check_cost(sizes(q)[-1], sizes(k)[-2])
    q, k = _same_lead(build, [q, k])
    if scores.outer:
        v = build(aten.reshape.default, v, [*build.sizes(q)[:-2], *build.sizes(v)[-2:]])
    q, k, v = _same_lead(build, [q, k, v])
    lead = sizes(q)[:-2]
    key_graph, bits = graphs.get(graph, attention)
    for move in attention.moves:
        bits = move.apply(build, bits, 1)
    bits = _aligned(build, bits, q)
    bias = _bias(build, attention, q, k)
    heads = lead[-1] if len(lead) > 1 else 1
    if not isinstance(heads, int):
        raise Refused("its number of heads depends on the image's size")
    arguments = [heads_last(build, _three_or_four(build, each)) for each in (q, k, v)]
    operator = build(torch.ops.keygraph.key_graph_attention.default, *arguments, bits, bias, float(scores.scale), heads)
    result = heads_first(build, operator, heads, build.size(v, rank(v) - 1)) if len(lead) > 1 else operator
    if len(lead) != 1:
        result = _lead_of(build, result if len(lead) > 1 else build(aten.unsqueeze.default, result, 1), q)
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


def _float32(build: GraphBuilder, operand: Operand) -> Node:
    """Build an operand in float32; where the module rounds it to half precision, after that."""
    node = operand.build(build)
    return node if tensor(node).dtype == torch.float32 else build(aten.to.dtype, node, torch.float32)


def _same_lead(build: GraphBuilder, matrices: Sequence[Node]) -> list[Node]:
    """Expand matrices to the same leading dimensions, as matmul does."""
    count = max(rank(node) for node in matrices) - 2
    padded = []
    for node in matrices:
        while rank(node) < count + 2:
            node = build(aten.unsqueeze.default, node, 0)
        padded.append(node)
    target: list[Any] = []
    for dim in range(count):
        for node in padded:
            size = sizes(node)[dim]
            if not equal(size, 1):
                break
        target.append((node, dim))
    results = []
    for node in padded:
        if all(equal(sizes(node)[dim], sizes(source)[dim]) for dim, (source, _) in enumerate(target)):
            results.append(node)
            continue
        lead = [build.size(source, dim) for source, dim in target]
        results.append(build(aten.expand.default, node, [*lead, -1, -1]))
    return results


def _three_or_four(build: GraphBuilder, node: Node) -> Node:
    """Return [..., rows, columns] as [B, H, rows, columns], or as [B, rows, columns] where there is one head."""
    return node if rank(node) == 3 else _four(build, node) if rank(node) > 3 else build(aten.unsqueeze.default, node, 0)


def _four(build: GraphBuilder, node: Node) -> Node:
    """Return [..., rows, columns] as [B, H, rows, columns]; three dimensions have one head."""
    while rank(node) < 4:
        node = build(aten.unsqueeze.default, node, 0 if rank(node) == 2 else 1)
    return node if rank(node) == 4 else build(aten.flatten.using_ints, node, 0, rank(node) - 4)


def _lead_of(build: GraphBuilder, node: Node, like: Node) -> Node:
    """Undo `_four`: return [B, H, rows, columns] with the leading dimensions of another matrix."""
    count = rank(like)
    if count == 4:
        return node
    if count == 3:
        return build(aten.squeeze.dim, node, 1)
    if count == 2:
        return build(aten.squeeze.dims, node, [0, 1])
    return build(aten.reshape.default, node, [*build.sizes(like)[:-2], *build.sizes(node)[-2:]])


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
    return _four(build, bits)


def _bias(build: GraphBuilder, attention: Attention, q: Node, k: Node) -> Node | None:
    """Return the sum of the biases as [H, M, N]; None without any."""
    total: Node | None = None
    heads = sizes(q)[-3] if rank(q) > 3 else 1
    for each in attention.scores.biases:
        node = _float32(build, each.operand)
        while rank(node) < 3:
            node = build(aten.unsqueeze.default, node, 0)
        while rank(node) > 3:
            if not equal(sizes(node)[0], 1):
                raise Refused("its bias is not the same for all windows")
            node = build(aten.squeeze.dim, node, 0)
        if rank(q) == 3 and not equal(sizes(node)[0], 1):
            raise Refused("its bias is not the same for all windows")
        if not equal_sizes(sizes(node), [heads, sizes(q)[-2], sizes(k)[-2]]):
            count = build.size(q, rank(q) - 3) if rank(q) > 3 else 1
            node = build(aten.expand.default, node, [count, build.size(q, rank(q) - 2), build.size(k, rank(k) - 2)])
        if each.scale != 1:
            node = build(aten.mul.Scalar, node, each.scale)
        total = node if total is None else build(aten.add.Tensor, total, node)
    return total
