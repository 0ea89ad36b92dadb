"""Key graphs of selections: KeyGraph of a product's top-k, TopKGraph of other scores', PackGraph of any other mask."""

from __future__ import annotations

import operator

import torch
from torch.fx import Graph, Node

from .attentions import Attention
from .graph_builder import GraphBuilder
from .matrices import float32, four, lead_of, same_lead
from .nodes import argument, operator_name
from .operands import Operand
from .selections import Selection

aten = torch.ops.aten


class KeyGraphs:
    """Adds key graphs to a program, each once for all attentions that have it.

    Parameters
    ----------
    graph
        Changed in place.
    exactly_k
        As for `recognize`.
    """

    def __init__(self, graph: Graph, exactly_k: bool = False) -> None:
        self._graph = graph
        self._exactly_k = exactly_k
        self._known: list[tuple[Selection, bool, bool, Node, Node]] = []

    def get(self, attention: Attention) -> tuple[Node, Node]:
        """Add an attention's key graph, unless it was added before.

        Parameters
        ----------
        attention
            Whose selection is computed.

        Returns
        -------
        key_graph : Node
            The operator KeyGraph, TopKGraph or PackGraph.
        bits : Node
            Its result, with the leading dimensions of the attention's scores: int32[..., M, ceil(N/32)].
        """
        build = GraphBuilder(self._graph, attention.result)
        if len(attention.masks) > 1:
            return self._joined(build, attention)
        (mask,) = attention.masks
        key_graph, bits = self._of_selection(mask.selection, attention.ranking, attention.fills_rows)
        for move in mask.moves:
            bits = move.apply(build, bits, 1)
        return key_graph, bits

    def _of_selection(
        self, selection: Selection, ranking: tuple[Operand, Operand] | None, fills_rows: bool
    ) -> tuple[Node, Node]:
        for known, packed, filled, key_graph, bits in self._known:
            if packed is (ranking is None) and filled is fills_rows and known.same_with_ties(selection):
                return key_graph, bits
        if ranking is None and (selection.is_exact or (self._exactly_k and selection.is_top_k)):
            build = GraphBuilder(self._graph, selection.scores.next, selection.scores)
            scores = selection.scores if selection.largest else build(aten.neg.default, selection.scores)
            k = build(aten.full.default, [1], selection.k, dtype=torch.int64)
            key_graph = build(torch.ops.keygraph.top_k_graph.default, four(build, scores), k)
            bits = lead_of(build, key_graph, scores)
        elif ranking is None:
            anchor = selection.origin or selection.scores
            build = GraphBuilder(self._graph, anchor.next, anchor)
            selected = _selected(build, selection)
            key_graph, bits = _packed(build, _with_full_rows(build, selected) if fills_rows else selected)
        else:
            build = GraphBuilder(self._graph, selection.scores.next, selection.scores)
            query, key = same_lead(build, [float32(build, each) for each in ranking])
            k = build(aten.full.default, [1], selection.k, dtype=torch.int64)
            key_graph = build(torch.ops.keygraph.key_graph.default, four(build, query), four(build, key), k)
            bits = lead_of(build, key_graph, query)
        self._known.append((selection, ranking is None, fills_rows, key_graph, bits))
        return key_graph, bits

    def _joined(self, build: GraphBuilder, attention: Attention) -> tuple[Node, Node]:
        """Add the graph of the nodes that several masks select."""
        joined: Node | None = None
        for mask in attention.masks:
            selected = _selected(build, mask.selection)
            for move in mask.moves:
                selected = move.apply(build, selected, 1)
            joined = selected if joined is None else build(aten.logical_and.default, joined, selected)
        assert joined is not None
        return _packed(build, joined)


def _packed(build: GraphBuilder, mask: Node) -> tuple[Node, Node]:
    key_graph = build(torch.ops.keygraph.pack_graph.default, four(build, mask), None)
    return key_graph, lead_of(build, key_graph, mask)


def _with_full_rows(build: GraphBuilder, selected: Node) -> Node:
    """Add a mask that selects all nodes in the rows in which another one selects none."""
    empty = build(aten.logical_not.default, build(aten.any.dim, selected, -1, True))
    return build(aten.logical_or.default, selected, empty)


def _selected(build: GraphBuilder, selection: Selection) -> Node:
    """Add what the module selects, bool[..., M, N], computed as the module does."""
    if selection.others is not None:
        return build(aten.logical_not.default, _selected(build, selection.others))
    scores, origin, largest = selection.scores, selection.origin, selection.largest
    if origin is None:
        best = build(operator.getitem, _unordered(build, selection), 0)
        if largest:
            return build(aten.ge.Tensor, scores, build(aten.amin.default, best, [-1], True))
        return build(aten.le.Tensor, scores, build(aten.amax.default, best, [-1], True))
    if selection.marks is not None:
        return origin if selection.marks else build(aten.logical_not.default, origin)
    if operator_name(argument(origin, 0)) == "topk":
        origin = build(operator.getitem, _unordered(build, selection), 1)
    none = build(aten.zeros_like.default, scores, dtype=torch.bool)
    return build(aten.scatter.value, none, -1, origin, True)


def _unordered(build: GraphBuilder, selection: Selection) -> Node:
    """Add a top-k whose results are in any order: the same nodes in half the time."""
    return build(aten.topk.default, selection.scores, selection.k, -1, selection.largest, False)
