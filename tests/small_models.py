"""Models made by hand, with a manifest that is changed at will."""

from __future__ import annotations

from typing import Any

import numpy as np
from keygraph.manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, METADATA_KEY, Manifest


def manifest_for(**changes: Any) -> Manifest:
    """A manifest of a colour model without a key graph, changed at will."""
    values: dict[str, Any] = {
        "architecture": "test",
        "configuration": {},
        "task": "",
        "scale": 1,
        "in_channels": 3,
        "out_channels": 3,
        "value_range": (0.0, 1.0),
        "size_multiple": 8,
        "global_statistics": False,
        "shape": None,
        "neighbours": None,
        "precision": "fp32",
        "weights_sha256": "0" * 64,
    }
    return Manifest(**{**values, **changes})


def model_bytes(kind: str, manifest: Manifest) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), name)

    node = helper.make_node
    image, out = IMAGE_INPUT, IMAGE_OUTPUT
    channels, scale = manifest.in_channels, float(manifest.scale)
    nodes, constants = {
        "identity": ([node("Identity", [image], [out])], []),
        "nearest": (
            [node("Resize", [image, "", "scales"], [out], mode="nearest", coordinate_transformation_mode="asymmetric")],
            [constant("scales", np.array([1, 1, scale, scale], np.float32))],
        ),
        "blur": (
            [node("Conv", [image, "kernel"], [out], group=channels, pads=[2, 2, 2, 2])],
            [constant("kernel", np.full((channels, 1, 5, 5), 1 / 25, np.float32))],
        ),
        "masked": ([node("Mul", [image, "mask"], [out])], []),
        "bands": (
            [node("Conv", [image, "kernel"], [out])],
            [
                constant(
                    "kernel",
                    np.arange(1, manifest.out_channels + 1, dtype=np.float32)[:, None, None, None]
                    * np.full((1, channels, 1, 1), 1 / channels, np.float32),
                )
            ],
        ),
        "add_k": (
            [
                node("Cast", [K_INPUT], ["k_float"], to=TensorProto.FLOAT),
                node("Div", ["k_float", "thousand"], ["change"]),
                node("Add", [image, "change"], [out]),
            ],
            [constant("thousand", np.array([1000], np.float32))],
        ),
        "bright_nan": (
            [node("Greater", [image, "limit"], ["bright"]), node("Where", ["bright", "nan", image], [out])],
            [constant("limit", np.float32(0.9)), constant("nan", np.float32("nan"))],
        ),
        "outer": (
            [
                node("Reshape", [image, "as_column"], ["column"]),
                node("Reshape", [image, "as_row"], ["row"]),
                node("MatMul", ["column", "row"], ["outer"]),
                node("ReduceMax", ["outer"], ["peak"], keepdims=0),
                node("Mul", ["peak", "zero"], ["nothing"]),
                node("Add", [image, "nothing"], [out]),
            ],
            [
                constant("as_column", np.array([-1, 1])),
                constant("as_row", np.array([1, -1])),
                constant("zero", np.float32(0)),
            ],
        ),
    }[kind]
    batch, height, width = manifest.shape or ("batch", "height", "width")
    inputs = [helper.make_tensor_value_info(image, TensorProto.FLOAT, [batch, channels, height, width])]
    inputs += [
        helper.make_tensor_value_info(extra.name, TensorProto.FLOAT, [batch, extra.channels, None, None])
        for extra in manifest.extra_inputs
    ]
    if kind == "add_k":
        inputs.append(helper.make_tensor_value_info(K_INPUT, TensorProto.INT64, [1]))
    outputs = [helper.make_tensor_value_info(out, TensorProto.FLOAT, [batch, manifest.out_channels, None, None])]
    graph = helper.make_graph(nodes, kind, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
