"""What is known of every value in a graph before asking what its nodes do: type, sizes, what follows from sizes alone.

Found by evaluating the graph's own shape arithmetic for two image sizes, so any exporter's way of writing it will do.
The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .spatial_layout import Extent, NotLocalError, Probes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: Probe images in units of the size rule: heights, widths and areas grow by different factors.
_PROBES = ((5, 7), (7, 11))

#: Tensors above this many bytes are no sizes; shape inference need not see their values.
_LARGE = 1024


#: Attributes that a Constant node may have in place of a tensor.
_CONSTANTS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@dataclass(frozen=True)
class Facts:
    """A graph in which every node is plain, and what is known of its values.

    Attributes
    ----------
    model
        Functions inlined, constants as initializers; weights loaded.
    probes
        The two sizes.
    constants
        Initializers by name.
    sizes
        Values that follow from the inputs' sizes alone, at either probe.
    dims
        Of every value, the extent of each axis at either probe.
    types
        Of every value, as in `TensorProto.DataType`.
    """

    model: ModelProto
    probes: Probes
    constants: Mapping[str, TensorProto]
    sizes: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
    dims: Mapping[str, tuple[Extent, ...]]
    types: Mapping[str, int]

    def fixed(self, name: str) -> NDArray[Any] | None:
        """The value of a constant, or of what is the same for images of any size; None for anything else."""
        from onnx import numpy_helper

        if name in self.constants:
            return numpy_helper.to_array(self.constants[name])
        if name in self.sizes and np.array_equal(*self.sizes[name]):
            return self.sizes[name][0]
        return None


def find(model: ModelProto, inputs: Mapping[str, int], multiple: int) -> Facts:
    """Evaluate a graph's shape arithmetic.

    Parameters
    ----------
    model
        With its weights loaded; it is changed.
    inputs
        The graph's inputs, each [1, C, H, W], and their C.
    multiple
        What H and W must be multiples of.

    Raises
    ------
    NotLocalError
        The graph holds operators of which nothing is known, or takes images of one size only.
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
    return Facts(
        model,
        probes,
        {tensor.name: tensor for tensor in graph.initializer},
        {name: (evaluated[0][name], evaluated[1][name]) for name in names},
        dims,
        {name: kind for name, (_, kind) in inferred[0].items()},
    )


def ancestors(nodes: Sequence[NodeProto], outputs: Iterable[str], last: Collection[str] = ()) -> list[NodeProto]:
    """The nodes that outputs are computed by, in their order; none above those whose operator is in `last`."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            found.append(node)
            if node.op_type not in last:
                wanted.update(name for name in node.input if name)
    return found[::-1]


def _constants_to_initializers(graph: GraphProto) -> None:
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
    """Values that follow from shapes and constants alone."""
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
    """Run as much of the graph as the named values need, on images of zeros."""
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
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    types = {value.name: value.type.tensor_type.elem_type for value in part.graph.input}
    feeds = {name: np.zeros(shapes[name], helper.tensor_dtype_to_np_dtype(kind)) for name, kind in types.items()}
    results = session.run(list(names), feeds)
    return dict(zip(names, results, strict=True))


def _infer(
    model: ModelProto, sizes: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shapes and types of all values, what follows from sizes put in as constants."""
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
                raise NotLocalError(f"{node.name or name}: the size of what {node.op_type} gives is not known")
    return found
