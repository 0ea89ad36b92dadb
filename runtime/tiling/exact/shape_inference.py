"""Infer type and sizes of every value in a graph, and the values that are computed from sizes alone.

The graph's shape arithmetic is evaluated for two image sizes, so it does not matter how the exporter wrote it. The
package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...backends.onnx_providers import session_options
from .graph_nodes import ancestors
from .spatial_layout import Extent, NotLocalError, Probes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

#: (height, width) of the two probe images in units of `size_multiple`. Heights, widths and areas have different ratios.
_PROBES = ((5, 7), (7, 11))

#: Tensors above this many bytes are not sizes; shape inference does not get their values.
_LARGE = 1024


#: Attributes of Constant nodes other than a tensor -> NumPy type.
_CONSTANTS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@dataclass(frozen=True)
class InferredGraph:
    """A graph without functions and Constant nodes, with the sizes and types of its values.

    Attributes
    ----------
    model
        The model, with functions inlined, constants as initializers, and weights loaded.
    probes
        The two image sizes.
    constants
        Initializers by name.
    sizes
        Values computed from the inputs' sizes alone, for both probes.
    dims
        For every value, the extent of each axis for both probes.
    types
        For every value, its type (`TensorProto.DataType`).
    """

    model: ModelProto
    probes: Probes
    constants: Mapping[str, TensorProto]
    sizes: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
    dims: Mapping[str, tuple[Extent, ...]]
    types: Mapping[str, int]

    def fixed(self, name: str) -> NDArray[Any] | None:
        """Return a value that is the same for images of any size; None where it is not."""
        from onnx import numpy_helper

        if name in self.constants:
            return numpy_helper.to_array(self.constants[name])
        if name in self.sizes and np.array_equal(*self.sizes[name]):
            return self.sizes[name][0]
        return None


def infer(model: ModelProto, inputs: Mapping[str, int], multiple: int) -> InferredGraph:
    """Evaluate a graph's shape arithmetic, and infer the sizes of all values.

    Parameters
    ----------
    model
        The model with its weights loaded; it is modified.
    inputs
        Names of the graph's inputs, each [1, C, H, W] -> C.
    multiple
        What H and W must be multiples of.

    Raises
    ------
    NotLocalError
        Shape inference does not know an operator, or a value's number of axes depends on the image's size.
    """
    from onnx import inliner

    if model.functions:
        model = inliner.inline_local_functions(model)
    _constants_to_initializers(model.graph)
    heights, widths = (tuple(multiple * probe[axis] for probe in _PROBES) for axis in (0, 1))
    probes = Probes((heights[0], heights[1]), (widths[0], widths[1]))
    graph = model.graph
    names = _from_sizes(graph)
    shapes = [
        {name: (1, channels, multiple * height, multiple * width) for name, channels in inputs.items()}
        for height, width in _PROBES
    ]
    evaluated = [_evaluate(model, names, shape) for shape in shapes]
    inferred = [_infer(model, sizes, shape) for sizes, shape in zip(evaluated, shapes, strict=True)]
    dims = {}
    for name, (first, kind) in inferred[0].items():
        second = inferred[1].get(name, (None, kind))[0]
        if second is None or len(first) != len(second):
            raise NotLocalError(f"{name} has {len(first)} axes for one image and others for another")
        dims[name] = tuple(zip(first, second, strict=True))
    return InferredGraph(
        model,
        probes,
        {tensor.name: tensor for tensor in graph.initializer},
        {name: (evaluated[0][name], evaluated[1][name]) for name in names},
        dims,
        {name: kind for name, (_, kind) in inferred[0].items()},
    )


def _constants_to_initializers(graph: GraphProto) -> None:
    """Replace Constant nodes by initializers."""
    from onnx import helper, numpy_helper

    kept = []
    for node in graph.node:
        if node.op_type != "Constant":
            kept.append(node)
            continue
        (attribute,) = node.attribute
        if attribute.name == "value":
            tensor = attribute.t
        else:
            if attribute.name not in _CONSTANTS:
                raise NotLocalError(f"{node.name}: a constant of kind {attribute.name}")
            value = helper.get_attribute_value(attribute)
            tensor = numpy_helper.from_array(np.asarray(value, _CONSTANTS[attribute.name]))
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def _from_sizes(graph: GraphProto) -> list[str]:
    """Return the values that are computed from shapes and constants alone."""
    known = {tensor.name for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or all(name in known for name in node.input if name):
            known.update(node.output)
            found += [name for name in node.output if name]
    return found


def _evaluate(
    model: ModelProto, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Run the part of the graph that the named values depend on, on images of zeros."""
    from onnx import ModelProto, ValueInfoProto, helper

    if not names:
        return {}
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    nodes = ancestors(model.graph.node, names)
    used = {name for node in nodes for name in node.input}
    part.graph.name = "sizes"
    part.graph.input.extend(value for value in model.graph.input if value.name in used)
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    # Without a type: ONNX Runtime infers it.
    part.graph.output.extend(ValueInfoProto(name=name) for name in names)
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    types = {value.name: value.type.tensor_type.elem_type for value in part.graph.input}
    feeds = {name: np.zeros(shapes[name], helper.tensor_dtype_to_np_dtype(kind)) for name, kind in types.items()}
    results = session.run(list(names), feeds)
    return dict(zip(names, results, strict=True))


def _infer(
    model: ModelProto, sizes: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Infer shapes and types of all values, with the values computed from sizes as constants."""
    import onnx
    from onnx import ModelProto, helper, numpy_helper

    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = part.graph
    graph.name = "sizes"
    graph.node.extend(node for node in model.graph.node if node.output[0] not in sizes)
    (output,) = model.graph.output
    graph.output.append(helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, None))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    graph.input.extend(helper.make_tensor_value_info(name, types[name], shape) for name, shape in shapes.items())
    found = {name: (shape, types[name]) for name, shape in shapes.items()}
    for tensor in model.graph.initializer:
        found[tensor.name] = tuple(tensor.dims), tensor.data_type
        if len(tensor.raw_data) > _LARGE:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    for name, values in sizes.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        found[name] = values.shape, helper.np_dtype_to_tensor_dtype(values.dtype)
    inferred = onnx.shape_inference.infer_shapes(part).graph
    for value in (*inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        if all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in kind.shape.dim), kind.elem_type
    for node in graph.node:
        for name in node.output:
            if name and name not in found:
                raise NotLocalError(f"{node.name or name}: the size of the result of {node.op_type} is not known")
    return found
