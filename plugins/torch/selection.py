"""Comparing the discrete part of a key-graph network apart from its arithmetic.

Two correct programs choose different neighbours where similarities nearly tie. So the selections are compared as sets,
with a tolerance at the k-th similarity, and the numbers separately, with the same graphs forced on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .graph_bits import unpack_graph
from .operators import graph_observer


@dataclass(frozen=True)
class Agreement:
    """How far two selections of one stage agree.

    Attributes
    ----------
    jaccard
        Selected by both over selected by either, summed over all rows.
    selected
        Links in the reference's graph.
    different
        Links in the reference's graph that the other lacks.
    beyond_tolerance
        Links in which the two differ though their similarity is further from the row's k-th than the tolerance; or rows
        with different numbers of neighbours. More than zero means a bug, not rounding.
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
        [B, G, M, C] and [B, G, N, C], as the reference had them.
    reference, other
        int32[B, G, M, ceil(N/32)].
    tolerance
        How far two programs' similarities may be apart, as a share of the row's largest similarity.
    """
    ours, theirs = unpack_graph(reference, key.shape[2]), unpack_graph(other, key.shape[2])
    similarity = query.float() @ key.float().mT
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


@contextmanager
def forced_graphs(graphs: Sequence[Tensor], tolerance: float) -> Iterator[list[Agreement]]:
    """Make the i-th call of `key_graph` in the block return `graphs[i]`, and compare that with its own choice.

    Yields the list that the comparisons are added to. With the other program's graphs forced, both compute from the
    same features up to rounding, stage after stage, so each comparison is of that stage's selection alone.
    """
    agreements: list[Agreement] = []
    remaining = iter(graphs)

    def observe(query: Tensor, key: Tensor, graph: Tensor) -> Tensor:
        forced = next(remaining)
        agreements.append(compare_selections(query, key, graph, forced, tolerance))
        return forced

    token = graph_observer.set(observe)
    try:
        yield agreements
    finally:
        graph_observer.reset(token)


@contextmanager
def recorded_graphs() -> Iterator[list[Tensor]]:
    """Yields the list that every `key_graph` call inside the block adds its graph to."""
    graphs: list[Tensor] = []

    def observe(_query: Tensor, _key: Tensor, graph: Tensor) -> Tensor:
        graphs.append(graph)
        return graph

    token = graph_observer.set(observe)
    try:
        yield graphs
    finally:
        graph_observer.reset(token)
