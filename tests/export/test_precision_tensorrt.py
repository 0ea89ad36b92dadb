"""Half-precision files build in TensorRT-RTX, which needs no GPU to build; skipped where it is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from keygraph.export import export
from keygraph.models import LoadedModel

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs tensorrt_rtx_cu13_libs and tensorrt_rtx_cu13_bindings")


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_it_builds_strongly_typed(unet: LoadedModel, tmp_path: Path, precision: str) -> None:
    path = tmp_path / "kgt.onnx"
    export(unet, path, precision=precision, verification=False)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", (1, 3, 16, 16), (1, 3, 64, 64), (2, 3, 64, 64))
    profile.set_shape_input("k", [1], [20], [64])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    half = {"fp16": trt.DataType.HALF, "bf16": trt.DataType.BF16}[precision]
    types = {network.get_layer(i).get_output(0).dtype for i in range(network.num_layers)}
    assert half in types
    assert network.get_input(0).dtype == trt.DataType.FLOAT
