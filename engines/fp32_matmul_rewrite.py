"""Rewrite FP32 matrix products for TensorRT-RTX on sm_75, whose builder has no kernels for them.

A half-precision file contains two kinds. The functions of keygraph's operators compute similarities and attention in
FP32 over few channels, and select neighbours by the result: there a product is rewritten as a sum of elementwise
products, which the builder fuses. Channel attention sums over all pixels, in FP32 because half precision would
overflow: there the rows are normalized, their product is computed in half precision with FP32 accumulation, and the
norms are multiplied back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import InputError
from .model import Model, onnx

#: Added to sums of squares to avoid 0 / 0 for rows of zeros. Its root is far below the smallest half number.
_TINY = np.float32(1e-30)


def check_precision(model: Model, target: str) -> None:
    """Raise `InputError` unless the file's layers compute in FP16."""
    if model.manifest.precision != "fp16":
        raise InputError(
            f"{model.path} is {model.manifest.precision}, but TensorRT-RTX multiplies matrices in fp16 only "
            f"for {target}; export the checkpoint again with: export-model CHECKPOINT --precision fp16"
        )


def rewrite_fp32_matmuls(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without FP32 MatMul nodes. Results agree up to the rounding of cosines to half precision."""
    model = ir.from_proto(proto)
    for function in model.functions.values():
        for node in list(function):
            if node.op_type == "MatMul":
                _replace(function, node, _sum)
    for node in list(model.graph):
        if node.op_type == "MatMul" and all(v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs):
            _replace(model.graph, node, _cosines)
    return ir.to_proto(model)


def _replace(graph: ir.Graph | ir.Function, node: ir.Node, write: Callable[[_Nodes, ir.Node], None]) -> None:
    """Replace a node by those that `write` adds; the last one computes the node's output."""
    nodes = _Nodes(node)
    write(nodes, node)
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], nodes.tape.nodes, [node.outputs[0]], [nodes.tape.nodes[-1].outputs[0]]
    )


class _Nodes:
    """Nodes in place of a product, with names that begin with its output's: they appear in the builder's messages."""

    def __init__(self, product: ir.Node) -> None:
        self.tape = ir.tape.Tape()
        self._result = product.outputs[0].name

    def add(self, op_type: str, inputs: list[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
        name = f"{self._result}{name}"
        return self.tape.op(op_type, inputs, attributes, name=name, output=ir.Value(name=name))

    def constant(self, name: str, value: np.ndarray[Any, Any] | np.generic) -> ir.Value:
        return self.add("Constant", [], name, value=ir.tensor(np.asarray(value)))

    def axis(self, name: str, axis: int) -> ir.Value:
        return self.constant(name, np.array([axis], np.int64))


def _sum(nodes: _Nodes, product: ir.Node) -> None:
    """Write a @ b as the sum over n of a[..., n, None] * b[..., None, n, :]."""
    a, b = product.inputs
    left = nodes.add("Unsqueeze", [a, nodes.axis("_axis1", -1)], "_left")
    right = nodes.add("Unsqueeze", [b, nodes.axis("_axis3", -3)], "_right")
    products = nodes.add("Mul", [left, right], "_products")
    nodes.add("ReduceSum", [products, nodes.axis("_axis2", -2)], "", keepdims=0)


def _cosines(nodes: _Nodes, product: ir.Node) -> None:
    """Write a @ b as |a| ((a / |a|) @ (b / |b|)) |b|, with the norms of a's rows and of b's columns.

    The product of the normalized matrices is at most 1 for rows of any length. TensorRT computes a product between
    Casts from and to half precision with half-precision kernels that accumulate in FP32.
    """
    tiny = nodes.constant("_tiny", _TINY)
    units, norms = [], []
    for name, values, axis in (("_left", product.inputs[0], -1), ("_right", product.inputs[1], -2)):
        squares = nodes.add(
            "ReduceSumSquare", [values, nodes.axis(f"{name}_axis", axis)], f"{name}_squares", keepdims=1
        )
        norms.append(nodes.add("Sqrt", [nodes.add("Add", [squares, tiny], f"{name}_sum")], f"{name}_norm"))
        units.append(_through_half(nodes, nodes.add("Div", [values, norms[-1]], f"{name}_unit"), name))
    cosine = _through_half(nodes, nodes.add("MatMul", [*units], "_product"), "_cosine")
    nodes.add("Mul", [nodes.add("Mul", [cosine, norms[0]], "_scaled"), norms[1]], "")


def _through_half(nodes: _Nodes, value: ir.Value, name: str) -> ir.Value:
    """Round a value to half precision and back."""
    half = nodes.add("Cast", [value], f"{name}_half", to=ir.DataType.FLOAT16)
    return nodes.add("Cast", [half], f"{name}_single", to=ir.DataType.FLOAT)
