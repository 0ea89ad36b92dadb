"""The trained examples: what they restore, in half precision, in tiles and as engines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import keygraph
import numpy as np
import pytest
from keygraph.cli import main
from keygraph.export import export
from keygraph.instrumentation.metrics import psnr
from keygraph.models import load_checkpoint
from keygraph.runtime.io.images import Picture, write

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
from photos import add_noise, unseen_photo  # noqa: E402
from train_super_resolution import bicubic, unseen  # noqa: E402

BYTES = (0.0, 255.0)
UNIT = (0.0, 1.0)
PART = (slice(22, 278), slice(97, 353))

KGT, CSA, GLMHA, SUPER = NAMES = (
    "kgt-denoise-tiny",
    "restormer-denoise-tiny",
    "restormer-denoise-tiny-glmha",
    "kgt-sr-x2-tiny",
)
#: Every target that TensorRT-RTX builds for.
TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")

Exported = Callable[..., Path]


def checkpoint(name: str) -> Path:
    return EXAMPLES / f"{name}.ckpt"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return the exported and verified file of an example in a precision."""
    folder = tmp_path_factory.mktemp("examples")

    def file(name: str, precision: str = "fp32") -> Path:
        path = folder / f"{name}-{precision}.onnx"
        if not path.exists():
            export(load_checkpoint(checkpoint(name)), path, precision=precision)
        return path

    return file


@pytest.fixture(scope="module")
def noisy() -> np.ndarray:
    return add_noise(unseen_photo(), 25.0, seed=0)[PART]


def denoising_gain(file: Path, noisy: np.ndarray) -> float:
    clean = unseen_photo()[PART]
    with keygraph.load(file) as restorer:
        return psnr(restorer(noisy), clean, BYTES) - psnr(noisy, clean, BYTES)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_small(name: str) -> None:
    assert checkpoint(name).stat().st_size <= 3_000_000


def test_glmha_costs_little_of_what_channel_attention_gains(exported: Exported, noisy: np.ndarray) -> None:
    csa, glmha = (denoising_gain(exported(name), noisy) for name in (CSA, GLMHA))
    assert csa >= 9.0
    assert glmha >= csa - 0.3


def test_super_resolution_gains_over_bicubic_interpolation(exported: Exported) -> None:
    """With any of the numbers of neighbours that it was trained with, and with all."""
    low, high = (image[0].permute(1, 2, 0).numpy() for image in unseen())
    interpolated = np.clip(bicubic(unseen()[0])[0].permute(1, 2, 0).numpy(), 0, 1)
    with keygraph.load(exported(SUPER)) as restorer:
        for k in (16, 64, 256):
            assert psnr(restorer(low, k=k), high, UNIT) >= psnr(interpolated, high, UNIT) + 0.75


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "decibels"), [("fp16", 50), ("bf16", 45)])
def test_half_precision_is_near(
    name: str, precision: str, decibels: float, exported: Exported, noisy: np.ndarray
) -> None:
    image = noisy.astype(np.float32) / 255
    with keygraph.load(exported(name)) as full, keygraph.load(exported(name, precision)) as half:
        assert psnr(half(image), full(image), UNIT) >= decibels


@pytest.mark.parametrize("name", NAMES)
def test_compare_finds_no_difference_in_any_block(
    name: str, exported: Exported, noisy: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "photo.png", Picture(noisy[:128, :128]))
    arguments = [str(exported(name)), str(checkpoint(name)), "--inputs", str(tmp_path / "photo.png")]
    assert main(["compare", *arguments, "--blocks", "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert comparison["blocks"]


@pytest.mark.parametrize("name", NAMES)
def test_tiles_give_the_whole_photo(name: str, exported: Exported, noisy: np.ndarray) -> None:
    """To what 8 bits can hold; exact tiles, where statistics are over the whole image, to rounding."""
    image = noisy.astype(np.float32) / 255
    with keygraph.load(exported(name)) as restorer:
        whole, tiled = restorer.restore(image, tile="none"), restorer.restore(image, tile=128)
        assert len(tiled.plan.tiles) > 1
        assert psnr(tiled.image, whole.image, UNIT) >= (80 if restorer.manifest.global_statistics else 50)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_engines_are_built_for_every_target(name: str, exported: Exported, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    targets = [argument for target in TARGETS for argument in ("--target", target)]
    options = ["--backend", "rtx", "--tile", "128", "--batch", "1", "-o", str(tmp_path), "--quiet"]
    assert main(["build", str(exported(name, "fp16")), *targets, *options]) == 0
    assert len(list(tmp_path.glob("*.engine"))) == len(TARGETS)
