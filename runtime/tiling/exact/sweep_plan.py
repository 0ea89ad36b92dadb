"""Divide a network into sweeps over the tiles: what each sweep reads, computes, accumulates and stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from .graph_nodes import attribute
from .locality import NO_REACH, Locality, Reach, Statistic
from .recompute_plan import Choice, choose
from .shape_inference import InferredGraph
from .spatial_layout import NotLocalError, is_map, numbers, scales

if TYPE_CHECKING:
    from onnx import NodeProto

#: Cost of writing and reading a byte, in multiply-adds: about 1 GB/s of disk against 100 billion multiply-adds/s. A GPU
#: computes faster, but then the disk is the limit.
BYTE_COST = 100.0

#: Cost per element of operators other than products, in multiply-adds; memory bandwidth limits them.
ELEMENT_COST = 8.0


@dataclass(frozen=True)
class Feature:
    """A feature map that is stored for the whole image.

    Attributes
    ----------
    name
        Name of the value.
    rows, columns
        Rows and columns of the map per row and column of the image.
    channels
        Elements per pixel of the map.
    dtype
        Type of an element.
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
    """One pass over all tiles.

    Attributes
    ----------
    reads
        Features that it reads.
    stores
        Features that it computes for later sweeps or the caller.
    statistics
        Statistics that it accumulates.
    known
        Names of the statistics of earlier sweeps that it uses.
    nodes
        Nodes that it computes.
    unit
        Tiles begin and end at multiples of this many pixels.
    halo
        Pixels that a tile needs around its core, a multiple of `unit`.
    finest
        Largest scale (rows or columns per row or column of the image) of its maps.
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
        The input images.
    output
        The restored image.
    sweeps
        The sweeps in order; the last one stores the output.
    bytes_per_pixel
        Peak bytes of features on disk per pixel of the image, without the input images and the restored image.
    """

    locality: Locality
    inputs: tuple[Feature, ...]
    output: Feature
    sweeps: tuple[Sweep, ...]
    bytes_per_pixel: float

    def stretch(self, sweep: Sweep) -> float:
        """Return the factor by which a tile's sides may be longer in a sweep over coarse maps.

        The maps must not become finer than in the image, nor take more memory than those of the heaviest sweep.
        """
        heaviest = max(one.weight for one in self.sweeps)
        return min(1 / float(sweep.finest), math.sqrt(heaviest / sweep.weight))


def plan(locality: Locality, inputs: Sequence[str], output: str) -> SweepPlan:
    """Divide a network into sweeps.

    A statistic ends a sweep: whatever depends on it needs all tiles first. Between two sweeps features are stored or
    recomputed, whichever is cheaper; see `recompute_plan`.

    Parameters
    ----------
    locality
        The network.
    inputs, output
        Names of the input images, and of the restored image.

    Raises
    ------
    NotLocalError
        A value that later sweeps need can neither be stored nor recomputed.
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
    """Return the values to have stored when the statistics of this phase are known."""
    choices = {name: Choice(0.0, math.inf, ()) for name in kept}
    for node in locality.nodes:
        sources = tuple(locality.maps_of(node))
        for name in filter(None, node.output):
            there = locality.spatial(name) and name not in locality.bins and locality.phases[name] <= phase
            if there and name not in choices and all(source in choices for source in sources):
                storing = (
                    BYTE_COST * _feature(locality, name).bytes_per_pixel if _storable(locality, name) else math.inf
                )
                choices[name] = Choice(storing, _operations(locality.graph, node), sources)
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
    """Return whether a value is a statistic that is known after this phase."""
    return name in locality.statistics and locality.statistics[name].phase <= phase


def _sources(locality: Locality, node: NodeProto) -> list[str]:
    """Return the maps that a node reads; for rectangles, the maps that they are part of."""
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
    """Return the first outputs of the nodes that a sweep computes, and the features and statistics that it uses."""
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
    from onnx import TensorProto

    # Engines hand values over as NumPy's arrays, which has no bfloat16.
    exchanged = locality.graph.types[name] != TensorProto.BFLOAT16
    return exchanged and is_map(locality.layouts[name]) and name not in locality.expanded


def _feature(locality: Locality, name: str) -> Feature:
    from onnx import helper

    rows, columns = scales(locality.layouts[name])
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(locality.graph.types[name]))
    return Feature(name, rows, columns, numbers(locality.layouts[name]), dtype)


def _operations(graph: InferredGraph, node: NodeProto) -> float:
    """Return the cost of a node in multiply-adds per pixel of the image."""
    pixels = graph.probes.heights[0] * graph.probes.widths[0]
    elements = math.prod(first for first, _ in graph.dims[node.output[0]])
    if node.op_type in ("Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"):
        return 0.0
    each = ELEMENT_COST * len(node.input)
    if node.op_type == "MatMul":
        each = graph.dims[node.input[0]][-1][0]
    elif node.op_type == "Conv":
        each = math.prod(first for first, _ in graph.dims[node.input[1]][1:])
    elif node.op_type == "ConvTranspose":
        strides = attribute(node, "strides", [1, 1])
        weights = graph.dims[node.input[1]]
        each = weights[0][0] / attribute(node, "group", 1) * weights[2][0] * weights[3][0] / math.prod(strides)
    return max(each, ELEMENT_COST) * elements / pixels
