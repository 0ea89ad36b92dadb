"""``keygraph inspect``: what it says of our files, foreign ones and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import pyvips
import released
import tiny_kgt
import torch
from keygraph.cli import main
from keygraph.manifest import Neighbours, Tiling
from keygraph.models import enhance, load_checkpoint, restormer, save_checkpoint
from keygraph.models.kgt import KGT
from keygraph.models.macs import count_macs
from keygraph.models.restormer import Restormer, RestormerConfig
from keygraph.runtime.io import cubes
from keygraph.runtime.io.describe import profile_name
from onnx import TensorProto, helper
from tiny_kgt import CONFIG, Tiny, changed, set_manifest


def inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """What it says in JSON, and in words with single spaces."""
    assert main(["inspect", str(path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return values, "\n".join(" ".join(line.split()) for line in said.out.splitlines())


def test_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_kgt.save_network(tmp_path / "a.ckpt", CONFIG)
    network = KGT(CONFIG)
    values, words = inspected(path, capsys)
    assert values["kind"] == "checkpoint"
    assert values["bytes"] == path.stat().st_size
    assert values["parameters"] == sum(p.numel() for p in network.parameters())
    assert values["tensors"] == len(network.state_dict())
    assert values["configuration"]["window"] == 8
    for part in (
        "architecture kgt",
        "size rule height and width are multiples of 8",
        "k 1 to 64 at run time, 16 by default, trained with 8, 16, 32",
        "image 3 -> 3 channels, scale 1, values 0 to 1",
        "weights: 'params'",
    ):
        assert part in words


def test_a_checkpoint_under_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_kgt.save_network(tmp_path / "a.ckpt", CONFIG).rename(tmp_path / "weights")
    assert inspected(path, capsys)[0]["kind"] == "checkpoint"


def test_functions_that_need_all_bits(capsys: pytest.CaptureFixture[str]) -> None:
    earlier = Path(__file__).parents[1] / "compatibility" / "data" / "tiny.onnx"
    values, words = inspected(earlier, capsys)
    assert values["functions need"] == "all 32 bits of int32: wrong in OpenVINO; export the file again"
    assert "functions need all 32 bits of int32" in words


def test_an_exported_file(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    values, words = inspected(tiny.onnx, capsys)
    assert values["exported by keygraph"] is True
    assert values["operators"]["keygraph.KeyGraph"] == 2
    assert values["functions"] == ["keygraph.KeyGraph", "keygraph.KeyGraphAttention"]
    assert values["functions need"] == "24 bits of int32"
    assert values["inputs"] == ["image: float[batch, 3, 8*rows, 8*columns]", "k: int64[1]"]
    assert values["outputs"] == ["restored: float[batch, 3, 8*rows, 8*columns]"]
    assert values["opset"] == {"ai.onnx": 20, "keygraph": 1}
    for part in (
        "exported by keygraph yes",
        "k 1 to 64 at run time, 16 by default, trained with 8, 16, 32",
        "shape any batch, height and width within the size rule",
        "precision fp32",
        "verified no (exported with --no-verify)",
        "tiles not measured",
        "made with keygraph",
        "external data none",
    ):
        assert part in words


def test_the_manifest_in_words(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {
        "against": "PyTorch",
        "tolerance_db": 90.0,
        "checks": [{"psnr": 130.0}, {"psnr": 121.5}],
    }
    path = changed(
        tiny.onnx,
        tmp_path / "b.onnx",
        lambda model: set_manifest(
            model,
            shape=(1, 64, 96),
            neighbours=Neighbours(default=8, maximum=64, runtime=False),
            tiling=Tiling(256, 32, 61.04),
            verification={"library": record},
        ),
    )
    words = inspected(path, capsys)[1]
    for part in (
        "k fixed at 8 (of 64 nodes)",
        "shape only batch 1, 64 x 96 (height x width)",
        "tiles 256 pixels, overlap 32: 61.0 dB against whole",
        "verified library: against PyTorch in 2 cases, worst 121.5 dB (at least 90 needed)",
    ):
        assert part in words


def test_a_foreign_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "foreign.onnx"
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Magic", ["y", "w"], ["z"], domain="other")],
        "foreign",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, None]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 5]),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 5], [0.0] * 10)],
    )
    onnx.save(helper.make_model(graph, producer_name="someone", producer_version="3"), path)
    values, words = inspected(path, capsys)
    assert values["exported by keygraph"] is False
    assert "architecture" not in values
    assert values["operators"] == {"Relu": 1, "other.Magic": 1}
    assert values["inputs"] == ["x: float16[n, 3, ?]"]
    assert values["parameters"] == 10
    assert "producer someone 3" in words


def write_image(path: Path, bands: int, **fields: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, bands)).astype(np.uint8)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb" if bands > 2 else "b-w")
    for name, value in fields.items():
        image.set_type(pyvips.GValue.gint_type, name, value)
    image.write_to_file(str(path))


def test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "a.png", 4)
    values, words = inspected(tmp_path / "a.png", capsys)
    expected = {"kind": "image", "format": "PNG", "width": 4, "height": 6, "channels": 3, "bits": 8, "alpha": True}
    assert expected.items() <= values.items()
    assert (values["icc profile"], values["exif orientation"], values["pages"]) == (None, 1, 1)
    assert "icc profile none" in words
    write_image(tmp_path / "b.jpg", 1, orientation=6)
    values = inspected(tmp_path / "b.jpg", capsys)[0]
    # Upright, it is as wide as it is high in the file.
    expected = {"format": "JPEG", "width": 6, "height": 4, "channels": 1, "alpha": False, "exif orientation": 6}
    assert expected.items() <= values.items()


@pytest.mark.parametrize(("profile", "name"), [("srgb", "sRGB"), ("p3", "P3")])
def test_colour_profiles_have_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], profile: str, name: str
) -> None:
    image = pyvips.Image.black(4, 4, bands=3).copy(interpretation="srgb")
    image.write_to_file(str(tmp_path / "c.png"), profile=profile)
    assert name in inspected(tmp_path / "c.png", capsys)[0]["icc profile"]


def test_a_damaged_profile_is_no_failure() -> None:
    image = pyvips.Image.black(4, 4, bands=3).copy(interpretation="srgb")
    profile = pyvips.Image.new_from_buffer(image.write_to_buffer(".tif", profile="srgb"), "").get("icc-profile-data")
    assert "sRGB" in profile_name(profile)
    for damaged in (b"", b"\xff" * 140, b"\0" * 140, profile[:131], profile[:140]):
        assert profile_name(damaged) == f"without a name, {len(damaged)} bytes"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.ckpt", None, "does not exist"),
        ("folder", "folder", "is a folder"),
        ("a.onnx", b"", "is empty (0 bytes)"),
        ("a.ckpt", b"<!DOCTYPE html><html>", "web page"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.onnx", b"not a protobuf at all", "not an ONNX file, or is truncated"),
        ("a.onnx", b"\x08\x0a", "not an ONNX file, or is truncated"),
        ("a.png", b"\x89PNG\r\n\x1a\nrest", "damaged, cut off, or no image"),
        ("a.ckpt", b"PK\x03\x04rest", "incomplete download"),
        ("a.txt", b"hello", "of no kind that keygraph knows"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | str | None, words: str
) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert main(["inspect", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert words in said.err


def test_a_foreign_checkpoint_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "a.pth")
    assert main(["inspect", str(tmp_path / "a.pth")]) == 2
    assert "unknown architecture; the nearest is kgt" in capsys.readouterr().err


def test_a_manifest_from_the_future_is_bad_input(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(tiny.onnx, tmp_path / "new.onnx", lambda model: set_manifest(model, format_version=999))
    assert main(["inspect", str(path)]) == 2
    assert "newer than this keygraph reads" in capsys.readouterr().err


def test_spectral_cubes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.zeros((4, 5, 6), np.float32)
    wavelengths = (400.0, 410.0, 420.5, 430.0, 440.0, 450.0)
    for suffix in (".mat", ".npz", ".npy", ".tif", ".hdr"):
        path = tmp_path / f"a{suffix}"
        cubes.write(path, cubes.Cube(pixels, wavelengths))
        values, words = inspected(path, capsys)
        expected = {"kind": "cube", "format": cubes.FORMATS[suffix], "height": 4, "width": 5, "bands": 6}
        assert expected.items() <= values.items()
        assert values["type"] == "float32"
        assert ("wavelengths 400, 410, 420.5, 430, 440, 450 nm" in words) == (suffix != ".npy")
    np.savez(tmp_path / "b.npz", truth=pixels, pred=pixels[:3])
    values, words = inspected(tmp_path / "b.npz", capsys)
    assert values["arrays"] == ["truth: 4 x 5 x 6 float32", "pred: 3 x 5 x 6 float32"]
    assert "2 arrays that can be cubes" in values["not read as a cube"]
    assert inspected(Path(f"{tmp_path / 'b.npz'}:pred"), capsys)[0]["height"] == 3
    assert main(["inspect", f"{tmp_path / 'b.npz'}:absent"]) == 2
    assert "has no variable 'absent'" in capsys.readouterr().err


def test_a_restormer_and_what_glmha_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1)
    model = Restormer(config)
    torch.save({"params": model.state_dict()}, tmp_path / "csa.pth")
    save_checkpoint(tmp_path / "glmha.pth", enhance(model, preset="table"))
    values, words = inspected(tmp_path / "csa.pth", capsys)
    macs = values["multiply-accumulates at 256 x 256"]
    counted = count_macs(restormer.ARCHITECTURE, config)
    assert macs["without attention products"] == f"{counted.layers / 1e9:.3f} G"
    assert macs["with"] == f"{counted.total / 1e9:.3f} G"
    assert "published" not in values  # it is of no size that a paper has
    for part in (
        "architecture restormer",
        f"tensors {len(model.state_dict())}",
        "configuration inferred from the tensors' shapes",
    ):
        assert part in words
    values, words = inspected(tmp_path / "glmha.pth", capsys)
    parameters = sum(p.numel() for p in load_checkpoint(tmp_path / "glmha.pth").module.parameters())
    assert values["parameters"] == parameters
    assert values["saved against csa"]["parameters"] == sum(p.numel() for p in model.parameters()) - parameters
    assert "attention glmha" in words


def test_a_network_of_a_paper_with_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {name: torch.zeros(shape) for name, shape in released.shapes("mst-s").items()}
    torch.save(state, tmp_path / "mst_s.pth")
    values, words = inspected(tmp_path / "mst_s.pth", capsys)
    assert (values["parameters"], values["tensors"]) == (922_648, 202)
    assert values["multiply-accumulates at 256 x 256"]["with layer norms as well"] == "12.291 G"
    assert "published 0.93 M, 12.96 G (caiyuanhao1998/MST, README)" in words
