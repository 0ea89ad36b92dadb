"""Compare the selections of two key-graph networks separately from their arithmetic.

Two correct programs select different nodes where similarities nearly tie. So the selections are compared as sets, with
a tolerance at the k-th similarity, and the outputs separately, with the same graphs forced on both programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .graph_bits import count_bits, unpack_graph
from .operators import graph_observer, pack_observer, top_k_observer


@dataclass(frozen=True)
class Agreement:
    """Agreement of two selections of one stage.

    Attributes
    ----------
    jaccard
        Pairs selected by both graphs over pairs selected by either, in all rows together; 0 to 1.
    selected
        Number of pairs in the reference's graph.
    different
        Number of pairs in the reference's graph that the other lacks.
    beyond_tolerance
        Number of pairs in which the graphs differ and whose similarity is further from the row's k-th than the
        tolerance, plus rows that select different numbers of nodes. Above 0 it is a bug, not rounding.
    """

    jaccard: float
    selected: int
    different: int
    beyond_tolerance: int


def compare_selections(query: Tensor, key: Tensor, reference: Tensor, other: Tensor, tolerance: float) -> Agreement:
    """Compare two graphs of the same nodes.

    Parameters
    ----------
    query, key
        [B, G, M, C] and [B, G, N, C]; the inputs of the reference.
    reference, other
        int32[B, G, M, ceil(N/32)].
    tolerance
        Largest difference of two programs' similarities, relative to the row's largest similarity.
    """
    windows = _different(reference, other)
    similarity = query[windows].float() @ key[windows].float().mT
    return _compared(similarity, windows, reference, other, tolerance)


def compare_top_k(scores: Tensor, reference: Tensor, other: Tensor, tolerance: float) -> Agreement:
    """Compare two graphs of the largest scores.

    Parameters
    ----------
    scores
        [B, G, M, N]; the reference's.
    reference, other
        int32[B, G, M, ceil(N/32)].
    tolerance
        Largest difference of two programs' scores, relative to the row's largest score.
    """
    windows = _different(reference, other)
    return _compared(scores[windows].float(), windows, reference, other, tolerance)


def _different(reference: Tensor, other: Tensor) -> Tensor:
    """Return which elements of the batch have different graphs: usually few, and all the rest costs nothing."""
    return (reference != other).flatten(1).any(1).nonzero()[:, 0]


def _compared(scores: Tensor, windows: Tensor, reference: Tensor, other: Tensor, tolerance: float) -> Agreement:
    """Compare graphs of the largest scores, given the elements in which they differ, and the scores of these."""
    ours, theirs = (unpack_graph(graph[windows], scores.shape[3]) for graph in (reference, other))
    kth = scores.masked_fill(~ours, torch.inf).amin(-1, keepdim=True)
    allowed = tolerance * scores.abs().amax(-1, keepdim=True)
    beyond = (ours != theirs) & ((scores - kth).abs() > allowed)
    miscounted = ours.sum(-1) != theirs.sum(-1)
    return _agreement(reference, ours, theirs, int(beyond.count_nonzero() + miscounted.count_nonzero()))


def _agreement(reference: Tensor, ours: Tensor, theirs: Tensor, beyond: int) -> Agreement:
    """Return the agreement with a reference, from both selections where they differ."""
    selected, different = count_bits(reference), int((ours & ~theirs).count_nonzero())
    either = selected + int((theirs & ~ours).count_nonzero())
    return Agreement(
        jaccard=(selected - different) / either if either else 1.0,
        selected=selected,
        different=different,
        beyond_tolerance=beyond,
    )


def compare_packed(scores: Tensor, threshold: Tensor, reference: Tensor, other: Tensor, tolerance: float) -> Agreement:
    """Compare two graphs of `pack_graph`, one of which is from these scores.

    Parameters
    ----------
    scores, threshold
        [B, G, M, N] and [B, G, M, 1]; the inputs of the reference.
    reference, other
        int32[B, G, M, ceil(N/32)].
    tolerance
        Largest difference of two programs' scores, relative to the row's largest score. Rows may select different
        numbers of nodes: a threshold keeps ties.
    """
    windows = _different(reference, other)
    ours, theirs = (unpack_graph(graph[windows], scores.shape[3]) for graph in (reference, other))
    scores, threshold = scores[windows].float(), threshold[windows].float()
    near = (scores - threshold).abs() <= tolerance * scores.abs().amax(-1, keepdim=True)
    return _agreement(reference, ours, theirs, int(((ours != theirs) & ~near).count_nonzero()))


class TooFewGraphsError(ValueError):
    """Operators were called more often than `forced_graphs` has graphs."""


@contextmanager
def forced_graphs(graphs: Sequence[Tensor], tolerance: float, packed: bool = False) -> Iterator[list[Agreement]]:
    """Make the i-th call of `key_graph` in the block return `graphs[i]`, and compare it with the call's own graph.

    With the other program's graphs forced, both programs compute every stage from the same features up to rounding, so
    each comparison concerns that stage's selection alone.

    Parameters
    ----------
    graphs
        int32[B, G, M, ceil(N/32)] each, one per call.
    tolerance
        As in `compare_selections`.
    packed
        Count calls of `top_k_graph` and `pack_graph` too. Those of `top_k_graph` or with a threshold return the given
        graph. A mask without one was decided before, by what is not known here: such a call returns its own graph.

    Yields
    ------
    list[Agreement]
        One comparison for each call so far.

    Raises
    ------
    TooFewGraphsError
        From the call for which no graph is left.
    """
    agreements: list[Agreement] = []
    remaining = iter(graphs)

    def given() -> Tensor:
        graph = next(remaining, None)
        if graph is None:
            raise TooFewGraphsError(f"{len(graphs)} graphs are forced, and the program makes more")
        return graph

    def observe(query: Tensor, key: Tensor, graph: Tensor) -> Tensor:
        forced = given()
        agreements.append(compare_selections(query, key, graph, forced, tolerance))
        return forced

    def observe_packed(mask: Tensor, threshold: Tensor | None, graph: Tensor) -> Tensor:
        forced = given()
        if threshold is None:
            return graph
        agreements.append(compare_packed(mask, threshold, graph, forced, tolerance))
        return forced

    def observe_top_k(scores: Tensor, graph: Tensor) -> Tensor:
        forced = given()
        agreements.append(compare_top_k(scores, graph, forced, tolerance))
        return forced

    token, pack_token = graph_observer.set(observe), pack_observer.set(observe_packed if packed else None)
    top_k_token = top_k_observer.set(observe_top_k if packed else None)
    try:
        yield agreements
    finally:
        graph_observer.reset(token)
        pack_observer.reset(pack_token)
        top_k_observer.reset(top_k_token)


@contextmanager
def recorded_graphs() -> Iterator[list[Tensor]]:
    """Yield a list to which every `key_graph` call inside the block appends its graph."""
    graphs: list[Tensor] = []

    def observe(_query: Tensor, _key: Tensor, graph: Tensor) -> Tensor:
        graphs.append(graph)
        return graph

    token = graph_observer.set(observe)
    try:
        yield graphs
    finally:
        graph_observer.reset(token)
