"""Every architecture is compared: exported file or half precision with checkpoint, whole and tiled, with all inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keygraph.export import export
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.mst import MST, MSTConfig
from keygraph.models.mst_plus_plus import MSTPlusPlus, MSTPlusPlusConfig
from keygraph.models.restormer import Restormer, RestormerConfig
from keygraph.parity import compare
from keygraph.parity.output import archive

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.integers(0, 256, (40, 56, 3), np.uint8)
CASES: dict[str, tuple[Any, Any]] = {
    "restormer": (
        lambda: Restormer(RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 1, 2, 2))),
        {"image": PICTURE},
    ),
    "dual_pixel": (
        lambda: Restormer(
            RestormerConfig(
                in_channels=6,
                out_channels=3,
                channels=8,
                blocks=(1, 1, 1, 1),
                refinement_blocks=1,
                heads=(1, 1, 2, 2),
                dual_pixel=True,
            )
        ),
        {"image": PICTURE.astype(np.uint16) * 257, "right": PICTURE[:, ::-1].astype(np.uint16) * 257},
    ),
    "mst": (
        lambda: MST(MSTConfig(bands=4, channels=4, blocks=(1, 1))),
        {"image": RANDOM.random((32, 38), np.float32) * 4, "mask": (RANDOM.random((32, 32)) > 0.5).astype(np.float32)},
    ),
    "mst_plus_plus": (
        lambda: MSTPlusPlus(MSTPlusPlusConfig(out_channels=8, channels=8, stages=1, blocks=(1, 1, 1))),
        {"image": PICTURE},
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=list(CASES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """The checkpoint, the exported file (an export takes long: one of MST, which takes most), and the inputs."""
    build, given = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    network = build()
    save_checkpoint(folder / "model.ckpt", network)
    if request.param != "mst":
        return folder / "model.ckpt", folder / "model.ckpt", given
    export(load_checkpoint(folder / "model.ckpt"), folder / "model.onnx", verification=False)
    return folder / "model.ckpt", folder / "model.onnx", given


def test_every_family_agrees_with_itself(family: tuple[Path, Path, Any], tmp_path: Path) -> None:
    checkpoint, exported, given = family
    run = compare([exported, f"{checkpoint}@bf16"], checkpoint, [given], keep_images=True)
    assert run.comparisons[0].verdict.good, run.reasons
    exact, half = (comparison.inputs[0] for comparison in run.comparisons)
    assert exact.as_run.psnr > 110 > half.as_run.psnr > 25
    assert exact.as_run.ssim > 0.99999
    assert exact.stages == ()
    (image,) = run.images
    assert image.reference.shape[:2] == (exact.height, exact.width)
    assert image.reference.shape == image.candidates[0].shape == image.candidates[1].shape
    assert image.input is given["image"]
    assert image.tiles is None
    # What was saved gives the same once more.
    archive.save(tmp_path / "run", run)
    kept = archive.load(tmp_path / "run")
    again = compare(kept.models[:-1], kept.models[-1], kept.samples)
    assert again.as_json()["comparisons"] == run.as_json()["comparisons"]


@pytest.mark.parametrize("tile", [16, "none"])
def test_every_family_through_the_tiled_pipeline(family: tuple[Path, Path, Any], tile: int | str) -> None:
    checkpoint, exported, given = family
    run = compare(exported, checkpoint, [given], tile=tile, keep_images=True)
    assert run.good, run.reasons
    whole = compare(exported, checkpoint, [given], keep_images=True)
    plan = run.images[0].tiles
    assert plan is not None
    assert (len(plan.tiles) > 1) == (tile == 16)
    if tile == "none":
        limits = run.comparisons[0].reference.manifest.clamp or (-np.inf, np.inf)
        np.testing.assert_allclose(run.images[0].reference, np.clip(whole.images[0].reference, *limits), atol=1e-5)


def test_a_generated_picture_has_all_inputs(family: tuple[Path, Path, Any]) -> None:
    checkpoint, exported, _ = family
    run = compare(exported, checkpoint)
    assert run.good, run.reasons
    assert run.comparisons[0].inputs[0].name == "generated picture"
