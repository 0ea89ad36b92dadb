"""Build the ONNX model of a sweep: from tiles of features and known statistics to tiles and partial statistics.

Nodes of the network are reused; only shape inputs and statistics become per-tile. A statistic is computed over the
tile's core, without the halo, so that every pixel counts once.

The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .graph_nodes import ancestors, attribute
from .locality import Bounds, Locality, Statistic
from .spatial_layout import Layout, NotLocalError, atoms, merged, scales
from .sweep_plan import Feature, Sweep
from .tile_graph import COLUMNS, ROWS, TileGraph

if TYPE_CHECKING:
    from onnx import NodeProto

#: Operator -> the one that computes its partial statistic of a tile.
_PARTS = {
    "ReduceMean": "ReduceSum",
    "ReduceL2": "ReduceSumSquare",
    "GlobalAveragePool": "ReduceSum",
    "GlobalMaxPool": "ReduceMax",
}


@dataclass(frozen=True)
class Crop:
    """A rectangle of a tile, an input of the model: int64[2] `first` and `beyond` (row, column) in pixels of a map.

    Attributes
    ----------
    name
        Prefix of the names of the two inputs.
    rows, columns
        Scale of the map: its pixels per pixel of the image.
    bounds
        Part of the image that limits the rectangle, rows and columns; None for the tile's whole core.
    """

    name: str
    rows: Fraction
    columns: Fraction
    bounds: tuple[Bounds, Bounds] = (None, None)

    @property
    def first(self) -> str:
        """Name of the input with the first row and column."""
        return f"{self.name}/first"

    @property
    def beyond(self) -> str:
        """Name of the input with the first row and column after the rectangle."""
        return f"{self.name}/beyond"

    @property
    def values(self) -> list[str]:
        """Names of the values that hold its bounds."""
        return [bound.value for pair in self.bounds if pair is not None for bound in pair]


@dataclass(frozen=True)
class SweepModel:
    """The model of a sweep.

    Attributes
    ----------
    model
        The serialized model. Inputs: `stored` of every feature read, the known statistics by name, `ROWS` and
        `COLUMNS`, the crops' rectangles, and `whole`. Outputs: `stored` of the features to store, `part` of the
        statistics to accumulate.
    crops
        For every statistic, a crop for each of its bins: rows of columns.
    whole
        Names of the values computed from the size of the whole image; see `image_sizes_model`.
    """

    model: bytes
    crops: dict[str, list[list[Crop]]]
    whole: tuple[str, ...]

    @property
    def all_crops(self) -> list[Crop]:
        """Every crop once."""
        return list(dict.fromkeys(crop for rows in self.crops.values() for row in rows for crop in row))


def stored(name: str) -> str:
    """Return the name of a feature as an input or output, [rows, columns, channels]."""
    return f"{name}/feature"


def part(name: str, row: int = 0, column: int = 0) -> str:
    """Return the name of a statistic of one tile.

    Parameters
    ----------
    name
        Name of the statistic.
    row, column
        Index of the bin.
    """
    return f"{name}/part/{row},{column}"


def sweep_model(locality: Locality, sweep: Sweep) -> SweepModel:
    """Build the model of a sweep."""
    builder = _SweepGraph(locality, sweep.unit)
    from onnx import TensorProto

    for feature in sweep.reads:
        builder.read(feature)
    for name in sweep.known:
        builder.input(name, locality.graph.types[name], [first for first, _ in locality.graph.dims[name]])
    statistics = {statistic.name: statistic for statistic in sweep.statistics}
    for node in sweep.nodes:
        if node.output[0] in statistics:
            builder.statistic(node, statistics[node.output[0]])
        elif node.output[0] not in locality.bins:
            builder.node(node)
    for feature in sweep.stores:
        builder.store(feature)
    for name in (ROWS, COLUMNS):
        builder.input(name, TensorProto.INT64, [1])
    return SweepModel(builder.model().SerializeToString(), builder.crops, tuple(builder.whole))


def image_sizes_model(locality: Locality, names: Sequence[str], unit: int) -> bytes:
    """Build a model that computes values from the image's size, given as `ROWS` and `COLUMNS`.

    Parameters
    ----------
    locality
        The network.
    names
        Names of the values, the outputs of the model.
    unit
        Pixels per element of `ROWS` and `COLUMNS`.

    Raises
    ------
    NotLocalError
        A value depends on the size of something that the result does not depend on.
    """
    from onnx import TensorProto, ValueInfoProto

    builder = _SweepGraph(locality, unit)
    for node in ancestors(locality.graph.model.graph.node, names, ("Shape", "Size")):
        if node.op_type == "Shape" and node.input[0] in locality.layouts:
            builder.shape(node)
        elif node.op_type in ("Shape", "Size"):
            raise NotLocalError(f"{node.name} reads the size of {node.input[0]}, on which the result does not depend")
        else:
            builder.plain(node, node.input)
    for name in (ROWS, COLUMNS):
        builder.input(name, TensorProto.INT64, [1])
    model = builder.model()
    model.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return bytes(model.SerializeToString())


class _SweepGraph(TileGraph):
    """The graph of a sweep under construction."""

    def __init__(self, locality: Locality, unit: int) -> None:
        super().__init__(locality, unit)
        self.crops: dict[str, list[list[Crop]]] = {}
        self.whole: dict[str, None] = {}

    def node(self, node: NodeProto) -> None:
        """Add a node of the network, with shapes of a tile."""
        output = node.output[0]
        layout = self._locality.layouts[output]
        if node.op_type == "Reshape":
            self.add("Reshape", [self._operand(node.input[0]), self.sizes_of(layout)], output)
        elif node.op_type == "Expand":
            self.add("Expand", [self._operand(node.input[0]), self.sizes_of(layout, explicit=True)], output)
        elif node.op_type == "Slice" and any(self._moves(name) for name in node.input[1:]):
            # It takes all rows and columns, else it would be a rectangle; only its channels are sliced.
            axes = [axis for axis, atom in enumerate(self._locality.layouts[output]) if not atoms((atom,))]
            self._fixed_slice(node, axes)
        else:
            self.plain(node, [self._operand(name) for name in node.input])

    def _moves(self, name: str) -> bool:
        """Return whether a value depends on the image's size."""
        return name in self._source.sizes and self._source.fixed(name) is None

    def _fixed_slice(self, node: NodeProto, axes: Sequence[int]) -> None:
        starts, ends = (self._at_probes(name) for name in node.input[1:3])
        given = self._at_probes(node.input[3])[0] if len(node.input) > 3 and node.input[3] else range(len(starts[0]))
        rank = len(self._locality.layouts[node.output[0]])
        kept = [(int(axis) % rank, i) for i, axis in enumerate(given) if int(axis) % rank in axes]
        if any(starts[0][i] != starts[1][i] or ends[0][i] != ends[1][i] for _, i in kept):
            raise NotLocalError(f"{node.name} slices channels by the image's size")
        if not kept:
            self.add("Identity", [self._operand(node.input[0])], node.output[0])
            return
        bounds = [[int(values[0][i]) for _, i in kept] for values in (starts, ends)]
        inputs = [self._operand(node.input[0]), *map(self.constant, bounds), self.constant([axis for axis, _ in kept])]
        self.add("Slice", inputs, node.output[0])

    def _at_probes(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a value computed from sizes, for both probes."""
        if name in self._source.sizes:
            return self._source.sizes[name]
        value = self._source.fixed(name)
        if value is None:
            raise NotLocalError(f"{name} is not computed from sizes")
        return value, value

    def _operand(self, name: str) -> str:
        """Return an input's name, after adding it as a constant or as a model input where it is computed from sizes."""
        from onnx import numpy_helper

        if name not in self._source.sizes or name in self._constants or name in self.whole:
            return name
        value = self._source.fixed(name)
        if value is not None:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        else:
            self.whole[name] = None
            self.input(name, self._source.types[name], self._source.sizes[name][0].shape)
        return name

    def shape(self, node: NodeProto) -> None:
        """Add the result of a Shape node for an image of `ROWS` x `COLUMNS` units."""
        layout = self._locality.layouts[node.input[0]]
        part = layout[attribute(node, "start", 0) : attribute(node, "end", len(layout))]
        self.add("Identity", [self.sizes_of(part, explicit=True)], node.output[0])

    def read(self, feature: Feature) -> None:
        """Add an input for a feature, [rows, columns, channels], and convert it to the network's layout."""
        layout = self._locality.layouts[feature.name]
        self.input(stored(feature.name), self._source.types[feature.name], [None, None, feature.channels])
        order = _rows_first(layout)
        separated = _separated(layout)
        turned = tuple(separated[axis] for axis in order)
        name = feature.name
        split = self.reshape(
            stored(name), ((turned[0], turned[1], merged([feature.channels]))), turned, f"{name}/split"
        )
        back = self.transpose(split, [order.index(axis) for axis in range(len(order))], f"{name}/turned")
        self.add("Identity", [self.reshape(back, separated, layout, f"{name}/joined")], name)

    def store(self, feature: Feature) -> None:
        """Convert a feature to [rows, columns, channels], and add it as an output."""
        name = feature.name
        layout = self._locality.layouts[name]
        separated, order = _separated(layout), _rows_first(layout)
        turned = tuple(separated[axis] for axis in order)
        value = self.transpose(self.reshape(name, layout, separated, f"{name}/apart"), order, f"{name}/rows")
        wanted: Layout = (turned[0], turned[1], merged([feature.channels]))
        self.add("Identity", [self.reshape(value, turned, wanted, f"{name}/flat")], stored(name))
        self.output(stored(name), self._source.types[name], [None, None, feature.channels])

    def statistic(self, node: NodeProto, statistic: Statistic) -> None:
        """Add a statistic over the tile's core."""
        kind = self._source.types[statistic.name]
        maps = self._locality.maps_of(node)
        sources = [statistic.bins.source] if statistic.bins else maps
        vertical, horizontal = scales(self._locality.layouts[sources[0]])
        self.crops[statistic.name] = []
        for row, rows in enumerate(statistic.bins.rows if statistic.bins else [None]):
            self.crops[statistic.name].append([])
            for column, columns in enumerate(statistic.bins.columns if statistic.bins else [None]):
                by = f"{vertical},{horizontal}" if rows is columns is None else f"{statistic.name}/{row},{column}"
                crop = Crop(f"crop/{by}", vertical, horizontal, (rows, columns))
                self.crops[statistic.name][row].append(crop)
                operands = {
                    name: self._cropped(source, crop, statistic.combine == "sum")
                    for source, name in zip(sources, maps, strict=True)
                }
                self._reduce(node, statistic, operands, part(statistic.name, row, column), kind)

    def _reduce(
        self, node: NodeProto, statistic: Statistic, operands: Mapping[str, str], output: str, kind: int
    ) -> None:
        """Add a statistic's node, with these operands in place of its own."""
        from onnx import TensorProto, helper

        self.plain(node, [operands.get(name) or self._operand(name) for name in node.input])
        copy = self._graph.node[-1]
        copy.name = copy.output[0] = output
        copy.op_type = _PARTS.get(node.op_type, node.op_type)
        axes = statistic.axes
        if node.op_type.startswith("Global"):
            axes = (2, 3)
        if axes is not None:
            del copy.attribute[:], copy.input[1:]
            copy.input.append(self.constant(axes))
            copy.attribute.append(helper.make_attribute("keepdims", 1))
        dims = None if statistic.axes else [first for first, _ in self._source.dims[statistic.name]]
        self.output(output, TensorProto.FLOAT if statistic.combine == "sum" else kind, dims)

    def _cropped(self, name: str, crop: Crop, summed: bool) -> str:
        """Return a part of a map; in float32 where it is summed, because half has too little range and precision."""
        from onnx import TensorProto

        if crop.first not in self._made:
            self._made.add(crop.first)
            for bound in (crop.first, crop.beyond):
                self.input(bound, TensorProto.INT64, [2])
        by = f"{name}/{crop.name}"
        if summed and self._source.types[name] != TensorProto.FLOAT:
            return self.add("Cast", [self._cut(name, crop, by)], f"{by}/float", to=TensorProto.FLOAT)
        return self._cut(name, crop, by)

    def _cut(self, name: str, crop: Crop, by: str) -> str:
        layout = self._locality.layouts[name]
        separated = _separated(layout)
        value = self.reshape(name, layout, separated, f"{name}/apart")
        places = _rows_first(layout)[:2]
        axes = self.constant(places)
        cut = self.add("Slice", [value, crop.first, crop.beyond, axes], f"{by}/cut")
        if separated == layout:
            return cut
        size = self.add("Sub", [crop.beyond, crop.first], f"{crop.name}/size")
        extents = tuple(
            self.add("Gather", [size, self.constant([axis])], f"{crop.name}/{'columns' if axis else 'rows'}")
            for axis in (0, 1)
        )
        return self.add("Reshape", [cut, self.sizes_of(layout, (extents[0], extents[1]), by=crop.name)], f"{by}/joined")


def _separated(layout: Layout) -> Layout:
    """Return the layout with rows and columns on separate axes."""
    result: list[tuple[Any, ...]] = []
    for axis in layout:
        result += [(atom,) for atom in axis] if len(axis) > 1 else [axis]
    return tuple(result)


def _rows_first(layout: Layout) -> list[int]:
    """Return the order of the axes of `_separated` with rows and columns first."""
    separated = _separated(layout)
    (rows,) = (i for i, axis in enumerate(separated) if any(not atom.columns for atom in atoms((axis,))))
    (columns,) = (i for i, axis in enumerate(separated) if any(atom.columns for atom in atoms((axis,))))
    return [rows, columns, *(i for i in range(len(separated)) if i not in (rows, columns))]
