"""``keygraph build``: what is printed, exit codes, and the errors that a user would meet."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_files import MANIFEST, write_engine
from keygraph.cli import main
from keygraph.engines import backend
from keygraph.errors import MissingDependencyError
from keygraph.installation import install_line
from keygraph.manifest import Neighbours, Profile
from keygraph.runtime.backends.engine_metadata import Plugin, check_digest, metadata_path, read
from keygraph.runtime.device.cuda_driver import Gpu
from tiny_kgt import Tiny, changed

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT-RTX is not installed: pip install 'keygraph[rtx]'",
)
SMALL = ["--target", "sm_89", "--tile", "64", "--batch", "1"]


@pytest.fixture
def model(tiny: Tiny, tmp_path: Path) -> Path:
    return changed(tiny.onnx, tmp_path / "kgt.onnx", lambda model: None)


@needs_rtx
def test_build_then_hit_then_miss(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = model.with_name("kgt.sm89.plan")
    assert main(["build", str(model), *SMALL]) == 0
    said = capsys.readouterr()
    assert said.out.split()[:7] == ["target", "engine", "MB", "GPU", "GiB", "seconds", "sm_89"]
    assert f"{engine}  built" in said.out
    assert said.err == ""
    check_digest(engine, read(engine))
    assert engine.with_name("kgt.sm89.plan.log").is_file()
    assert read(engine).options == {"tile": ["64"], "batch": ["1"]}
    assert main(["build", str(model), *SMALL]) == 0
    said = capsys.readouterr()
    assert f"{engine}  there already" in said.out
    assert said.err == ""
    assert main(["build", str(model), *SMALL, "--k", "8", "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert record["builder"].startswith("TensorRT-RTX ")
    (result,) = record["results"]
    assert (result["target"], result["engine"], result["state"]) == ("sm_89", str(engine), "built")
    assert result["reason"] == "the option k was [1, 16, 64] and is [1, 8, 8]"
    assert result["bytes"] == engine.stat().st_size
    assert result["activation_bytes"] == read(engine).memory["activations"] > 0
    assert said.err == f"note: kgt.sm89.plan is built again: {result['reason']}\n"


@needs_rtx
def test_several_targets_into_a_folder(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them cannot be: the others are built, the exit code is 1, and the table says which."""
    out = tmp_path / "engines"
    out.mkdir()
    options = ["--target", "sm_75", "--target", "sm_86", "--target", "8.6", *SMALL, "-o", str(out)]
    assert main(["build", str(model), *options]) == 1
    said = capsys.readouterr()
    rows = {line.split()[0]: line for line in said.out.splitlines()[1:]}
    assert list(rows) == ["sm_75", "sm_86", "sm_89"]
    assert rows["sm_75"].split()[1:] == ["kgt.sm75.plan", "FAILED"]
    assert "built" in rows["sm_86"]
    assert said.err.startswith("error: sm_75: ")
    assert said.err.count("\n") == 1
    assert sorted(path.name for path in out.glob("*.plan")) == ["kgt.sm86.plan", "kgt.sm89.plan"]


