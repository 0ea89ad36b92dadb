"""The operators as ONNX model-local functions, in standard operators of opset 20.

What an engine without our libraries runs. Two limits of engines shape the bodies: TensorRT imports no bitwise operators
(bits are taken out with integer division), and its ScatterElements has no reduction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "keygraph"
VERSION = 1
OPSET = 20

#: TensorRT takes a plugin instead of the function only where a node names its namespace and version.
PLUGIN_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION)}

_LOWEST = np.float32(np.finfo(np.float32).min)
_WORD = 32


class _Body:
    """Collects the nodes of a function's body: `body.Op(inputs, attribute=...)` gives the output's name."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def __getattr__(self, op_type: str):  # type: ignore[no-untyped-def]
        def add(*inputs: str, output: str | None = None, **attributes: Any) -> str:
            name = output or f"{op_type.lower()}_{len(self.nodes)}"
            self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
            return name

        return add

    def constant(self, value: object, dtype: type) -> str:
        return str(self.Constant(value=numpy_helper.from_array(np.asarray(value, dtype))))

    def reference(self, attribute: str, kind: str, type_: onnx.AttributeProto.AttributeType) -> str:
        """An attribute of the function as a tensor; `kind` is Constant's attribute for its type."""
        node = helper.make_node("Constant", [], [f"attribute_{attribute}"])
        node.attribute.append(onnx.AttributeProto(name=kind, ref_attr_name=attribute, type=type_))
        self.nodes.append(node)
        return str(node.output[0])

    def float32(self, name: str) -> str:
        return str(self.Cast(name, to=TensorProto.FLOAT))

    def transposed(self, name: str) -> str:
        return str(self.Transpose(name, perm=[0, 1, 3, 2]))

    def nodes_of(self, name: str, axis: int) -> tuple[str, str]:
        """N, the size of an axis, and the words that hold N bits; both int64[1]."""
        count = self.Shape(name, start=axis, end=axis + 1)
        words = self.Div(self.Add(count, self.constant([_WORD - 1], np.int64)), self.constant([_WORD], np.int64))
        return count, words


def _function(name: str, inputs: list[str], output: str, attributes: list[str], body: _Body) -> FunctionProto:
    return helper.make_function(
        DOMAIN, name, inputs, [output], body.nodes, [helper.make_opsetid("", OPSET)], attributes=attributes
    )


def key_graph_function() -> FunctionProto:
    """KeyGraph(query, key, k) -> graph."""
    body = _Body()
    similarity = body.MatMul(body.float32("query"), body.transposed(body.float32("key")))
    # TopK leaves the place of NaN open; behind everything means behind a genuine -inf too.
    clamped = body.Max(similarity, body.constant(_LOWEST, np.float32))
    ranked = body.Where(body.IsNaN(similarity), body.constant(-np.inf, np.float32), clamped)
    count, words = body.nodes_of("key", 2)
    keep = body.Min("k", count)
    body.nodes.append(helper.make_node("TopK", [ranked, keep], ["largest", "index"], axis=-1, largest=1, sorted=1))
    one = numpy_helper.from_array(np.asarray([1], np.int32))
    zero = numpy_helper.from_array(np.asarray([0], np.int32))
    selected = body.ScatterElements(
        body.ConstantOfShape(body.Shape(similarity), value=zero),
        "index",
        body.ConstantOfShape(body.Shape("index"), value=one),
        axis=-1,
    )
    missing = body.Sub(body.Mul(words, body.constant([_WORD], np.int64)), count)
    pads = body.Concat(body.constant([0] * 7, np.int64), missing, axis=0)
    padded = body.Pad(selected, pads, body.constant(0, np.int32))
    shape = body.Concat(body.Shape(similarity, start=0, end=3), words, body.constant([_WORD], np.int64), axis=0)
    # Distinct powers of two: their sum is the word; bit 31 is the int32's sign.
    values = body.constant([1 << j for j in range(31)] + [-(1 << 31)], np.int32)
    weighted = body.Mul(body.Reshape(padded, shape), values)
    body.ReduceSum(weighted, body.constant([-1], np.int64), keepdims=0, output="graph")
    return _function("KeyGraph", ["query", "key", "k"], "graph", [*PLUGIN_ATTRIBUTES], body)


def key_graph_attention_function(bias: bool, heads_last: bool) -> FunctionProto:
    """KeyGraphAttention(q, k, v, graph[, bias]; scale[, heads]) -> attended.

    A body cannot ask whether an optional input is there, or how many sizes a tensor has, so a file carries the one
    that its nodes need.
    """
    body = _Body()
    count, words = body.nodes_of("k", 1 if heads_last else 2)
    q, k, v = "q", "k", "v"
    if heads_last:
        heads = body.Reshape(
            body.reference("heads", "value_int", onnx.AttributeProto.INT), body.constant([1], np.int64)
        )
        split = body.Concat(body.constant([0, 0], np.int64), heads, body.constant([-1], np.int64), axis=0)
        q, k, v = (body.Transpose(body.Reshape(x, split), perm=[0, 2, 1, 3]) for x in (q, k, v))
    negative = body.Less("graph", body.constant(0, np.int32))
    low = body.Where(negative, body.Sub("graph", body.constant(-(1 << 31), np.int32)), "graph")
    last = body.constant([-1], np.int64)
    shifted = body.Div(body.Unsqueeze(low, last), body.constant([1 << j for j in range(31)], np.int32))
    low_bits = body.Mod(shifted, body.constant(2, np.int32))
    sign_bit = body.Cast(body.Unsqueeze(negative, last), to=TensorProto.INT32)
    shape = body.Concat(body.Shape("graph", start=0, end=3), body.Mul(words, body.constant([_WORD], np.int64)), axis=0)
    bits = body.Reshape(body.Concat(low_bits, sign_bit, axis=-1), shape)
    bits = body.Slice(bits, body.constant([0], np.int64), count, body.constant([3], np.int64))
    selected = body.Cast(bits, to=TensorProto.BOOL)
    scores = body.MatMul(body.float32(q), body.transposed(body.float32(k)))
    scores = body.Mul(scores, body.reference("scale", "value_float", onnx.AttributeProto.FLOAT))
    if bias:
        scores = body.Add(scores, body.float32("bias"))
    weights = body.Softmax(body.Where(selected, scores, body.constant(_LOWEST, np.float32)), axis=-1)
    # Once more after the softmax: in a row with nothing selected every weight is 1/N.
    weights = body.Where(selected, weights, body.constant(0, np.float32))
    attended = body.MatMul(weights, body.float32(v))
    if heads_last:
        merge = body.constant([0, 0, -1], np.int64)
        attended = body.Reshape(body.Transpose(attended, perm=[0, 2, 1, 3]), merge)
    body.CastLike(attended, "v", output="attended")
    inputs = ["q", "k", "v", "graph"] + ["bias"] * bias
    attributes = ["scale"] + ["heads"] * heads_last
    return _function("KeyGraphAttention", inputs, "attended", [*attributes, *PLUGIN_ATTRIBUTES], body)


def operator_functions(bias: bool = False, heads_last: bool = False, opset: int = OPSET) -> list[FunctionProto]:
    """Both operators, as the file's KeyGraphAttention nodes use them: with a bias or not, of four sizes or of three.

    `opset` is the file's, 20 to 22: what the bodies use means the same in all of them.
    """
    functions = [key_graph_function(), key_graph_attention_function(bias, heads_last)]
    for function in functions:
        function.opset_import[0].version = opset
    return functions
