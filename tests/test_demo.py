"""The promises made for the demo's model, on the photograph that it has never seen."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import keygraph
import numpy as np
import onnx
import pytest
from keygraph.export import export
from keygraph.instrumentation.metrics import psnr
from keygraph.models import load_checkpoint
from keygraph.runtime.tiling.blend import seam_ratio

EXAMPLES = Path(__file__).parents[1] / "examples"
CHECKPOINT = EXAMPLES / "kgt-denoise-tiny.ckpt"
UNIT = (0.0, 1.0)

#: dB that results agree by where each side selects its own neighbours. PyTorch's last bits are not the same in every
#: process: one near tie that falls the other way in one window costs 30 dB of the usual 94. Export, which the demo
#: calls, demands 90 dB with the same neighbours on both sides.
AS_RUN = 55.0

sys.path.insert(0, str(EXAMPLES))
from photos import add_noise, training_photos, unseen_photo  # noqa: E402


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "kgt-denoise.onnx"
    export(load_checkpoint(CHECKPOINT), path)
    return path


@pytest.fixture(scope="module")
def noisy() -> np.ndarray:
    photo: np.ndarray = add_noise(unseen_photo(), 25.0, seed=1)
    return photo


def test_the_checkpoint_is_small_and_the_photo_unseen() -> None:
    assert CHECKPOINT.stat().st_size <= 2_000_000
    unseen = unseen_photo()
    assert not any(photo.shape == unseen.shape for photo in training_photos().values())


def test_gain_on_the_unseen_photo(portable: Path, noisy: np.ndarray) -> None:
    clean = unseen_photo()
    restored = keygraph.load(portable)(noisy)
    assert restored.dtype == np.uint8
    assert psnr(restored, clean, (0, 255)) - psnr(noisy, clean, (0, 255)) >= 7.5


@pytest.mark.slow
@pytest.mark.parametrize("k", [32, 100, 256])
def test_three_ways_give_the_same_photo(portable: Path, noisy: np.ndarray, k: int) -> None:
    image = noisy.astype(np.float32) / 255
    ways = {
        "library": keygraph.load(portable),
        "functions": keygraph.load(portable, library=None),
        "PyTorch": keygraph.load(CHECKPOINT),
    }
    results = {name: restore(image, k) for name, restore in ways.items()}
    for (one, a), (other, b) in combinations(results.items(), 2):
        assert psnr(a, b, UNIT) >= AS_RUN, f"{one} against {other}"


def test_the_file_passes_the_checker_and_shape_inference(portable: Path) -> None:
    onnx.checker.check_model(portable, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(portable), check_type=True, strict_mode=True, data_prop=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    assert dims[1].dim_value == 3


def test_tiles_give_the_whole_photo_without_seams(portable: Path, noisy: np.ndarray) -> None:
    image = noisy.astype(np.float32) / 255
    restore = keygraph.load(portable)
    whole = restore.restore(image, tile="none")
    tiled = restore.restore(image, tile=128)
    assert len(tiled.plan.tiles) > 1
    assert psnr(tiled.image, whole.image, UNIT) >= 50
    # The steps across tile borders are those of the photo, not more.
    expected = seam_ratio(whole.image, tiled.plan)
    assert seam_ratio(tiled.image, tiled.plan) <= expected * 1.05
    butted = restore.restore(image, tile=128, overlap=0)
    assert seam_ratio(butted.image, butted.plan) > seam_ratio(whole.image, butted.plan) * 1.05


def test_the_demo_writes_what_it_says(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py", "-o", tmp_path], capture_output=True, text=True, check=True, timeout=600
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["psnr_output"] - summary["psnr_input"] >= 7.5
    assert summary["parity_psnr"] >= AS_RUN
    assert summary["seconds_per_megapixel"] > 0
    assert len(summary["by_k"]) == 3
    assert all(value["psnr"] > summary["psnr_input"] + 7 and value["seconds"] > 0 for value in summary["by_k"].values())
    assert f"{summary['psnr_output']:.2f} dB" in run.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"kgt-denoise.onnx", "side-by-side.png", "noisy.png", "restored.png", "clean.png", "summary.txt"}
    restormer = summary["restormer"]
    assert restormer["psnr_output"] - summary["psnr_input"] >= 9
    assert restormer["parity_psnr"] >= 90
    assert restormer["tiles_psnr"]["exact"] >= 90 > restormer["tiles_psnr"]["tile"] > 40
    assert names >= {"restormer-glmha-denoise.onnx", "side-by-side-restormer.png", "tiles-restormer.png"}
