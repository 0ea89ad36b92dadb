"""Agreement in the choice of neighbours, stage by stage, apart from the arithmetic."""

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

#: Similarities that are computed at once.
SIMILARITIES = 1 << 20

#: Mistakes of a selection that have a name: what it does, as `_slips` tries them.
SLIPS = (
    "keeps one neighbour too few",
    "keeps one neighbour too many",
    "leaves out the k-th neighbour and takes the next",
    "keeps the least similar nodes",
)

#: The share of rows that a slip must explain to be named; the others may be ties.
NAMED = 0.95


@dataclass(frozen=True)
class StageAgreement:
    """How candidate and reference chose the neighbours in one stage.

    The reference used the candidate's graphs in the stages before, so both chose from the same features up to rounding,
    and what differs here is this stage's.

    Attributes
    ----------
    name
        The module.
    rows
        Nodes that chose.
    links_candidate, links_reference
        Neighbours that they chose, summed over all rows.
    common, different
        Links that both have, and links that only one of them has.
    beyond_tolerance
        Of those that differ, how many are no near ties by the reference's features; rows with another number of
        neighbours count as well. More than zero means a bug.
    misjudged
        Links that the candidate chose wrongly by its own features. With `beyond_tolerance` above zero: if this is zero,
        the numbers before the stage differ; if not, the selection itself is wrong.
    misjudged_reference
        Likewise of the reference; looked for only where links are beyond the tolerance.
    slips
        Rows that each of `SLIPS` explains in full, of the side whose selection is wrong; empty where none is.
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
        """Links that both chose over links that either did."""
        either = self.common + self.different
        return self.common / either if either else 1.0

    @property
    def near_ties(self) -> int:
        """Of the links that differ, how many do so harmlessly: their similarities nearly tie."""
        return max(0, self.different - self.beyond_tolerance)

    def __add__(self, other: StageAgreement) -> StageAgreement:
        """The same stage over more inputs."""
        counts = [name for name in self.__dataclass_fields__ if name not in ("name", "slips")]
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in counts}
        sums["slips"] = tuple(a + b for a, b in itertools.zip_longest(self.slips, other.slips, fillvalue=0))
        return replace(self, **sums)

    @property
    def slip(self) -> str | None:
        """What the selection does wrong: the one of `SLIPS` that explains nearly every row, if one does."""
        found = max(zip(self.slips, SLIPS, strict=False), default=(0, None))
        return found[1] if found[0] >= NAMED * self.rows > 0 else None


def agreements(
    candidate: Sequence[Selection],
    reference: Sequence[Selection],
    k: int,
    tolerance: float = TOLERANCES["fp32"].similarity,
) -> list[StageAgreement]:
    """Compare what both chose.

    Parameters
    ----------
    candidate
        Its own choices.
    reference
        The choices that it would have made with the candidate's graphs in all the stages before.
    k
        Neighbours that each node should keep.
    tolerance
        How far the similarities of the two may be apart, see `runtime.metrics.Tolerance`.
    """
    return [_agreement(ours, theirs, k, tolerance) for ours, theirs in zip(candidate, reference, strict=True)]


def _agreement(candidate: Selection, reference: Selection, k: int, tolerance: float) -> StageAgreement:
    """Compare a few windows at a time: similarities of a whole image would not fit into the caches."""
    rows, nodes = candidate.query.shape[2], candidate.key.shape[2]
    step = max(1, SIMILARITIES // (candidate.query.shape[1] * rows * nodes))
    parts = [
        _windows(_cut(candidate, start, step), _cut(reference, start, step), k, tolerance)
        for start in range(0, len(candidate.query), step)
    ]
    return reduce(operator.add, parts)


def _cut(selection: Selection, start: int, step: int) -> Selection:
    values = {name: getattr(selection, name)[start : start + step] for name in ("query", "key", "graph")}
    return replace(selection, **values)


def _windows(candidate: Selection, reference: Selection, k: int, tolerance: float) -> StageAgreement:
    against = _compare(reference, candidate.graph, tolerance)
    misjudged, misjudged_reference = _misjudged(candidate, k), 0
    if against.beyond_tolerance:
        misjudged_reference = _misjudged(reference, k)
    wrong = candidate if misjudged else reference if misjudged_reference else None
    links = _links(candidate.graph), _links(reference.graph)
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
        slips=() if wrong is None else _slips(wrong, k),
    )


def _misjudged(selection: Selection, k: int) -> int:
    """Links that are wrong by the features that they were chosen from."""
    # On the features that it had, of whatever type, the operator accumulates in FP32.
    exact = TOLERANCES["fp32"].similarity
    return _compare(replace(selection, graph=_best(selection, k)), selection.graph, exact).beyond_tolerance


def _slips(selection: Selection, k: int) -> tuple[int, ...]:
    """How many rows are as each of `SLIPS` would have them."""
    right, more = _best(selection, k), _best(selection, k + 1)
    fewer = _best(selection, k - 1) if k > 1 else np.zeros_like(right)
    least = _best(replace(selection, query=-selection.query), k)
    explained = (fewer, more, fewer | (more & ~right), least)
    return tuple(int((selection.graph == graph).all(axis=-1).sum()) for graph in explained)


def _best(selection: Selection, k: int) -> NDArray[np.int32]:
    """The graph of the k most similar nodes by these features."""
    graph: NDArray[np.int32] = key_graph(
        torch.from_numpy(selection.query), torch.from_numpy(selection.key), torch.tensor([k])
    ).numpy()
    return graph


def _compare(reference: Selection, graph: NDArray[np.int32], tolerance: float) -> Agreement:
    query, key, own = (torch.from_numpy(values) for values in (reference.query, reference.key, reference.graph))
    return compare_selections(query, key, own, torch.from_numpy(graph), tolerance)


def _links(graph: NDArray[np.int32]) -> int:
    """Bits that are set."""
    return int(np.unpackbits(np.ascontiguousarray(graph).view(np.uint8)).sum())
