"""Build an ONNX graph from nodes of a network, with the shapes of a tile in place of the image's.

The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .locality import Locality
from .spatial_layout import Layout, NotLocalError, Spatial, atoms

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Inputs of the graph, int64[1]: rows and columns of a tile in the sweep's units.
ROWS, COLUMNS = "tile/rows", "tile/columns"


class TileGraph:
    """A graph under construction.

    Parameters
    ----------
    locality
        The network.
    unit
        Pixels of the image per element of the inputs `ROWS` and `COLUMNS`.
    """

    def __init__(self, locality: Locality, unit: int) -> None:
        from onnx import GraphProto

        self._locality, self._source, self._unit = locality, locality.graph, unit
        self._graph = GraphProto(name="sweep")
        self._constants: set[str] = set()
        self._made: set[str] = set()

    def model(self) -> ModelProto:
        """Return the model."""
        from onnx import ModelProto

        source = self._source.model
        return ModelProto(ir_version=source.ir_version, opset_import=source.opset_import, graph=self._graph)

    def input(self, name: str, kind: int, dims: Sequence[int | None]) -> None:
        """Declare an input of the model.

        Parameters
        ----------
        name
            Name of the input.
        kind
            Type (`TensorProto.DataType`).
        dims
            Size of each axis; None where it varies.
        """
        from onnx import helper

        self._graph.input.append(helper.make_tensor_value_info(name, kind, dims))

    def output(self, name: str, kind: int, dims: Sequence[int | None] | None) -> None:
        """Declare an output of the model; parameters as for `input`, and no `dims` where even their number varies.

        Parameters
        ----------
        name, kind, dims
            As for `input`.
        """
        from onnx import helper

        self._graph.output.append(helper.make_tensor_value_info(name, kind, dims))

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node that the network does not have, unless it was added before; return its output.

        Parameters
        ----------
        operator
            ONNX operator.
        inputs
            Names of its inputs.
        output
            Name of its output, and of the node.
        **attributes
            Its attributes.
        """
        from onnx import helper

        if output not in self._made:
            self._made.add(output)
            self._graph.node.append(helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def constant(self, values: Sequence[int]) -> str:
        """Add an int64 constant, and return its name."""
        from onnx import numpy_helper

        name = f"constant/{','.join(map(str, values))}"
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def plain(self, node: NodeProto, inputs: Sequence[str]) -> None:
        """Add a node of the network, with other inputs."""
        for name in filter(None, inputs):
            if name in self._source.constants and name not in self._constants:
                self._constants.add(name)
                self._graph.initializer.append(self._source.constants[name])
        self._graph.node.append(node)
        del self._graph.node[-1].input[:]
        self._graph.node[-1].input.extend(inputs)

    def sizes_of(
        self, layout: Layout, extents: tuple[str, str] | None = None, explicit: bool = False, by: str = ""
    ) -> str:
        """Add the sizes of a layout, int64[axes], and return their name.

        Parameters
        ----------
        layout
            Layout of the tensor.
        extents
            Names of rows and columns, int64[1] each; None for those of the tile.
        explicit
            True for all sizes; False allows -1 for the one that follows from the others.
        by
            Part of the name, different for different `extents`.
        """
        moving = [axis for axis in layout if atoms((axis,))]
        if not moving or (len(moving) == 1 and not explicit):
            return self.constant([-1 if axis in moving else math.prod(axis) for axis in layout])  # type: ignore[arg-type]
        parts = []
        for axis in layout:
            number = math.prod(atom for atom in axis if isinstance(atom, int))
            found = atoms((axis,))
            if not found:
                parts.append(self.constant([number]))
                continue
            names = [extents[atom.columns] if extents else self._extent(atom) for atom in found]
            for name in names[1:]:
                names[0] = self.add("Mul", [names[0], name], f"{names[0]}*{name}")
            parts.append(
                names[0]
                if number == 1
                else self.add("Mul", [names[0], self.constant([number])], f"{names[0]}*{number}")
            )
        if len(parts) == 1:
            return parts[0]
        return self.add("Concat", parts, f"sizes{by}/{';'.join(parts)}", axis=0)

    def _extent(self, atom: Spatial) -> str:
        """Add the tile's rows or columns at a scale, int64[1], and return their name."""
        per_unit = atom.scale * self._unit
        if per_unit.denominator != 1:
            raise NotLocalError(f"a unit of {self._unit} pixels is {per_unit} at scale {atom.scale}")
        cells = COLUMNS if atom.columns else ROWS
        return (
            cells if per_unit == 1 else self.add("Mul", [cells, self.constant([int(per_unit)])], f"{cells}*{per_unit}")
        )

    def reshape(self, value: str, before: Layout, after: Layout, output: str) -> str:
        """Reshape a value from one layout to another, and return the name of the result.

        Parameters
        ----------
        value
            Name of the value.
        before, after
            Its layout, and the new one.
        output
            Name of the result, if it differs.
        """
        return value if before == after else self.add("Reshape", [value, self.sizes_of(after)], output)

    def transpose(self, value: str, order: Sequence[int], output: str) -> str:
        """Transpose a value, and return the name of the result.

        Parameters
        ----------
        value
            Name of the value.
        order
            The new order of its axes.
        output
            Name of the result, if it differs.
        """
        return value if list(order) == sorted(order) else self.add("Transpose", [value], output, perm=list(order))
