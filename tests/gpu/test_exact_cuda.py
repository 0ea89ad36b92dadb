"""Exact tiled inference on a GPU; needs a GPU and onnxruntime-gpu."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keygraph import load
from keygraph.instrumentation.metrics import psnr
from keygraph.instrumentation.synthetic import synthetic_image as picture

onnxruntime = pytest.importorskip("onnxruntime")
if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
    pytest.skip("needs onnxruntime-gpu", allow_module_level=True)


# TF32 rounds FP32 products to 10 bits, differently for whole images and for tiles.
@pytest.mark.parametrize(("precision", "decibels"), [("fp32", 60), ("fp16", 45)])
def test_exact_tiles_give_the_whole_images_result(tmp_path: Path, precision: str, decibels: float) -> None:
    import torch
    from keygraph.export import export
    from keygraph.models import LoadedModel
    from keygraph.models.restormer import ARCHITECTURE, RestormerConfig

    torch.manual_seed(0)
    config = RestormerConfig(
        channels=16, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4), attention="glmha"
    )
    model = LoadedModel(ARCHITECTURE.build(config).eval(), ARCHITECTURE, config, tmp_path, ())
    export(model, tmp_path / "model.onnx", precision=precision, verification=False)
    restorer = load(tmp_path / "model.onnx", device="cuda")
    image = np.ascontiguousarray(np.moveaxis(picture((1, 3, 501, 700), (0.0, 1.0))[0], 0, 2))
    whole = restorer.restore(image, tile="none").image
    exact = restorer.restore(image, tile=256, global_statistics="exact")
    assert exact.sweeps > 1
    assert psnr(exact.image, whole, (0.0, 1.0)) > decibels
