"""Rewrite FP32 matrix products for TensorRT-RTX on sm_75, whose builder has no kernels for them.

A half-precision file contains two kinds. The functions of keygraph's operators compute similarities and attention in
FP32 over few channels, and select neighbours by the result: there a product is rewritten as a sum of elementwise
products, which the builder fuses. Channel attention sums over all pixels, in FP32 because half precision would
overflow: there the rows are normalized, their product is computed in half precision with FP32 accumulation, and the
norms are multiplied back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .model import Model, onnx

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16

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
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for function in copy.functions:
        _replace(function.node, _sum)
    singles = {value.name for value in copy.graph.value_info if value.type.tensor_type.elem_type == _FLOAT}
    singles |= {tensor.name for tensor in copy.graph.initializer if tensor.data_type == _FLOAT}
    _replace(copy.graph.node, lambda node: _cosines(node) if singles.issuperset(node.input) else [node])
    return copy


def _replace(nodes: Any, write: Callable[[onnx.NodeProto], Iterable[onnx.NodeProto]]) -> None:
    """Replace every MatMul by the nodes that `write` returns."""
    written = [new for node in nodes for new in (write(node) if node.op_type == "MatMul" else [node])]
    written = [onnx.NodeProto.FromString(node.SerializeToString()) for node in written]
    del nodes[:]
    nodes.extend(written)


def _sum(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write a @ b as the sum over n of a[..., n, None] * b[..., None, n, :]."""
    (left, right), (result,) = node.input, node.output
    for axis in (-1, -2, -3):
        yield _constant(f"{result}_axis{-axis}", np.array([axis], np.int64))
    yield _make("Unsqueeze", [left, f"{result}_axis1"], f"{result}_left")
    yield _make("Unsqueeze", [right, f"{result}_axis3"], f"{result}_right")
    yield _make("Mul", [f"{result}_left", f"{result}_right"], f"{result}_products")
    yield _make("ReduceSum", [f"{result}_products", f"{result}_axis2"], result, keepdims=0)


def _cosines(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write a @ b as |a| ((a / |a|) @ (b / |b|)) |b|, with the norms of a's rows and of b's columns.

    The product of the normalized matrices is at most 1 for rows of any length. TensorRT computes a product between
    Casts from and to half precision with half-precision kernels that accumulate in FP32.
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
    # The name appears in the builder's messages.
    return onnx.helper.make_node(op_type, inputs, [output], name=output, **attributes)


def _constant(name: str, value: np.ndarray | np.generic) -> onnx.NodeProto:
    return onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value), name))
