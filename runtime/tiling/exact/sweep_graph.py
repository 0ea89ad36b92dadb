"""The ONNX model of a sweep: tiles of features and statistics so far go in, tiles and parts of statistics come out.

The nodes are the network's own. Changed is only what has to be, for a tile is not the image: sizes that are computed
from the image's are the tile's where they shape a tensor; a statistic is taken of the tile's core, without the halo, so
that every pixel counts once.

The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .locality import Bounds, Locality, Statistic, attribute
from .shape_inference import ancestors
from .spatial_layout import Layout, NotLocalError, Spatial, atoms, merged, scales
from .sweep_plan import Feature, Sweep

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: int64[1]: rows and columns of a tile, in the sweep's units.
ROWS, COLUMNS = "tile/rows", "tile/columns"

#: The statistics of parts that a mean and a Euclidean norm are finished from.
_PARTS = {
    "ReduceMean": "ReduceSum",
    "ReduceL2": "ReduceSumSquare",
    "GlobalAveragePool": "ReduceSum",
    "GlobalMaxPool": "ReduceMax",
}


@dataclass(frozen=True)
class Crop:
    """A rectangle of a tile, given when it is run as int64[2] `first` and `beyond` (row, column) in a map's own pixels.

    Attributes
    ----------
    name
        Beginning of the two inputs' names, see `first` and `beyond`.
    rows, columns
        The map's pixels per pixel of the image.
    bounds
        The part of the image to keep to, rows and columns; None for all of the tile's core.
    """

    name: str
    rows: Fraction
    columns: Fraction
    bounds: tuple[Bounds, Bounds] = (None, None)

    @property
    def first(self) -> str:
        """Name of the input that holds the first row and column."""
        return f"{self.name}/first"

    @property
    def beyond(self) -> str:
        """Name of the input that holds the first row and column beyond."""
        return f"{self.name}/beyond"

    @property
    def values(self) -> list[str]:
        """Values that its bounds are elements of."""
        return [bound.value for pair in self.bounds if pair is not None for bound in pair]


@dataclass(frozen=True)
class SweepModel:
    """A sweep, ready to be opened.

    Attributes
    ----------
    model
        Its inputs: `stored` of every feature that is read, the names of the statistics that are known, `ROWS` and
        `COLUMNS`, the crops' rectangles, and `whole`. Its outputs: `stored` of the features to store, `part` of the
        statistics to sum up.
    crops
        Of every statistic, as many as it has bins: rows of columns.
    whole
        Values that follow from the size of the whole image; see `sizes_model`.
    """

    model: bytes
    crops: dict[str, list[list[Crop]]]
    whole: tuple[str, ...]

    @property
    def all_crops(self) -> list[Crop]:
        """Every crop once."""
        return list(dict.fromkeys(crop for rows in self.crops.values() for row in rows for crop in row))


def stored(name: str) -> str:
    """What a feature is called that goes in or comes out as [rows, columns, channels]."""
    return f"{name}/stored"


def part(name: str, row: int = 0, column: int = 0) -> str:
    """What a statistic of one tile is called, in one of its bins."""
    return f"{name}/part/{row},{column}"


def sweep_model(locality: Locality, sweep: Sweep) -> SweepModel:
    """Build the model of a sweep."""
    builder = _Builder(locality, sweep.unit)
    from onnx import TensorProto

    for feature in sweep.reads:
        builder.read(feature)
    for name in sweep.known:
        builder.input(name, locality.facts.types[name], [first for first, _ in locality.facts.dims[name]])
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


def sizes_model(locality: Locality, names: Sequence[str], unit: int) -> bytes:
    """Build a model that gives values which follow from the image's size: `ROWS` and `COLUMNS` in, in units; them out.

    Raises
    ------
    NotLocalError
        They follow from the size of something that is no part of the network.
    """
    from onnx import TensorProto, ValueInfoProto

    builder = _Builder(locality, unit)
    for node in ancestors(locality.facts.model.graph.node, names, ("Shape", "Size")):
        if node.op_type == "Shape" and node.input[0] in locality.layouts:
            builder.shape(node)
        elif node.op_type in ("Shape", "Size"):
            raise NotLocalError(f"{node.name} asks for the size of {node.input[0]}, which the result does not rest on")
        else:
            builder.plain(node, node.input)
    for name in (ROWS, COLUMNS):
        builder.input(name, TensorProto.INT64, [1])
    model = builder.model()
    model.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return bytes(model.SerializeToString())


class _Builder:
    """Collects the nodes of a model."""

    def __init__(self, locality: Locality, unit: int) -> None:
        from onnx import GraphProto

        self._locality, self._facts, self._unit = locality, locality.facts, unit
        self._graph = GraphProto(name="sweep")
        self._constants: set[str] = set()
        self._made: set[str] = set()
        self.crops: dict[str, list[list[Crop]]] = {}
        self.whole: dict[str, None] = {}

    def model(self) -> ModelProto:
        from onnx import ModelProto

        source = self._facts.model
        return ModelProto(ir_version=source.ir_version, opset_import=source.opset_import, graph=self._graph)

    def input(self, name: str, kind: int, dims: Sequence[int | None]) -> None:
        """Declare an input of the model."""
        from onnx import helper

        self._graph.input.append(helper.make_tensor_value_info(name, kind, dims))

    def _output(self, name: str, kind: int, dims: Sequence[int | None] | None) -> None:
        from onnx import helper

        self._graph.output.append(helper.make_tensor_value_info(name, kind, dims))

    def _add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node of our own, once; return its output."""
        from onnx import helper

        if output not in self._made:
            self._made.add(output)
            self._graph.node.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def _numbers(self, values: Sequence[int]) -> str:
        """An int64 constant."""
        from onnx import numpy_helper

        name = f"constant/{','.join(map(str, values))}"
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def plain(self, node: NodeProto, inputs: Sequence[str]) -> None:
        """Add one of the network's nodes, with these inputs."""
        for name in filter(None, inputs):
            if name in self._facts.constants and name not in self._constants:
                self._constants.add(name)
                self._graph.initializer.append(self._facts.constants[name])
        self._graph.node.append(node)
        del self._graph.node[-1].input[:]
        self._graph.node[-1].input.extend(inputs)

    def node(self, node: NodeProto) -> None:
        """Add one of the network's nodes, for a tile."""
        output = node.output[0]
        layout = self._locality.layouts[output]
        if node.op_type == "Reshape":
            self._add("Reshape", [self._operand(node.input[0]), self._shape(layout)], output)
        elif node.op_type == "Expand" and output in self._locality.expanded:
            self._add("Expand", [self._operand(node.input[0]), self._shape(layout)], output)
        elif node.op_type == "Slice" and any(self._moves(name) for name in node.input[1:]):
            # Of rows and columns it takes all, or it would be a rectangle; of channels, what it takes of the image's.
            axes = [axis for axis, atom in enumerate(self._locality.layouts[output]) if not atoms((atom,))]
            self._fixed_slice(node, axes)
        else:
            self.plain(node, [self._operand(name) for name in node.input])

    def _moves(self, name: str) -> bool:
        """Whether a value follows the image's size."""
        return name in self._facts.sizes and self._facts.fixed(name) is None

    def _fixed_slice(self, node: NodeProto, axes: Sequence[int]) -> None:
        starts, ends = (self._at_probes(name) for name in node.input[1:3])
        given = self._at_probes(node.input[3])[0] if len(node.input) > 3 and node.input[3] else range(len(starts[0]))
        rank = len(self._locality.layouts[node.output[0]])
        kept = [(int(axis) % rank, i) for i, axis in enumerate(given) if int(axis) % rank in axes]
        if any(starts[0][i] != starts[1][i] or ends[0][i] != ends[1][i] for _, i in kept):
            raise NotLocalError(f"{node.name} takes channels by the image's size")
        if not kept:
            self._add("Identity", [self._operand(node.input[0])], node.output[0])
            return
        bounds = [[int(values[0][i]) for _, i in kept] for values in (starts, ends)]
        inputs = [self._operand(node.input[0]), *map(self._numbers, bounds), self._numbers([axis for axis, _ in kept])]
        self._add("Slice", inputs, node.output[0])

    def _at_probes(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """What a value that follows from sizes is at either probe."""
        if name in self._facts.sizes:
            return self._facts.sizes[name]
        value = self._facts.fixed(name)
        if value is None:
            raise NotLocalError(f"{name} does not follow from sizes")
        return value, value

    def _operand(self, name: str) -> str:
        """Make sure that what a node reads is there, where it follows from sizes."""
        from onnx import numpy_helper

        if name not in self._facts.sizes or name in self._constants or name in self.whole:
            return name
        value = self._facts.fixed(name)
        if value is not None:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        else:
            self.whole[name] = None
            self.input(name, self._facts.types[name], self._facts.sizes[name][0].shape)
        return name

    def shape(self, node: NodeProto) -> None:
        """Add what a Shape node gives for an image of so many units."""
        layout = self._locality.layouts[node.input[0]]
        part = layout[attribute(node, "start", 0) : attribute(node, "end", len(layout))]
        self._add("Identity", [self._shape(part, explicit=True)], node.output[0])

    def _shape(
        self, layout: Layout, extents: tuple[str, str] | None = None, explicit: bool = False, by: str = ""
    ) -> str:
        """Name of the int64 sizes of a layout.

        Parameters
        ----------
        layout
            Of the tensor.
        extents
            Names of int64[1] rows and columns where they are not those of the tile.
        explicit
            Without -1 for the one size that follows from the others.
        by
            What distinguishes `extents`.
        """
        moving = [axis for axis in layout if atoms((axis,))]
        if not moving or (len(moving) == 1 and not explicit):
            return self._numbers([-1 if axis in moving else math.prod(axis) for axis in layout])  # type: ignore[arg-type]
        parts = []
        for axis in layout:
            number = math.prod(atom for atom in axis if isinstance(atom, int))
            found = atoms((axis,))
            if not found:
                parts.append(self._numbers([number]))
                continue
            names = [extents[atom.columns] if extents else self._extent(atom) for atom in found]
            for name in names[1:]:
                names[0] = self._add("Mul", [names[0], name], f"{names[0]}*{name}")
            parts.append(
                names[0]
                if number == 1
                else self._add("Mul", [names[0], self._numbers([number])], f"{names[0]}*{number}")
            )
        if len(parts) == 1:
            return parts[0]
        return self._add("Concat", parts, f"sizes{by}/{';'.join(parts)}", axis=0)

    def _extent(self, atom: Spatial) -> str:
        """Name of an int64[1] with the tile's rows or columns at a scale."""
        per_unit = atom.scale * self._unit
        if per_unit.denominator != 1:
            raise NotLocalError(f"a unit of {self._unit} pixels is {per_unit} at scale {atom.scale}")
        cells = COLUMNS if atom.columns else ROWS
        return (
            cells if per_unit == 1 else self._add("Mul", [cells, self._numbers([int(per_unit)])], f"{cells}*{per_unit}")
        )

    def read(self, feature: Feature) -> None:
        """Take a feature in: [rows, columns, channels] -> as it lies in the network."""
        layout = self._locality.layouts[feature.name]
        self.input(stored(feature.name), self._facts.types[feature.name], [None, None, feature.channels])
        order = _rows_first(layout)
        apart = _apart(layout)
        turned = tuple(apart[axis] for axis in order)
        name = feature.name
        split = self._reshaped(
            stored(name), ((turned[0], turned[1], merged([feature.channels]))), turned, f"{name}/split"
        )
        back = self._turned(split, [order.index(axis) for axis in range(len(order))], f"{name}/turned")
        self._add("Identity", [self._reshaped(back, apart, layout, f"{name}/joined")], name)

    def store(self, feature: Feature) -> None:
        """Give a feature out, as [rows, columns, channels]."""
        name = feature.name
        layout = self._locality.layouts[name]
        apart, order = _apart(layout), _rows_first(layout)
        turned = tuple(apart[axis] for axis in order)
        value = self._turned(self._reshaped(name, layout, apart, f"{name}/apart"), order, f"{name}/rows")
        wanted: Layout = (turned[0], turned[1], merged([feature.channels]))
        self._add("Identity", [self._reshaped(value, turned, wanted, f"{name}/flat")], stored(name))
        self._output(stored(name), self._facts.types[name], [None, None, feature.channels])

    def _reshaped(self, value: str, before: Layout, after: Layout, output: str) -> str:
        return value if before == after else self._add("Reshape", [value, self._shape(after)], output)

    def _turned(self, value: str, order: Sequence[int], output: str) -> str:
        return value if list(order) == sorted(order) else self._add("Transpose", [value], output, perm=list(order))

    def statistic(self, node: NodeProto, statistic: Statistic) -> None:
        """Add a statistic of the tile's core."""
        kind = self._facts.types[statistic.name]
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
        """Add a statistic's node, reading these operands in place of its own."""
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
            copy.input.append(self._numbers(axes))
            copy.attribute.append(helper.make_attribute("keepdims", 1))
        dims = None if statistic.axes else [first for first, _ in self._facts.dims[statistic.name]]
        self._output(output, TensorProto.FLOAT if statistic.combine == "sum" else kind, dims)

    def _cropped(self, name: str, crop: Crop, summed: bool) -> str:
        """A part of a map; in float32 where it is going to be summed, since sums leave half's range or its 11 bits."""
        from onnx import TensorProto

        if crop.first not in self._made:
            self._made.add(crop.first)
            for bound in (crop.first, crop.beyond):
                self.input(bound, TensorProto.INT64, [2])
        by = f"{name}/{crop.name}"
        if summed and self._facts.types[name] != TensorProto.FLOAT:
            return self._add("Cast", [self._cut(name, crop, by)], f"{by}/float", to=TensorProto.FLOAT)
        return self._cut(name, crop, by)

    def _cut(self, name: str, crop: Crop, by: str) -> str:
        layout = self._locality.layouts[name]
        apart = _apart(layout)
        value = self._reshaped(name, layout, apart, f"{name}/apart")
        places = _rows_first(layout)[:2]
        axes = self._numbers(places)
        cut = self._add("Slice", [value, crop.first, crop.beyond, axes], f"{by}/cut")
        if apart == layout:
            return cut
        size = self._add("Sub", [crop.beyond, crop.first], f"{crop.name}/size")
        extents = tuple(
            self._add("Gather", [size, self._numbers([axis])], f"{crop.name}/{'columns' if axis else 'rows'}")
            for axis in (0, 1)
        )
        return self._add("Reshape", [cut, self._shape(layout, (extents[0], extents[1]), by=crop.name)], f"{by}/joined")


def _apart(layout: Layout) -> Layout:
    """The layout with rows and columns in axes of their own."""
    result: list[tuple[Any, ...]] = []
    for axis in layout:
        result += [(atom,) for atom in axis] if len(axis) > 1 else [axis]
    return tuple(result)


def _rows_first(layout: Layout) -> list[int]:
    """The order of the axes of `_apart` with rows and columns in front."""
    apart = _apart(layout)
    (rows,) = (i for i, axis in enumerate(apart) if any(not atom.columns for atom in atoms((axis,))))
    (columns,) = (i for i, axis in enumerate(apart) if any(atom.columns for atom in atoms((axis,))))
    return [rows, columns, *(i for i in range(len(apart)) if i not in (rows, columns))]
