"""Files that keygraph 0.1.0 wrote before its modules were rearranged in November 2026 still work.

`data` was made by that version's commands: ``export-model tiny.ckpt``, ``build --target sm_89`` (its engine of 2.7 MB
is not kept; other bytes stand for it), ``restore photo.png`` and
``compare tiny.onnx tiny.ckpt --inputs photo.png --tile 32 --blocks --save archive --json``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import keygraph
import numpy as np
import pytest
from keygraph.cli import main
from keygraph.runtime.io import images

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(("name", "library"), [("tiny.onnx", "auto"), ("tiny.onnx", None), ("tiny.ckpt", "auto")])
def test_models_restore_what_they_restored(name: str, library: str | None) -> None:
    restored = keygraph.load(DATA / name, library=library)(images.read(DATA / "photo.png").pixels)
    expected = images.read(DATA / "restored.png").pixels
    # Another processor's kernels may round a value to the next level.
    assert np.abs(restored.astype(int) - expected.astype(int)).max() <= 1


def test_a_manifest_is_read_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(DATA / "tiny.onnx"), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["architecture"], described["precision"], described["opset"]["keygraph"]) == ("kgt", "fp32", 1)
    assert described["k"] == "1 to 64 at run time, 16 by default, trained with 8, 16, 32"
    assert described["tiles"] == "256 pixels, overlap 64: 61.6 dB against whole"
    assert described["weights"] == "ba0cedccda9d9a8d50dc62de0d60f95f599688a14dade65b49a252007d17e861"
    assert [line.split(",")[0] for line in described["verified"]] == [
        "functions: against PyTorch in 6 cases",
        "library: against PyTorch in 6 cases",
    ]


def test_an_engines_sidecar_is_read_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine, sidecar = tmp_path / "tiny.sm89.plan", tmp_path / "tiny.sm89.plan.json"
    engine.write_bytes(b"stands for the engine")
    written = json.loads((DATA / sidecar.name).read_text(encoding="utf-8"))
    digest = hashlib.sha256(engine.read_bytes()).hexdigest()
    sidecar.write_text(json.dumps({**written, "engine_sha256": digest, "engine_bytes": engine.stat().st_size}))
    assert main(["inspect", str(engine), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["kind"], described["architecture"], described["precision"]) == ("engine", "kgt", "fp32")
    assert (described["target"], described["weights"]) == ("sm_89", written["manifest"]["weights_sha256"])


def test_a_saved_run_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tiny.onnx", "tiny.ckpt"):
        shutil.copy(DATA / name, tmp_path)
    shutil.copytree(DATA / "archive", tmp_path / "archive")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--replay", "archive", "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert comparison["candidate"]["name"] == "tiny.onnx"


def test_a_baseline_is_compared_with(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(DATA)
    arguments = ["compare", "tiny.onnx", "tiny.ckpt", "--inputs", "photo.png", "--tile", "32"]
    assert main([*arguments, "--baseline", "baseline.json"]) == 0
    assert "baseline" in capsys.readouterr().out
