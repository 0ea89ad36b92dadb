"""Agreement in the choice of neighbours, stage by stage, apart from the arithmetic."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray

from ..plugins.torch import Agreement, compare_selections, key_graph
from ..runtime.graph_probe import Selection
from ..runtime.metrics import TOLERANCES

#: Similarities that are computed at once.
SIMILARITIES = 1 << 20


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
    """

    name: str
    rows: int
    links_candidate: int
    links_reference: int
    common: int
    different: int
    beyond_tolerance: int
    misjudged: int

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
        counts = [name for name in self.__dataclass_fields__ if name != "name"]
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in counts})


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
    own_query, own_key = torch.from_numpy(candidate.query), torch.from_numpy(candidate.key)
    right = key_graph(own_query, own_key, torch.tensor([k])).numpy()
    # On the features that it had, of whatever type, the operator accumulates in FP32.
    exact = TOLERANCES["fp32"].similarity
    misjudged = _compare(replace(candidate, graph=right), candidate.graph, exact).beyond_tolerance
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
    )


def _compare(reference: Selection, graph: NDArray[np.int32], tolerance: float) -> Agreement:
    query, key, own = (torch.from_numpy(values) for values in (reference.query, reference.key, reference.graph))
    return compare_selections(query, key, own, torch.from_numpy(graph), tolerance)


def _links(graph: NDArray[np.int32]) -> int:
    """Bits that are set."""
    return int(np.unpackbits(np.ascontiguousarray(graph).view(np.uint8)).sum())
