"""Products of matrices in FP32, for a builder that has none: TensorRT-RTX for sm_75.

Two kinds of them are in a half-precision file. The operators' functions compute similarities and attention in FP32,
over few channels, and choose neighbours by the result: there the product is written as a sum of products, which the
builder fuses. Channel attention sums over all pixels, in FP32 because half would overflow: there the rows are divided
by their norms first, the product of these is taken in half, accumulated in FP32, and multiplied by the norms again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .model import Model, onnx

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16

#: Added to sums of squares, so that a row of zeros stays one: its root is far below anything half can hold.
_TINY = np.float32(1e-30)


def check_products(model: Model, target: str) -> None:
    """Refuse a file whose layers compute in another type than FP16; raises `InputError`."""
    if model.manifest.precision != "fp16":
        raise InputError(
            f"{model.path} is {model.manifest.precision}, but TensorRT-RTX multiplies matrices in fp16 only "
            f"for {target}; export the checkpoint again with: export-model CHECKPOINT --precision fp16"
        )


def without_products(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without a MatMul of FP32 values; the numbers are the same, up to half's rounding of cosines."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for function in copy.functions:
        _replace(function.node, _sum)
    singles = {value.name for value in copy.graph.value_info if value.type.tensor_type.elem_type == _FLOAT}
    singles |= {tensor.name for tensor in copy.graph.initializer if tensor.data_type == _FLOAT}
    _replace(copy.graph.node, lambda node: _cosines(node) if singles.issuperset(node.input) else [node])
    return copy


def _replace(nodes: Any, write: Callable[[onnx.NodeProto], Iterable[onnx.NodeProto]]) -> None:
    """Write every MatMul in another way."""
    written = [new for node in nodes for new in (write(node) if node.op_type == "MatMul" else [node])]
    written = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written]
    del nodes[:]
    nodes.extend(written)


def _sum(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """a . b is the sum over n of a[..., n, None] * b[..., None, n, :]."""
    (left, right), (result,) = node.input, node.output
    for axis in (-1, -2, -3):
        yield _constant(f"{result}_axis{-axis}", np.array([axis], np.int64))
    yield _make("Unsqueeze", [left, f"{result}_axis1"], f"{result}_left")
    yield _make("Unsqueeze", [right, f"{result}_axis3"], f"{result}_right")
    yield _make("Mul", [f"{result}_left", f"{result}_right"], f"{result}_products")
    yield _make("ReduceSum", [f"{result}_products", f"{result}_axis2"], result, keepdims=0)


def _cosines(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """a . b is |a| (a / |a| . b / |b|) |b|, with the norms of a's rows and of b's columns.

    The product in brackets is at most 1, whatever the length of the rows. A product in half between Casts to and from
    FP32 is what TensorRT computes with half's speed and FP32's accumulation.
    """
    (left, right), (result,) = node.input, node.output
    yield _constant(f"{result}_tiny", _TINY)
    for side, values, axis in (("left", left, -1), ("right", right, -2)):
        name = f"{result}_{side}"
        yield _constant(f"{name}_axis", np.array([axis], np.int64))
        yield _make("ReduceSumSquare", [values, f"{name}_axis"], f"{name}_squares", keepdims=1)
        yield _make("Add", [f"{name}_squares", f"{result}_tiny"], f"{name}_sum")
        yield _make("Sqrt", [f"{name}_sum"], f"{name}_norm")
        yield _make("Div", [values, f"{name}_norm"], f"{name}_unit")
        yield _make("Cast", [f"{name}_unit"], f"{name}_half", to=_HALF)
        yield _make("Cast", [f"{name}_half"], f"{name}_single", to=_FLOAT)
    yield _make("MatMul", [f"{result}_left_single", f"{result}_right_single"], f"{result}_product")
    yield _make("Cast", [f"{result}_product"], f"{result}_cosine_half", to=_HALF)
    yield _make("Cast", [f"{result}_cosine_half"], f"{result}_cosine", to=_FLOAT)
    yield _make("Mul", [f"{result}_cosine", f"{result}_left_norm"], f"{result}_scaled")
    yield _make("Mul", [f"{result}_scaled", f"{result}_right_norm"], result)


def _make(op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    # With a name, a builder's message names the product that it is about.
    return onnx.helper.make_node(op_type, inputs, [output], name=output, **attributes)


def _constant(name: str, value: np.ndarray | np.generic) -> onnx.NodeProto:
    return onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value), name))
