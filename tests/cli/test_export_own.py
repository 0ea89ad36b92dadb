"""`export-model my_model.py:build`: from a user's file and checkpoint to a file that the other commands run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keygraph
import numpy as np
import own_modules
import pytest
import torch
from keygraph.cli import export_model, main
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture

pytestmark = pytest.mark.usefixtures("one_thread")

SOURCE = """
import own_modules

def build(name="UNet"):
    print("building", name)
    return getattr(own_modules, name)()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "net.py").write_text(SOURCE)
    torch.manual_seed(0)
    state = own_modules.UNet().state_dict()
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}}, tmp_path / "net.ckpt")
    return tmp_path


def test_from_source_and_weights_to_a_restored_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_model(["net.py:build", "--weights", "net.ckpt", "--task", "deblurring", "-o", "unet.onnx"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("note: net.py is run, and its build called\nbuilding UNet\n")
    assert "note: values from 0 (black) to 1 (white), as nothing else is said" in err
    assert "note: height and width in multiples of 4: found by running sizes" in err
    assert out.splitlines()[1:3] == [
        "  custom for deblurring, 3 -> 3 channels",
        "  any batch, height and width in multiples of 4 (restore pads by itself)",
    ]
    assert "verified against PyTorch with standard operators: at least 1" in out

    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    images.write(folder / "in.png", Picture(image))
    assert main(["restore", "in.png", "-o", "out.png", "--model", "unet.onnx"]) == 0
    assert images.read(folder / "out.png").pixels.shape == image.shape
    capsys.readouterr()
    assert main(["inspect", "unet.onnx", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["architecture"] == "custom"
    assert described["configuration"]["entry_point"] == "net.py:build"
    assert described["configuration"]["arguments"] == {}
    assert described["configuration"]["source"].keys() == {"net.py"}

    module = own_modules.UNet().eval()
    module.load_state_dict({k[6:]: v for k, v in torch.load("net.ckpt")["state_dict"].items()})
    padded = np.pad(image, ((0, 3), (0, 2), (0, 0)), mode="reflect")
    with torch.inference_mode():
        expected = module(torch.from_numpy(padded).permute(2, 0, 1)[None] / 255)[0, :, :37, :50].permute(1, 2, 0)
    with keygraph.load("unet.onnx") as restore:
        np.testing.assert_allclose(restore(image.astype(np.float32) / 255), expected.numpy(), atol=1e-5)


def test_two_precisions_can_be_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["net.py:build", "--weights", "net.ckpt", "--quiet", "-o"]
    assert export_model([*common, "a.onnx"]) == 0
    assert export_model([*common, "b.onnx", "--precision", "fp16"]) == 0
    capsys.readouterr()
    assert main(["compare", "b.onnx", "a.onnx", "--blocks", "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert comparison["verdict"]["good"]
    assert {"down", "up"} <= {block["name"] for block in comparison["blocks"]}


def test_json_is_not_mixed_with_what_the_code_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("build.json").write_text('{"name": "Padding"}')
    assert export_model(["net.py:build", "--config", "build.json", "--range", "0", "255", "--no-verify", "--json"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["file"] == "net.onnx"
    assert (record["manifest"]["value_range"], record["manifest"]["smallest"]) == ([0, 255], 5)
    assert record["manifest"]["configuration"]["arguments"] == {"name": "Padding"}
    assert "building Padding" in err
    assert "no file of weights: they are those that net.py:build gives the network" in err


def test_the_same_export_gives_the_same_file(folder: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert export_model(["net.py:build", "--weights", "net.ckpt", "--no-verify", "--quiet", "-o", name]) == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.py"], "say which function or class makes the network, for instance net.py:build"),
        (["absent.py:build"], "absent.py"),
        (["net.py:build", "--weights", "absent.ckpt"], "absent.ckpt"),
        (["net.py:build", "--weights-prefix", "model."], "--weights-prefix is for the file of --weights"),
        (["net.py:build", "--key-map", "map.txt"], "--key-map is for the file of --weights"),
        (
            ["net.py:build", "--weights", "net.ckpt", "--weights-prefix", "no."],
            "no tensor whose name starts with 'no.'",
        ),
        (["net.py:build", "--k", "3"], "custom has no key graph; leave --k out"),
        (["net.py:build", "--range", "1", "0"], "--range is 1 0"),
        (["net.py:build", "--size-multiple", "3"], "--size-multiple 3 does not hold"),
        (["net.py:build", "-o", "net.py"], "does not end with .onnx"),
        (["net.ckpt", "--range", "0", "1"], "--range applies to a network that a Python file builds"),
        (["net.ckpt", "--weights", "net.ckpt"], "--weights applies to a network that a Python file builds"),
        (["net.ckpt", "--task", "denoising"], "--task applies to a network that a Python file builds"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_file(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert export_model(arguments) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert out == ""
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before