@needs_rtx
def test_quiet(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(model), *SMALL, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@needs_rtx
def test_no_room_for_the_engine(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file may grow beyond 1 MB, as on a disk that is nearly full; an engine has more."""
    program = "import sys; from keygraph.cli import main; sys.exit(main())"

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [sys.executable, "-c", program, "build", str(model), *SMALL],
        preexec_fn=little_room,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot write {model.with_name('kgt.sm89.plan')}: File too large; choose")
    assert sorted(path.name for path in model.parent.iterdir()) == ["kgt.onnx", "kgt.sm89.plan.log"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "sm_99"], "there is no target 'sm_99'; choose one of sm_75, sm_80, sm_86"),
        (["--target", "sm_90", "--backend", "tensorrt-rtx"], "TensorRT-RTX does not build for sm_90"),
        (["--backend", "openvino"], "there is no backend 'openvino'; choose one of tensorrt, tensorrt-rtx, auto"),
        (["--target", "sm_89", "--tile", "100"], "multiples of 8: for 100 use 96 or 104"),
        (["--target", "sm_89", "--tile", "0"], "for 0 use 8"),
        (["--target", "sm_89", "--batch", "4:2:1"], "must not decrease"),
        (["--target", "sm_89", "--k", "65"], "--k is 65; it must be a whole number from 1 to 64"),
        (["--target", "sm_89", "--workspace", "lots"], "--workspace is 'lots'; give a size"),
        (["--target", "sm_89", "--optimization", "6"], "--optimization is 6; it must be from 0 to 5"),
        (["--target", "sm_89", "--hardware-compatible", "all"], "must be one of none, ampere-plus"),
        (["--target", "sm_89", "--version-compatible"], "no --version-compatible"),
        (["--target", "sm_89", "--timing-cache", "t"], "no --timing-cache"),
        (["--target", "sm_89", "--plugin", "absent.so"], "the plugin library absent.so does not exist"),
        (["--target", "sm_89", "-o", "absent"], "absent is not a folder"),
    ],
)
@needs_rtx
def test_bad_options(model: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert main(["build", str(model), *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert words in said.err
    assert [path.name for path in model.parent.iterdir()] == ["kgt.onnx"]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_tensorrt_is_absent(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", str(model), "--target", "sm_89", "--backend", "tensorrt"]) == 2
    error = capsys.readouterr().err
    assert "tensorrt" in error
    assert error.endswith(f"install it with: {install_line('tensorrt')}\n")


def test_nothing_is_installed(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(name: str) -> None:
        raise MissingDependencyError(name)

    monkeypatch.setattr(backend, "load_backend", absent)
    assert main(["build", str(model), "--target", "sm_89"]) == 2
    assert f"install one with: {install_line('rtx')}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"<html>", "is a web page"),
        (b"no protobuf", "is not an ONNX file, or is truncated (11 bytes)"),
    ],
)
def test_files_that_are_no_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: str
) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    assert main(["build", str(path), "--target", "sm_89"]) == 2
    assert words in capsys.readouterr().err


def test_a_foreign_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(model, model, lambda proto: proto.metadata_props.pop() and None)
    assert main(["build", str(model), "--target", "sm_89"]) == 2
    assert "not one that keygraph exported; make one with: export-model CHECKPOINT" in capsys.readouterr().err


def test_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build"]) == 2
    assert "no model is given" in capsys.readouterr().err


def test_list_targets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> backend.Software:
        if name == "tensorrt-rtx":
            return backend.Software(name, "1.7", "13")
        raise MissingDependencyError(name)

    monkeypatch.setattr("keygraph.cli.build.find_software", find)
    monkeypatch.setattr("keygraph.cli.build.local_gpu", lambda: Gpu("NVIDIA H100", (9, 0), 1 << 36))
    assert main(["build", "--list-targets"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "sm_89 GeForce RTX 40; L4, L40, RTX 6000 Ada TensorRT-RTX 99 KiB" in said
    assert "sm_90 H100, H200, GH200 - 227 KiB" in said
    assert f"TensorRT is not installed: {install_line('tensorrt')} TensorRT-RTX 1.7" in said
    assert "this machine's GPU: NVIDIA H100, sm_90" in said
    assert main(["build", "--list-targets", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["gpu"] == "NVIDIA H100"
    able = {target["name"]: target["builds_here"] for target in record["targets"]}
    assert able["sm_75"] == ["tensorrt-rtx"]
    assert able["sm_90"] == []
    monkeypatch.setattr("keygraph.cli.build.find_software", lambda name: backend.Software(name, "1", "13"))
    assert main(["build", "--list-targets", "--json"]) == 0
    able = {t["name"]: t["builds_here"] for t in json.loads(capsys.readouterr().out)["targets"]}
    assert able["sm_90"] == ["tensorrt"]


def test_inspect_an_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:

    manifest = dataclasses.replace(
        MANIFEST, neighbours=Neighbours(8, 64), profiles=(Profile((1, 2, 4), (64,) * 3, (64, 96, 128)),)
    )
    engine = write_engine(
        tmp_path / "kgt.sm86.plan", manifest=manifest, plugin=Plugin("libx.so", "ab" * 32), attempts=("as asked: no",)
    )
    assert main(["inspect", str(engine), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["kind"] == "engine"
    assert values["profiles"] == ["batch 1 to 4 (best 2), height 64, width 64 to 128 (best 96)"]
    assert main(["inspect", str(engine)]) == 0
    words = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "target sm_86",
        "builder TensorRT-RTX 1.7.1.116, CUDA 13",
        "built again with keygraph build kgt.onnx --target sm_86 --backend tensorrt-rtx --tile 256",
        "operators libx.so, SHA-256 abababababab",
        "failed attempts as asked: no",
        "inputs image: float32[?, 3, ?, ?]",
        "memory weights 1.0 MiB",
        "k 1 to 64 at run time, 8 by default",
        "read back not read back: no GPU",
    ):
        assert line in words
    assert any(line.startswith("not inspected ") for line in words)


def test_inspect_refuses_what_does_not_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = write_engine(tmp_path / "kgt.sm86.plan")
    engine.write_bytes(b"replaced!")
    assert main(["inspect", str(engine)]) == 2
    assert "is not the engine that kgt.sm86.plan.json describes" in capsys.readouterr().err
    metadata_path(engine).unlink()
    assert main(["inspect", str(engine)]) == 2
    assert "kgt.sm86.plan.json is missing" in capsys.readouterr().err


@needs_rtx
def test_what_is_written_with_an_engine_replaces_nothing_else(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = model.with_name("kgt.sm89.plan.json")
    foreign.write_text('{"layers": []}')
    assert main(["build", str(model), *SMALL]) == 2
    assert (
        f"{foreign} exists and does not belong to {model.with_name('kgt.sm89.plan')} alone" in capsys.readouterr().err
    )
    assert foreign.read_text() == '{"layers": []}'
    foreign.unlink()
    model.with_name("kgt.sm89.plan").symlink_to(model.name)
    before = model.read_bytes()
    assert main(["build", str(model), *SMALL]) == 2
    assert "kgt.sm89.plan is the input itself" in capsys.readouterr().err
    assert model.read_bytes() == before
