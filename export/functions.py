"""The operators as ONNX model-local functions, in standard operators of opset 20.

Engines without keygraph's libraries run these. Limits of such engines shape the bodies:

- TensorRT imports no bitwise operators, so bits are extracted by integer division. Its ScatterElements has no
  reduction.
- OpenVINO computes ReduceSum, Div, Mod and comparisons of int32 in float32, which has 24 exact bits. So words are made
  of halves of 16 bits and split into them, and only Add, Sub and Mul, which are exact everywhere, see all 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "keygraph"
VERSION = 1
OPSET = 20

#: Operators whose result is a key graph.
GRAPH_OPERATORS = ("KeyGraph", "PackGraph", "TopKGraph")

#: Attributes by which TensorRT finds a plugin for a node; without them it uses the function.
PLUGIN_ATTRIBUTES = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION)}

_LOWEST = np.float32(np.finfo(np.float32).min)
_WORD = 32
_HALF = 16


class _Body:
    """The nodes of a function body: ``body.Op(*inputs, attribute=...)`` adds a node and returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def __getattr__(self, op_type: str) -> Callable[..., str]:
        def add(*inputs: str, output: str | None = None, **attributes: Any) -> str:
            name = output or f"{op_type.lower()}_{len(self.nodes)}"
            self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
            return name

        return add

    def constant(self, value: object, dtype: type) -> str:
        return self.Constant(value=numpy_helper.from_array(np.asarray(value, dtype)))

    def reference(self, attribute: str, kind: str, type_: onnx.AttributeProto.AttributeType) -> str:
        """Add a constant with the value of a function attribute; `kind` is Constant's attribute of that type."""
        node = helper.make_node("Constant", [], [f"attribute_{attribute}"])
        node.attribute.append(onnx.AttributeProto(name=kind, ref_attr_name=attribute, type=type_))
        self.nodes.append(node)
        return str(node.output[0])

    def float32(self, name: str) -> str:
        return self.Cast(name, to=TensorProto.FLOAT)

    def transposed(self, name: str) -> str:
        return self.Transpose(name, perm=[0, 1, 3, 2])

    def joined(self, halves: str) -> str:
        """Add int32 words [..., 1] of their lower and upper halves [..., 2]; the upper ones are in [-32768, 32767]."""
        low, high = f"{halves}_low", f"{halves}_high"
        self.nodes.append(helper.make_node("Split", [halves], [low, high], axis=-1, num_outputs=2))
        return self.Add(low, self.Mul(high, self.constant(1 << _HALF, np.int32)))

    def halves(self, words: str) -> str:
        """Add the lower and upper halves [..., 2] of int32 words [...], in [0, 65535]."""
        base = self.constant(1 << _HALF, np.int32)

        def negative(number: str) -> str:
            return self.Cast(self.Less(number, self.constant(0, np.int32)), to=TensorProto.INT32)

        # A word that is rounded to float32 may give a quotient that is one too far from 0. The remainder is in
        # (-65536, 65536) all the same; where it is negative, the quotient is one too large.
        quotient = self.Div(words, base)
        remainder = self.Sub(words, self.Mul(quotient, base))
        below = negative(remainder)
        low, high = self.Add(remainder, self.Mul(below, base)), self.Sub(quotient, below)
        high = self.Add(high, self.Mul(negative(high), base))
        last = self.constant([-1], np.int64)
        return self.Concat(self.Unsqueeze(low, last), self.Unsqueeze(high, last), axis=-1)

    def key_count(self, name: str, axis: int) -> tuple[str, str]:
        """Add N, the size of an axis, and ceil(N / 32), the number of words for N bits; both int64[1]."""
        count = self.Shape(name, start=axis, end=axis + 1)
        words = self.Div(self.Add(count, self.constant([_WORD - 1], np.int64)), self.constant([_WORD], np.int64))
        return count, words

    def pack(self, selected: str, rows: str, count: str, words: str) -> None:
        """Add the output ``graph`` of int32[B, G, M, N], 0 or 1; `rows` is int64[3]: B, G, M."""
        missing = self.Sub(self.Mul(words, self.constant([_WORD], np.int64)), count)
        pads = self.Concat(self.constant([0] * 7, np.int64), missing, axis=0)
        padded = self.Pad(selected, pads, self.constant(0, np.int32))
        shape = self.Concat(rows, words, self.constant([2, _HALF], np.int64), axis=0)
        # The sum of distinct powers of two is half a word; bit 15 of the upper half is the sign of the int32.
        values = np.tile(1 << np.arange(_HALF), (2, 1))
        values[1, -1] *= -1
        weighted = self.Mul(self.Reshape(padded, shape), self.constant(values, np.int32))
        last = self.constant([-1], np.int64)
        self.Squeeze(self.joined(self.ReduceSum(weighted, last, keepdims=0)), last, output="graph")

    def pack_largest(self, scores: str) -> None:
        """Add the output ``graph`` of the `k` largest of float32[B, G, M, N]."""
        # ONNX does not define where TopK ranks NaN. Here it ranks last, even after a genuine -inf.
        clamped = self.Max(scores, self.constant(_LOWEST, np.float32))
        ranked = self.Where(self.IsNaN(scores), self.constant(-np.inf, np.float32), clamped)
        count, words = self.key_count(scores, 3)
        # ONNX has no operator that raises an error, but engines refuse to select -1 values. Messages may contain the
        # name.
        refused = self.Less("k", self.constant([1], np.int64))
        keep = self.Where(refused, self.constant([-1], np.int64), self.Min("k", count))
        name = "k_must_be_at_least_1"
        self.nodes.append(
            helper.make_node("TopK", [ranked, keep], ["largest", "index"], name, axis=-1, largest=1, sorted=1)
        )
        one = numpy_helper.from_array(np.asarray([1], np.int32))
        zero = numpy_helper.from_array(np.asarray([0], np.int32))
        selected = self.ScatterElements(
            self.ConstantOfShape(self.Shape(scores), value=zero),
            "index",
            self.ConstantOfShape(self.Shape("index"), value=one),
            axis=-1,
        )
        self.pack(selected, self.Shape(scores, start=0, end=3), count, words)


