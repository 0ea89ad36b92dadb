"""Choose which feature maps are stored between two sweeps, and which are recomputed.

Every value that later sweeps need is either stored, which costs bytes, or recomputed from other values, which costs
operations; these values are then needed, too. The cheapest choice is a minimum cut (the project selection problem). The
flow networks are small, because they span one sweep.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A value that could be stored.

    Attributes
    ----------
    storing
        Cost of storing it; infinite where that is not possible.
    computing
        Cost of computing it again from `sources`; infinite where that is not possible.
    sources
        Values that recomputing it needs.
    """

    storing: float
    computing: float
    sources: tuple[str, ...]


def choose(choices: Mapping[str, Choice], needed: Collection[str]) -> list[str]:
    """Choose what to store.

    Parameters
    ----------
    choices
        The values that could be stored, by name.
    needed
        Names of the values that must be stored or computed.

    Returns
    -------
    list[str]
        Names of the values to store, in the order of `choices`, with the least sum of all costs.

    Raises
    ------
    ValueError
        No choice has a finite cost.
    """
    # On the source's side of the cut are the statements that hold: `(name, "needed")` and `(name, "computed")`.
    network = FlowNetwork()
    for name, choice in choices.items():
        network.add((name, "needed"), (name, "computed"), choice.storing)
        network.add((name, "computed"), "sink", choice.computing)
        for source in choice.sources:
            network.add((name, "computed"), (source, "needed"), math.inf)
    for name in needed:
        network.add("source", (name, "needed"), math.inf)
    held = network.source_side("source", "sink")
    return [name for name in choices if (name, "needed") in held and (name, "computed") not in held]


class FlowNetwork:
    """A flow network with a minimum cut by shortest augmenting paths (Edmonds and Karp, 1972)."""

    def __init__(self) -> None:
        self._rest: dict[object, dict[object, float]] = {}

    def add(self, start: object, end: object, capacity: float) -> None:
        """Add an edge; the capacities of edges between the same nodes add up.

        Parameters
        ----------
        start, end
            The nodes.
        capacity
            Capacity of the edge, may be infinite.
        """
        self._rest.setdefault(start, {}).setdefault(end, 0.0)
        self._rest.setdefault(end, {}).setdefault(start, 0.0)
        self._rest[start][end] += capacity

    def source_side(self, source: object, sink: object) -> set[object]:
        """Return the nodes on the source's side of the smallest minimum cut.

        Raises
        ------
        ValueError
            Every cut is infinite.
        """
        while True:
            before = self._search(source)
            if sink not in before:
                return set(before)
            path: list[tuple[object, object]] = []
            node = sink
            while node != source:
                path.append((before[node], node))
                node = before[node]
            flow = min(self._rest[start][end] for start, end in path)
            if flow == math.inf:
                raise ValueError("no finite cut")
            for start, end in path:
                self._rest[start][end] -= flow
                self._rest[end][start] += flow

    def _search(self, source: object) -> dict[object, object]:
        """Return the nodes reachable from the source, and the predecessor of each."""
        before: dict[object, object] = {source: source}
        queue = deque([source])
        while queue:
            start = queue.popleft()
            for end, capacity in self._rest.get(start, {}).items():
                if capacity > 1e-9 and end not in before:
                    before[end] = start
                    queue.append(end)
        return before
