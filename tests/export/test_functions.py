"""A file's own functions in an engine that does not share ONNX Runtime's arithmetic."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from exported import ExportStore
from onnx import inliner
from tiny_kgt import CONFIG


@pytest.mark.parametrize("k", [1, 16, 50, 64])
def test_an_exported_file_in_openvino(exports: ExportStore, k: int) -> None:
    """OpenVINO computes int32 in float32. Windows of 64 nodes have words whose upper bits are set."""
    import onnxruntime
    import openvino

    path = exports.get(CONFIG, "tiny").onnx
    inputs = {
        "image": np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32),
        "k": np.array([k]),
    }
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    core = openvino.Core()
    model = core.read_model(inliner.inline_local_functions(onnx.load(path)).SerializeToString())
    result = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)[0]
    psnr = -10 * np.log10(np.mean((result - expected) ** 2) + 1e-20)
    assert psnr > 90
