"""Agreement in the selection of neighbours, stage by stage, measured apart from the arithmetic."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...instrumentation.key_graphs import Selection
from ...instrumentation.metrics import TOLERANCES
from ...plugins.torch import Agreement, compare_selections, key_graph

#: Similarities that are computed at once; bounds memory.
SIMILARITIES = 1 << 20

#: Known faults of a selection, in the order in which `_count_slips` tries them.
SLIPS = (
    "keeps one neighbour too few",
    "keeps one neighbour too many",
    "leaves out the k-th neighbour and takes the next",
    "keeps the least similar nodes",
)

#: Fraction of rows that a fault must explain to be named; the others may be ties.
_EXPLAINED_ROWS = 0.95


@dataclass(frozen=True)
class StageAgreement:
    """Agreement of candidate and reference in one stage's selection of neighbours.

    In the stages before, the reference used the candidate's graphs. So both selected from the same features up to
    rounding, and a difference arises in this stage.

    Attributes
    ----------
    name
        Name of the module.
    rows
        Number of nodes that select neighbours.
    links_candidate, links_reference
        Number of selected neighbours, summed over all rows.
    common, different
        Number of links that both have, and of links that only one of them has.
    beyond_tolerance
        Number of differing links that are not near ties by the reference's features; rows with a different number of
        neighbours count as well. More than zero means a bug.
    misjudged
        Number of links that the candidate selects wrongly by its own features. With `beyond_tolerance` above zero: if
        this is zero, the features differ before the stage; if not, the selection itself is wrong.
    misjudged_reference
        Likewise for the reference; counted only where links are beyond the tolerance.
    slips
        Number of rows that each of `SLIPS` explains completely, for the side whose selection is wrong; empty where
        neither is.
    """

    name: str
    rows: int
    links_candidate: int
    links_reference: int
    common: int
    different: int
    beyond_tolerance: int
    misjudged: int
    misjudged_reference: int = 0
    slips: tuple[int, ...] = ()

    @property
    def jaccard(self) -> float:
        """Links that both selected over links that either selected."""
        either = self.common + self.different
        return self.common / either if either else 1.0

    @property
    def near_ties(self) -> int:
        """Number of differing links that are harmless: their similarities nearly tie."""
        return max(0, self.different - self.beyond_tolerance)

    def __add__(self, other: StageAgreement) -> StageAgreement:
        """Sum over the same stage on more inputs."""
        counts = [name for name in self.__dataclass_fields__ if name not in ("name", "slips")]
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in counts}
        sums["slips"] = tuple(a + b for a, b in itertools.zip_longest(self.slips, other.slips, fillvalue=0))
        return replace(self, **sums)

    @property
    def slip(self) -> str | None:
        """The fault of `SLIPS` that explains nearly every row; None if there is none."""
        found = max(zip(self.slips, SLIPS, strict=False), default=(0, None))
        return found[1] if found[0] >= _EXPLAINED_ROWS * self.rows > 0 else None


def agreements(
    candidate: Sequence[Selection],
    reference: Sequence[Selection],
    k: int,
    tolerance: float = TOLERANCES["fp32"].similarity,
) -> list[StageAgreement]:
    """Compare the selections of both sides, stage by stage.

    Parameters
    ----------
    candidate
        The candidate's selections.
    reference
        The reference's selections when the candidate's graphs are used in all stages before.
    k
        Number of neighbours that each node should keep.
    tolerance
        Relative tolerance of similarities, see `instrumentation.metrics.Tolerance`.
    """
    return [_agreement(ours, theirs, k, tolerance) for ours, theirs in zip(candidate, reference, strict=True)]


def _agreement(candidate: Selection, reference: Selection, k: int, tolerance: float) -> StageAgreement:
    """Compare a few windows at a time: the similarities of a whole image would exceed the caches."""
    rows, nodes = candidate.query.shape[2], candidate.key.shape[2]
    step = max(1, SIMILARITIES // (candidate.query.shape[1] * rows * nodes))
    parts = [
        _compare_windows(_slice(candidate, start, step), _slice(reference, start, step), k, tolerance)
        for start in range(0, len(candidate.query), step)
    ]
    return reduce(operator.add, parts)


def _slice(selection: Selection, start: int, step: int) -> Selection:
    values = {name: getattr(selection, name)[start : start + step] for name in ("query", "key", "graph")}
    return replace(selection, **values)


def _compare_windows(candidate: Selection, reference: Selection, k: int, tolerance: float) -> StageAgreement:
    against = _compare(reference, candidate.graph, tolerance)
    misjudged, misjudged_reference = _count_misjudged(candidate, k), 0
    if against.beyond_tolerance:
        misjudged_reference = _count_misjudged(reference, k)
    wrong = candidate if misjudged else reference if misjudged_reference else None
    links = _count_links(candidate.graph), _count_links(reference.graph)
    common = against.selected - against.different
    return StageAgreement(
        name=candidate.name,
        rows=candidate.graph.size // candidate.graph.shape[-1],
        links_candidate=links[0],
        links_reference=links[1],
        common=common,
        different=sum(links) - 2 * common,
        beyond_tolerance=against.beyond_tolerance,
        misjudged=misjudged,
        misjudged_reference=misjudged_reference,
        slips=() if wrong is None else _count_slips(wrong, k),
    )


def _count_misjudged(selection: Selection, k: int) -> int:
    """Count the links that are wrong by the features from which they were selected."""
    # The operator accumulates in FP32, whatever the type of its inputs.
    exact = TOLERANCES["fp32"].similarity
    return _compare(replace(selection, graph=_exact_graph(selection, k)), selection.graph, exact).beyond_tolerance


def _count_slips(selection: Selection, k: int) -> tuple[int, ...]:
    """Count the rows that look as each of `SLIPS` would make them."""
    right, more = _exact_graph(selection, k), _exact_graph(selection, k + 1)
    fewer = _exact_graph(selection, k - 1) if k > 1 else np.zeros_like(right)
    least = _exact_graph(replace(selection, query=-selection.query), k)
    explained = (fewer, more, fewer | (more & ~right), least)
    return tuple(int((selection.graph == graph).all(axis=-1).sum()) for graph in explained)


def _exact_graph(selection: Selection, k: int) -> NDArray[np.int32]:
    """Compute the graph of the k most similar nodes by the selection's features."""
    graph: NDArray[np.int32] = key_graph(
        torch.from_numpy(selection.query), torch.from_numpy(selection.key), torch.tensor([k])
    ).numpy()
    return graph


def _compare(reference: Selection, graph: NDArray[np.int32], tolerance: float) -> Agreement:
    query, key, own = (torch.from_numpy(values) for values in (reference.query, reference.key, reference.graph))
    return compare_selections(query, key, own, torch.from_numpy(graph), tolerance)


def _count_links(graph: NDArray[np.int32]) -> int:
    """Count the bits that are set."""
    return int(np.unpackbits(np.ascontiguousarray(graph).view(np.uint8)).sum())
