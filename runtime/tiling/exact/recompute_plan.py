"""Which features are kept between two sweeps over an image, and which are computed again.

Every value that the next sweeps need is either stored, which costs its bytes, or computed anew from others, which costs
operations, and those others are then needed too. The cheapest choice is a minimum cut (the project selection problem);
networks of flow are small here, since they span one sweep.
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
        Its cost; infinite where that cannot be.
    computing
        The cost of computing it again from `sources`; infinite where that cannot be.
    sources
        Values that this takes.
    """

    storing: float
    computing: float
    sources: tuple[str, ...]


def choose(choices: Mapping[str, Choice], needed: Collection[str]) -> list[str]:
    """Choose what to store.

    Parameters
    ----------
    choices
        By name.
    needed
        What must be there, stored or computed.

    Returns
    -------
    The names to store, in the order of `choices`, such that the sum of all costs is least.
    """
    # The source's side of the cut are propositions that hold: `(name, "needed")` and `(name, "computed")`.
    network = Network()
    for name, choice in choices.items():
        network.add((name, "needed"), (name, "computed"), choice.storing)
        network.add((name, "computed"), "sink", choice.computing)
        for source in choice.sources:
            network.add((name, "computed"), (source, "needed"), math.inf)
    for name in needed:
        network.add("source", (name, "needed"), math.inf)
    held = network.source_side("source", "sink")
    return [name for name in choices if (name, "needed") in held and (name, "computed") not in held]


class Network:
    """A flow network with a minimum cut by shortest augmenting paths (Edmonds and Karp, 1972)."""

    def __init__(self) -> None:
        self._rest: dict[object, dict[object, float]] = {}

    def add(self, start: object, end: object, capacity: float) -> None:
        """Add an edge; edges between the same two nodes add up."""
        self._rest.setdefault(start, {}).setdefault(end, 0.0)
        self._rest.setdefault(end, {}).setdefault(start, 0.0)
        self._rest[start][end] += capacity

    def source_side(self, source: object, sink: object) -> set[object]:
        """The nodes on the source's side of the smallest minimum cut.

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
        """Nodes that can be reached from the source, and from where each was."""
        before: dict[object, object] = {source: source}
        queue = deque([source])
        while queue:
            start = queue.popleft()
            for end, capacity in self._rest.get(start, {}).items():
                if capacity > 1e-9 and end not in before:
                    before[end] = start
                    queue.append(end)
        return before
