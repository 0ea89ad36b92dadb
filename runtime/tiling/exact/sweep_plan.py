"""Sweeps: how often the tiles of an image are gone over, what each sweep reads, computes, sums up and stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from .locality import NO_REACH, Locality, Reach, Statistic, attribute
from .recompute_plan import Choice, choose
from .shape_inference import Facts
from .spatial_layout import NotLocalError, is_map, numbers, scales

if TYPE_CHECKING:
    from onnx import NodeProto

#: What a byte that is written and read back costs in multiply-adds. About 1 GB/s of disk both ways against 100 billion
#: multiply-adds/s; a GPU would compute more and store less, but features then are what limits it.
BYTE_COST = 100.0

#: What an element of anything that is no product costs in multiply-adds: it is memory that counts there.
ELEMENT_COST = 8.0


@dataclass(frozen=True)
class Feature:
    """A map that is kept for all pixels.

    Attributes
    ----------
    name
        The value.
    rows, columns
        Of the map per row and column of the image.
    channels
        Elements for each of its pixels.
    dtype
        Of an element.
    """

    name: str
    rows: Fraction
    columns: Fraction
    channels: int
    dtype: np.dtype

    @property
    def bytes_per_pixel(self) -> float:
        """Bytes per pixel of the image."""
        return float(self.rows * self.columns * self.channels * self.dtype.itemsize)


@dataclass(frozen=True)
class Sweep:
    """One time over all tiles.

    Attributes
    ----------
    reads
        Features that it takes.
    stores
        Features that it computes and that later sweeps, or the caller, take.
    statistics
        That it sums up.
    known
        Names of the statistics of earlier sweeps that it takes.
    nodes
        That it computes.
    unit
        Tiles begin and end at multiples of so many pixels.
    halo
        Pixels by which tiles must overlap on every side, a multiple of `unit`.
    finest
        The largest rows or columns per row or column of the image that any of its maps has.
    weight
        Bytes of its largest map per pixel of the image.
    """

    reads: tuple[Feature, ...]
    stores: tuple[Feature, ...]
    statistics: tuple[Statistic, ...]
    known: tuple[str, ...]
    nodes: tuple[NodeProto, ...]
    unit: int
    halo: int
    finest: Fraction
    weight: float


@dataclass(frozen=True)
class SweepPlan:
    """All sweeps of a network.

    Attributes
    ----------
    locality
        The network.
    inputs
        The images that go in.
    output
        The restored image.
    sweeps
        In order; the last one stores the output.
    bytes_per_pixel
        Bytes of features on disk per pixel of the image at the fullest time, without the images that go in and the
        restored one.
    """

    locality: Locality
    inputs: tuple[Feature, ...]
    output: Feature
    sweeps: tuple[Sweep, ...]
    bytes_per_pixel: float

    def stretch(self, sweep: Sweep) -> float:
        """How much longer a tile's sides may be in a sweep over coarse maps.

        As much as they are coarser; but their channels are more, so no longer than for the memory of the largest maps.
        """
        heaviest = max(one.weight for one in self.sweeps)
        return min(1 / float(sweep.finest), math.sqrt(heaviest / sweep.weight))


def plan(locality: Locality, inputs: Sequence[str], output: str) -> SweepPlan:
    """Divide a network into sweeps.

    A statistic ends a sweep: what depends on it has to wait for all tiles. Between two sweeps features are stored or
    computed again, whichever is cheaper; see `stored`.

    Parameters
    ----------
    locality
        The network.
    inputs, output
        Names of the images that go in, and of the restored one.

    Raises
    ------
    NotLocalError
        Something that later sweeps need can neither be stored nor computed again.
    """
    makers = {name: node for node in locality.nodes for name in node.output if name}
    last = locality.phases[output]
    kept: list[str] = list(inputs)
    sweeps, fullest = [], 0.0
    for phase in range(last + 1):
        if phase == last:
            stored = [output]
        else:
            after = _stored(locality, makers, kept, phase)
            stored = [name for name in after if name not in kept]
        sweep = _sweep(locality, makers, kept, stored, phase)
        sweeps.append(sweep)
        held = {name for name in (*kept, *stored) if name not in inputs and name != output}
        fullest = max(fullest, sum(_feature(locality, name).bytes_per_pixel for name in held))
        kept = after if phase < last else []
    features = tuple(_feature(locality, name) for name in inputs)
    return SweepPlan(locality, features, _feature(locality, output), tuple(sweeps), fullest)


def _stored(locality: Locality, makers: Mapping[str, NodeProto], kept: Sequence[str], phase: int) -> list[str]:
    """What must be there when the statistics of this phase are known."""
    choices = {name: Choice(0.0, math.inf, ()) for name in kept}
    for node in locality.nodes:
        sources = tuple(locality.maps_of(node))
        for name in filter(None, node.output):
            there = locality.spatial(name) and name not in locality.bins and locality.phases[name] <= phase
            if there and name not in choices and all(source in choices for source in sources):
                storing = (
                    BYTE_COST * _feature(locality, name).bytes_per_pixel if _storable(locality, name) else math.inf
                )
                choices[name] = Choice(storing, _operations(locality.facts, node), sources)
    needed = {
        source
        for node in locality.nodes
        if locality.phases[node.output[0]] > phase and not _counted(locality, node.output[0], phase)
        for source in _sources(locality, node)
        if locality.phases.get(source, 0) <= phase
    }
    lacking = needed - set(choices)
    if lacking:
        raise NotLocalError(f"{min(lacking)} is needed after it can be computed")
    try:
        return choose(choices, needed)
    except ValueError:
        raise NotLocalError(
            f"what comes after the statistics of sweep {phase + 1} needs more than can be stored"
        ) from None


def _counted(locality: Locality, name: str, phase: int) -> bool:
    """Whether a value is a statistic that is known after this phase."""
    return name in locality.statistics and locality.statistics[name].phase <= phase


def _sources(locality: Locality, node: NodeProto) -> list[str]:
    """The maps that a node reads; of rectangles, the map that they were cut out of."""
    found = (locality.bins[name].source if name in locality.bins else name for name in locality.maps_of(node))
    return list(dict.fromkeys(found))


def _sweep(
    locality: Locality, makers: Mapping[str, NodeProto], kept: Sequence[str], stored: Sequence[str], phase: int
) -> Sweep:
    statistics = tuple(s for s in locality.statistics.values() if s.phase == phase)
    computed, reads, known = _needed(locality, makers, kept, [*stored, *(s.name for s in statistics)], statistics)
    nodes = tuple(node for node in locality.nodes if node.output[0] in computed)
    reach: dict[str, Reach] = {}
    for node in reversed(nodes):
        if node.output[0] in locality.bins:
            continue
        wanted = NO_REACH
        for name in filter(None, node.output):
            wanted = _wider(wanted, reach.get(name, NO_REACH))
        widen = locality.widen.get(node.output[0])
        for source in _sources(locality, node):
            reach[source] = _wider(reach.get(source, NO_REACH), widen(wanted) if widen else wanted)
    maps = [n for n in {*reach, *stored} if is_map(locality.layouts[n])]
    unit = math.lcm(*(scale.denominator for name in maps for scale in scales(locality.layouts[name])))
    halo = 0
    for name in maps:
        for side, beyond in enumerate(reach.get(name, NO_REACH)):
            halo = max(halo, math.ceil(beyond / scales(locality.layouts[name])[side // 2]))
    return Sweep(
        reads=tuple(_feature(locality, name) for name in kept if name in reads),
        stores=tuple(_feature(locality, name) for name in stored),
        statistics=statistics,
        known=tuple(name for name in locality.statistics if name in known),
        nodes=nodes,
        unit=unit,
        halo=-(-halo // unit) * unit,
        finest=max(scale for name in maps for scale in scales(locality.layouts[name])),
        weight=max(_feature(locality, name).bytes_per_pixel for name in maps),
    )


def _needed(
    locality: Locality,
    makers: Mapping[str, NodeProto],
    kept: Sequence[str],
    targets: Sequence[str],
    statistics: Sequence[Statistic],
) -> tuple[set[str], set[str], set[str]]:
    """First outputs of the nodes that a sweep computes, the features that it reads, the statistics that it takes."""
    summed = {statistic.name for statistic in statistics}
    computed: set[str] = set()
    reads: set[str] = set()
    known: set[str] = set()
    queue = list(targets)
    while queue:
        name = queue.pop()
        if name in kept:
            reads.add(name)
        elif name in locality.statistics and name not in summed:
            known.add(name)
        elif name in makers and makers[name].output[0] not in computed:
            computed.add(makers[name].output[0])
            queue += [source for source in makers[name].input if source]
    return computed, reads, known


def _wider(one: Reach, other: Reach) -> Reach:
    above, below, left, right = map(max, one, other)
    return above, below, left, right


def _storable(locality: Locality, name: str) -> bool:
    return is_map(locality.layouts[name]) and name not in locality.expanded


def _feature(locality: Locality, name: str) -> Feature:
    from onnx import helper

    rows, columns = scales(locality.layouts[name])
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(locality.facts.types[name]))
    return Feature(name, rows, columns, numbers(locality.layouts[name]), dtype)


def _operations(facts: Facts, node: NodeProto) -> float:
    """What a node costs in multiply-adds per pixel of the image."""
    pixels = facts.probes.heights[0] * facts.probes.widths[0]
    elements = math.prod(first for first, _ in facts.dims[node.output[0]])
    if node.op_type in ("Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"):
        return 0.0
    each = ELEMENT_COST * len(node.input)
    if node.op_type == "MatMul":
        each = facts.dims[node.input[0]][-1][0]
    elif node.op_type == "Conv":
        each = math.prod(first for first, _ in facts.dims[node.input[1]][1:])
    elif node.op_type == "ConvTranspose":
        strides = attribute(node, "strides", [1, 1])
        weights = facts.dims[node.input[1]]
        each = weights[0][0] / attribute(node, "group", 1) * weights[2][0] * weights[3][0] / math.prod(strides)
    return max(each, ELEMENT_COST) * elements / pixels
