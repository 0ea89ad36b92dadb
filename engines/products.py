"""Products of matrices in FP32, for a builder that has none: TensorRT-RTX for sm_75.

The operators' functions compute similarities and attention in FP32, whatever the file's type. There the product is
written as a sum of products, which the builder fuses: an engine of the demo's model needs no more memory for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import InputError
from .model import Model, onnx


def check_products(model: Model, target: str) -> None:
    """Refuse a file whose layers compute in another type than FP16; raises `InputError`."""
    if model.manifest.precision != "fp16":
        raise InputError(
            f"{model.path} is {model.manifest.precision}, but TensorRT-RTX multiplies matrices in fp16 only "
            f"for {target}; export the checkpoint again with: export-model CHECKPOINT --precision fp16"
        )


def without_products(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose functions hold no MatMul: a . b is the sum over n of a[..., n, None] * b[..., None, n, :]."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for function in copy.functions:
        nodes = [new for node in function.node for new in (_sum(node) if node.op_type == "MatMul" else [node])]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del function.node[:]
        function.node.extend(nodes)
    return copy


def _sum(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    (left, right), (result,) = node.input, node.output
    make = onnx.helper.make_node
    for axis in (-1, -2, -3):
        value = onnx.numpy_helper.from_array(np.array([axis], np.int64))
        yield make("Constant", [], [f"{result}_axis{-axis}"], value=value)
    yield make("Unsqueeze", [left, f"{result}_axis1"], [f"{result}_left"])
    yield make("Unsqueeze", [right, f"{result}_axis3"], [f"{result}_right"])
    yield make("Mul", [f"{result}_left", f"{result}_right"], [f"{result}_products"])
    yield make("ReduceSum", [f"{result}_products", f"{result}_axis2"], [result], keepdims=0)