def _function(name: str, inputs: list[str], output: str, attributes: list[str], body: _Body) -> FunctionProto:
    return helper.make_function(
        DOMAIN, name, inputs, [output], body.nodes, [helper.make_opsetid("", OPSET)], attributes=attributes
    )


def key_graph_function() -> FunctionProto:
    """Build KeyGraph(query, key, k) -> graph."""
    body = _Body()
    similarity = body.MatMul(body.float32("query"), body.transposed(body.float32("key")))
    body.pack_largest(similarity)
    return _function("KeyGraph", ["query", "key", "k"], "graph", [*PLUGIN_ATTRIBUTES], body)


def top_k_graph_function() -> FunctionProto:
    """Build TopKGraph(scores, k) -> graph."""
    body = _Body()
    body.pack_largest(body.float32("scores"))
    return _function("TopKGraph", ["scores", "k"], "graph", [*PLUGIN_ATTRIBUTES], body)


def pack_graph_function(threshold: bool) -> FunctionProto:
    """Build PackGraph(mask[, threshold]) -> graph.

    Parameters
    ----------
    threshold
        Whether the nodes have that input: a function body cannot test it.
    """
    body = _Body()
    mask = body.float32("mask")
    if threshold:
        # Not GreaterOrEqual, which is true for NaN in OpenVINO.
        selected = body.LessOrEqual(body.float32("threshold"), mask)
    else:
        # Not a cast to bool, whose result for NaN ONNX does not define.
        selected = body.Not(body.Equal(mask, body.constant(0, np.float32)))
    count, words = body.key_count("mask", 3)
    body.pack(body.Cast(selected, to=TensorProto.INT32), body.Shape("mask", start=0, end=3), count, words)
    return _function("PackGraph", ["mask", "threshold"][: 1 + threshold], "graph", [*PLUGIN_ATTRIBUTES], body)


