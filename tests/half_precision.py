"""Convert a file to FP16 except its inputs and outputs. It can be built, but its results are not accurate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny_kgt import changed, set_manifest


def make_half(source: Path, target: Path) -> Path:
    return changed(source, target, _halve)


def _halve(model: ModelProto) -> None:
    graph = model.graph
    for tensor in graph.initializer:
        _halve_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
                _halve_tensor(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        node.input[:] = ["image16" if name == "image" else name for name in node.input]
        node.output[:] = ["restored16" if name == "restored" else name for name in node.output]
    graph.node.insert(0, helper.make_node("Cast", ["image"], ["image16"], to=TensorProto.FLOAT16))
    graph.node.append(helper.make_node("Cast", ["restored16"], ["restored"], to=TensorProto.FLOAT))
    del graph.value_info[:]
    set_manifest(model, precision="fp16")
    onnx.checker.check_model(model, full_check=True)


def _halve_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
