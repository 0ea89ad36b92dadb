"""Emulate half precision in float32, where kernels for it are missing and for comparisons with a GPU.

ONNX Runtime's CPU provider has no bfloat16 kernels, and runs float16 operators that it lacks in float32, without
rounding or overflow between operators. So neither type behaves there as on a GPU. The graph made here computes every
operator in float32 and rounds each result that the file stores in half precision to that type, as a GPU does that
accumulates in float32.

The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

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
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    for tensor in graph.initializer:
        if tensor.data_type in halves:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]

    def rounded(source: str, name: str, half: int) -> list[NodeProto]:
        stored = f"{name}/stored"
        return [
            helper.make_node("Cast", [source], [stored], f"{stored}/Cast", to=half),
            helper.make_node("Cast", [stored], [name], f"{stored}/Cast_1", to=TensorProto.FLOAT),
        ]

    nodes: list[NodeProto] = []
    renamed = {}
    for value in graph.input:
        if types[value.name] in halves:
            renamed[value.name] = f"{value.name}/rounded"
            nodes += rounded(value.name, renamed[value.name], types[value.name])
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        half = types.get(node.output[0], TensorProto.UNDEFINED)
        if half not in halves or (node.domain in ("", "ai.onnx") and node.op_type in MOVES):
            nodes.append(node)
            continue
        name = node.output[0]
        if node.op_type == "Cast":
            nodes += rounded(node.input[0], name, half)
            continue
        node.output[0] = f"{name}/exact"
        nodes += [node, *rounded(node.output[0], name, half)]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return copy
