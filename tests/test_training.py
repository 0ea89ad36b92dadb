"""The training scripts: what is stopped goes on where it was, and ends as if it had not been stopped."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from keygraph.models import load_checkpoint
from keygraph.models.kgt import KGT
from tiny_kgt import CONFIG
from torch import Tensor, nn

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
import training  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class StoppedError(Exception):
    """Ends a training where it stands."""


def trained(path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> dict[str, Tensor]:
    """Train for six steps, with a line of progress every second step, and return the averaged weights."""
    monkeypatch.setattr(training, "REPORT_EVERY", 2)
    done = 0

    def loss(model: nn.Module, count: int) -> Tensor:
        nonlocal done
        done += 1
        if done == stop_at:
            raise StoppedError
        images = torch.rand(count, 3, 16, 16) * random.random()
        return training.charbonnier(model(images), images)

    training.seed_all(0)
    schedule = training.Schedule(steps=6, batch=2, rate=1e-3)
    model = training.train(KGT(CONFIG), loss, lambda _model: {"figure": 1.5}, schedule, path)
    return {name: values.clone() for name, values in model.state_dict().items()}


def test_a_stopped_training_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole.ckpt", monkeypatch)
    path = tmp_path / "stopped.ckpt"
    with pytest.raises(StoppedError):
        trained(path, monkeypatch, stop_at=4)
    assert path.with_name("stopped.ckpt.resume").exists()
    random.seed(99)  # Whatever was drawn since.
    again = trained(path, monkeypatch)
    assert all(torch.equal(again[name], values) for name, values in whole.items())
    assert not path.with_name("stopped.ckpt.resume").exists()
    saved = load_checkpoint(path).module.state_dict()
    assert all(torch.equal(saved[name], values) for name, values in whole.items())
    figures = json.loads(path.with_name("stopped.ckpt.json").read_text())
    assert [line["step"] for line in figures["lines"]] == [2, 4, 6]
    assert figures["schedule"]["steps"] == 6


def test_crops_are_parts_of_the_photographs() -> None:
    training.seed_all(0)
    image = torch.arange(3 * 20 * 30).view(3, 20, 30).float()
    crops = training.random_crops([image], 5, 8)
    assert crops.shape == (5, 3, 8, 8)
    for crop in crops:
        assert crop.unique().numel() == 3 * 8 * 8
        # The channels of a pixel stay together, whatever way the crop was turned.
        assert torch.equal(crop[1] - crop[0], torch.full((8, 8), 600.0))


@pytest.mark.slow
@pytest.mark.parametrize("command", [["train_denoiser.py"], ["train_super_resolution.py", "random"]])
def test_the_scripts_train(command: list[str], tmp_path: Path) -> None:
    script, *arguments = command
    checkpoint = tmp_path / "a.ckpt"
    line = [sys.executable, str(EXAMPLES / script), *arguments, "-o", str(checkpoint), "--steps", "2"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=True)
    assert "gain at k" in done.stdout
    assert load_checkpoint(checkpoint).architecture.name == "kgt"


@pytest.mark.slow
def test_restormer_and_its_other_attentions_train(tmp_path: Path) -> None:
    def run(attention: str, *more: str) -> str:
        line = [sys.executable, str(EXAMPLES / "train_restormer.py"), attention]
        line += ["-o", str(tmp_path / f"{attention}.ckpt"), "--steps", "1", *more]
        return subprocess.run(line, capture_output=True, text=True, timeout=600, check=True).stdout

    assert "gain at sigma 50" in run("csa")
    for attention in ("glmha", "linformer"):
        run(attention, "--start", str(tmp_path / "csa.ckpt"))
        assert load_checkpoint(tmp_path / f"{attention}.ckpt").config.attention == attention
