"""An architecture from outside of keygraph: described in under 40 lines, registered, exported, restored, compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import keygraph
import numpy as np
import pytest
import torch
import toy_architecture
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.models import Architecture, load_checkpoint, register, registry, save_checkpoint
from toy_architecture import TOY, ToyConfig


@pytest.fixture
def toy() -> Iterator[Architecture]:
    yield register(TOY)
    registry.ARCHITECTURES.remove(TOY)


@pytest.fixture
def checkpoint(toy: Architecture, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "toy.ckpt", toy.build(ToyConfig(channels=12)))
    return tmp_path / "toy.ckpt"


def test_the_description_has_under_40_lines() -> None:
    lines = Path(toy_architecture.__file__).read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) + len(["register(TOY)"]) < 40


def test_a_checkpoint_is_exported_restored_and_compared(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "toy.onnx"
    assert main(["export", str(checkpoint), "-o", str(file), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)["manifest"]
    assert (manifest["architecture"], manifest["configuration"]) == ("toy", {"channels": 12})
    assert manifest["verification"]["standard operators"]["checks"]
    image = np.random.default_rng(0).random((37, 53, 3), np.float32)
    with torch.inference_mode():
        expected = load_checkpoint(checkpoint).module(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
    for model in (file, checkpoint):
        np.testing.assert_allclose(keygraph.load(model)(image), expected.permute(1, 2, 0).numpy(), atol=1e-5)
    assert main(["compare", str(file), str(checkpoint), "--blocks", "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert comparison["verdict"]["good"]
    assert {"toy_in", "toy_out"} <= {block["name"] for block in comparison["blocks"]}


def test_the_configuration_is_inferred_from_bare_weights(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(load_checkpoint(checkpoint).module.state_dict(), tmp_path / "bare.pth")
    loaded = load_checkpoint(tmp_path / "bare.pth")
    assert (loaded.architecture, loaded.config) == (TOY, ToyConfig(channels=12))


def test_without_its_registration_it_is_unknown(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ARCHITECTURES", registry.ARCHITECTURES[:-1])
    with pytest.raises(InputError, match=r"architecture 'toy', which keygraph does not know; it knows: kgt, restormer"):
        load_checkpoint(checkpoint)


def test_a_name_is_registered_once(toy: Architecture) -> None:
    with pytest.raises(ValueError, match="toy cannot be registered"):
        register(toy)
