"""`keygraph export` and `export-model`: what is printed, exit codes, and nothing half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from keygraph.cli import export_model, main
from keygraph.manifest import from_json
from keygraph.models import save_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture

CONFIG = KGTConfig(layers=(1,), channels=8, heads=2, window=4, k=5)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "kgt.ckpt"
    save_checkpoint(path, KGT(CONFIG))
    return path


def test_export_says_what_it_verified(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint)]) == 0
    captured = capsys.readouterr()
    assert checkpoint.with_suffix(".onnx").is_file()
    assert "verified against PyTorch with library: at least" in captured.out
    assert "k chosen at run time, 1 to 16, 5 by default" in captured.out
    assert "note: weights: 'params'" in captured.err


def test_export_model_is_the_same_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.onnx"
    code = export_model([str(checkpoint), "-o", str(out), "--k", "3", "--shape", "1x4x8", "--no-verify", "--json"])
    assert code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["file"] == str(out)
    assert record["bytes"] == out.stat().st_size
    manifest = from_json(json.dumps(record["manifest"]), "x")
    assert manifest.shape == (1, 4, 8)
    assert manifest.verification is None
    assert manifest.neighbours is not None
    assert (manifest.neighbours.default, manifest.neighbours.runtime) == (3, False)


def test_a_missing_verification_is_said(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "--no-verify"]) == 0
    assert "NOT verified against PyTorch" in capsys.readouterr().out


def test_quiet_says_nothing(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "--no-verify", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "0"], "--k is 0; it must be at least 1, or runtime"),
        (["--k", "-4"], "--k is -4; it must be at least 1, or runtime"),
        (["--k", "many"], "--k is 'many'; give a number, or runtime"),
        (["--k", "17"], "k is 17; it must be from 1 to 16 (the nodes of a window), or runtime"),
        (["--shape", "big"], "give batch x height x width, for instance 1x256x256, or dynamic"),
        (["--shape", "1x5x8"], "multiples of 4; the next that fits is 1x8x8"),
        (["--precision", "half"], "there is no precision 'half'; choose one of: fp32, fp16, bf16, auto"),
        (["--half-io"], "--half-io has no effect with fp32"),
        (["--keep-fp32", "tail"], "--keep-fp32 has no effect with fp32"),
        (
            ["--precision", "fp16", "--keep-fp32", "bodi.0.layers"],
            "matches no node of the network; the nearest are body.0",
        ),
        (["--precision", "fp16", "--target-psnr", "60"], "--target-psnr applies to --precision auto only"),
        (["--precision", "auto", "--target-psnr", "500"], "it must be from 10 to 100 dB"),
        (["--precision", "auto", "--no-verify"], "--precision auto needs verification"),
        (["--precision", "bf16", "--calibration", "absent"], "absent is not a folder"),
        (["--precision", "bf16", "--calibration", "."], "holds no image"),
        (["--calibration", "."], "--calibration applies only to half precision"),
        (["--key-map", "absent.txt"], "cannot be read as a key map"),
        (["--config", "absent.json"], "cannot be read as a configuration"),
        (["-o", "kgt.pb"], "does not end with .onnx"),
        (["-o", "absent/kgt.onnx"], "cannot write absent/kgt.onnx"),
        (["--colour"], "No such option"),
    ],
)
def test_bad_options(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert main(["export", str(checkpoint), *options]) == 2
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert captured.out == ""
    assert [path.name for path in checkpoint.parent.iterdir()] == ["kgt.ckpt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"PK\x03\x04 cut off", "an incomplete download looks like this"),
    ],
)
def test_files_that_are_no_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    path = tmp_path / "x.ckpt"
    if content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert main(["export", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_file_survives_a_failed_export(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keygraph.parity import pass_criteria

    out = checkpoint.with_suffix(".onnx")
    out.write_bytes(b"yesterday's")
    monkeypatch.setattr(pass_criteria, "FACTOR", 1e-6)  # Every error is beyond what rounding explains.
    assert main(["export", str(checkpoint), "--quiet"]) == 1
    assert out.read_bytes() == b"yesterday's"


def test_debug_shows_the_traceback(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "--shape", "1x5x8", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_name_of_a_file_is_utf_8(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = checkpoint.rename(checkpoint.with_name(os.fsdecode(b"caf\xe9.ckpt")))
    assert main(["export", str(named), "--no-verify"]) == 2
    assert "has a name that is not UTF-8, which ONNX Runtime needs" in capsys.readouterr().err
    assert main(["export", str(named), "--no-verify", "-o", str(named.with_name("cafe.onnx"))]) == 0
    (file,) = named.parent.glob("*.onnx")
    renamed = file.rename(named.with_suffix(".onnx"))
    image = ["-o", str(named.with_name("b.png"))]
    images.write(named.with_name("a.png"), Picture(np.zeros((16, 16, 3), np.uint8)))
    assert main(["restore", str(named.with_name("a.png")), *image, "--model", str(renamed)]) == 2
    assert "has a name that is not UTF-8, which ONNX Runtime needs" in capsys.readouterr().err


def test_the_file_replaces_nothing_that_is_read(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linked, weights = tmp_path / "linked.onnx", tmp_path / "weights.onnx.data"
    linked.hardlink_to(checkpoint)
    checkpoint.rename(weights)
    before = weights.read_bytes()
    for out, message in (
        (linked, "linked.onnx is the input itself"),
        (tmp_path / "weights.onnx", f"is written with {weights}, which is the input itself"),
    ):
        assert main(["export", str(weights), "-o", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", str(linked), "-o", str(tmp_path / "a.onnx"), "--key-map", str(tmp_path / "a.onnx")]) == 2
    assert weights.read_bytes() == linked.read_bytes() == before
