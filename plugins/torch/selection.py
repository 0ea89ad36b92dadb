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

from .graph_bits import unpack_graph
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
    return compare_top_k(query.float() @ key.float().mT, reference, other, tolerance)


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
    ours, theirs = unpack_graph(reference, scores.shape[3]), unpack_graph(other, scores.shape[3])
    similarity = scores.float()
    kth = similarity.masked_fill(~ours, torch.inf).amin(-1, keepdim=True)
    allowed = tolerance * similarity.abs().amax(-1, keepdim=True)
    differ = ours != theirs
    beyond = differ & ((similarity - kth).abs() > allowed)
    miscounted = ours.sum(-1) != theirs.sum(-1)
    either = int((ours | theirs).sum())
    return Agreement(
        jaccard=int((ours & theirs).sum()) / either if either else 1.0,
        selected=int(ours.sum()),
        different=int((ours & ~theirs).sum()),
        beyond_tolerance=int(beyond.sum() + miscounted.sum()),
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
    ours, theirs = unpack_graph(reference, scores.shape[3]), unpack_graph(other, scores.shape[3])
    scores, threshold = scores.float(), threshold.float()
    near = (scores - threshold).abs() <= tolerance * scores.abs().amax(-1, keepdim=True)
    either = int((ours | theirs).sum())
    return Agreement(
        jaccard=int((ours & theirs).sum()) / either if either else 1.0,
        selected=int(ours.sum()),
        different=int((ours & ~theirs).sum()),
        beyond_tolerance=int(((ours != theirs) & ~near).sum()),
    )


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
