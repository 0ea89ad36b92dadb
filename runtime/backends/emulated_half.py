"""Emulate half precision in float32, where kernels for it are missing and for comparisons with a GPU.

ONNX Runtime's CPU provider has no bfloat16 kernels, and runs float16 operators that it lacks in float32, without
rounding or overflow between operators. So neither type behaves there as on a GPU. The graph made here computes every
operator in float32 and rounds each result that the file stores in half precision to that type, as a GPU does that
accumulates in float32.

The package onnx_ir is needed to use this module, not to import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx import ModelProto

#: Operators that only move values, so that their results need no rounding.
MOVES = frozenset(
    (
        *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth"),
        *("Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    )
)


def emulate_half(model: ModelProto) -> ModelProto:
    """Return a float32 copy of a half-precision model that rounds every tensor which the model stores in half.

    Parameters
    ----------
    model
        An exported model with its weights loaded. Its `value_info` contains the type of every value.

    Returns
    -------
    ModelProto
        Inputs, outputs, nodes and values have the model's names; float16 and bfloat16 are replaced by float32.
    """
    import onnx_ir as ir

    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    copy = ir.from_proto(model)
    graph = copy.graph
    for value in graph.initializers.values():
        if value.dtype in halves and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype("float32"), name=value.name)
            value.dtype = ir.DataType.FLOAT
    for node in list(graph):
        result, half = node.outputs[0], node.outputs[0].dtype
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None  # ONNX Runtime infers them again.
        if half not in halves:
            continue
        if node.domain in ("", "ai.onnx") and node.op_type in MOVES:
            if result.is_graph_output():
                result.dtype = ir.DataType.FLOAT
            continue
        rounded = ir.Value(name=result.name, type=result.type and ir.TensorType(ir.DataType.FLOAT), shape=result.shape)
        result.replace_all_uses_with(rounded, replace_graph_outputs=True)
        if node.op_type == "Cast":
            graph.insert_after(node, _casts(node.inputs[0], rounded, half))
            graph.remove(node, safe=True)
        else:
            result.name, result.type, result.shape = f"{result.name}/exact", None, None
            graph.insert_after(node, _casts(result, rounded, half))
    for value in graph.inputs:
        if (half := value.dtype) in halves:
            value.dtype = ir.DataType.FLOAT
            rounded = ir.Value(name=f"{value.name}/rounded")
            value.replace_all_uses_with(rounded)
            graph.insert_before(graph[0], _casts(value, rounded, half))
    return ir.to_proto(copy)


def _casts(source: ir.Value | None, rounded: ir.Value, half: ir.DataType) -> tuple[ir.Node, ir.Node]:
    """Return the casts from float32 to half precision and back that compute a rounded value."""
    import onnx_ir as ir

    name = f"{rounded.name}/stored"
    stored = ir.Value(name=name)
    return (
        ir.node("Cast", [source], {"to": half}, outputs=[stored], name=f"{name}/Cast"),
        ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, outputs=[rounded], name=f"{name}/Cast_1"),
    )