def key_graph_attention_function(bias: bool, heads_last: bool) -> FunctionProto:
    """Build KeyGraphAttention(q, k, v, graph[, bias]; scale[, heads]) -> attended.

    A function body can test neither whether an optional input is present nor the rank of a tensor, so a file holds the
    form that its nodes need.

    Parameters
    ----------
    bias
        True for nodes with the input `bias`.
    heads_last
        True for nodes with the attribute `heads`, whose tensors are [B, N, H D]; false for [B, H, N, D].
    """
    body = _Body()
    count, words = body.key_count("k", 1 if heads_last else 2)
    q, k, v = "q", "k", "v"
    if heads_last:
        heads = body.Reshape(
            body.reference("heads", "value_int", onnx.AttributeProto.INT), body.constant([1], np.int64)
        )
        split = body.Concat(body.constant([0, 0], np.int64), heads, body.constant([-1], np.int64), axis=0)
        q, k, v = (body.Transpose(body.Reshape(x, split), perm=[0, 2, 1, 3]) for x in (q, k, v))
    halves = body.Unsqueeze(body.halves("graph"), body.constant([-1], np.int64))
    shifted = body.Div(halves, body.constant(1 << np.arange(_HALF), np.int32))
    shape = body.Concat(body.Shape("graph", start=0, end=3), body.Mul(words, body.constant([_WORD], np.int64)), axis=0)
    bits = body.Reshape(body.Mod(shifted, body.constant(2, np.int32)), shape)
    bits = body.Slice(bits, body.constant([0], np.int64), count, body.constant([3], np.int64))
    selected = body.Cast(bits, to=TensorProto.BOOL)
    scores = body.MatMul(body.float32(q), body.transposed(body.float32(k)))
    scores = body.Mul(scores, body.reference("scale", "value_float", onnx.AttributeProto.FLOAT))
    if bias:
        # [H, M, N] or [W, H, M, N]: the scores become [B, H, M, N] or [B / W, W, H, M, N], and the bias broadcasts.
        windows = body.Concat(body.constant([-1], np.int64), body.Shape("bias"), axis=0)
        biased = body.Add(body.Reshape(scores, windows), body.float32("bias"))
        scores = body.Reshape(biased, body.Shape(scores))
    weights = body.Softmax(body.Where(selected, scores, body.constant(_LOWEST, np.float32)), axis=-1)
    # Masked again after the softmax, which gives 1/N everywhere in a row with nothing selected.
    weights = body.Where(selected, weights, body.constant(0, np.float32))
    attended = body.MatMul(weights, body.float32(v))
    if heads_last:
        merge = body.constant([0, 0, -1], np.int64)
        attended = body.Reshape(body.Transpose(attended, perm=[0, 2, 1, 3]), merge)
    body.CastLike(attended, "v", output="attended")
    inputs = ["q", "k", "v", "graph"] + ["bias"] * bias
    attributes = ["scale"] + ["heads"] * heads_last
    return _function("KeyGraphAttention", inputs, "attended", [*attributes, *PLUGIN_ATTRIBUTES], body)


def operator_functions(
    bias: bool = False, heads_last: bool = False, opset: int = OPSET, threshold: bool = False
) -> list[FunctionProto]:
    """Build the functions for a file.

    Parameters
    ----------
    bias, heads_last
        The form of the file's KeyGraphAttention nodes, see `key_graph_attention_function`.
    opset
        The file's opset, 20 to 22; the operators of the bodies are the same in all of them.
    threshold
        The form of the file's PackGraph nodes, see `pack_graph_function`.

    Returns
    -------
    list of FunctionProto
    """
    functions = [
        key_graph_function(),
        pack_graph_function(threshold),
        top_k_graph_function(),
        key_graph_attention_function(bias, heads_last),
    ]
    for function in functions:
        function.opset_import[0].version = opset
    return functions
