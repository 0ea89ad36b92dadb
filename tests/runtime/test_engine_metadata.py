"""Engine metadata: engines are checked before they are loaded, and every refusal says what to do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from engine_files import metadata_for, write_engine
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.integrity import FileDigest, Integrity
from keygraph.manifest import Neighbours, Profile
from keygraph.runtime.backends.engine_metadata import LoadEnvironment, Plugin, check, metadata_path, read

HERE = LoadEnvironment("tensorrt-rtx", "1.7.1.116", (8, 6), "GPU A")
TENSORRT: dict[str, Any] = {"backend": "tensorrt", "version": "10.12.0", "device": "GPU A"}
THERE = LoadEnvironment("tensorrt", "10.12.0", (8, 6), "GPU A")


def refused(engine: Path, here: LoadEnvironment = HERE) -> str:
    with pytest.raises(InputError) as caught:
        check(engine, here, pytest.fail)
    return str(caught.value)


def test_what_is_written_is_read(tmp_path: Path, make_manifest: Any) -> None:
    manifest = make_manifest(
        neighbours=Neighbours(8, 64), profiles=(Profile((1, 2, 4), (64, 64, 64), (64, 96, 128)),), size_multiple=8
    )
    metadata = metadata_for(manifest=manifest, plugin=Plugin("x.so", "1" * 64), attempts=("as asked: failed",))
    metadata_path(tmp_path / "a.plan").write_text(metadata.to_json())
    assert read(tmp_path / "a.plan") == metadata


EXPORTED = FileDigest("1" * 64, "2" * 64, "4" * 64)


@pytest.mark.parametrize(
    ("recorded", "found", "state", "changed"),
    [
        (EXPORTED, EXPORTED, "unchanged", ()),
        (EXPORTED, FileDigest("1" * 64, "3" * 64, "4" * 64), "changed", ("weights",)),
        (EXPORTED, FileDigest("3" * 64, "2" * 64, "4" * 64), "changed", ("graph",)),
        (EXPORTED, FileDigest("1" * 64, "2" * 64, "5" * 64), "changed", ("manifest",)),
        (None, EXPORTED, "no digest", ()),
        (EXPORTED, None, "no digest", ()),
    ],
)
def test_an_engine_tells_whether_its_file_was_changed(
    tmp_path: Path,
    make_manifest: Any,
    recorded: FileDigest | None,
    found: FileDigest | None,
    state: str,
    changed: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = write_engine(tmp_path / "kgt.sm86.plan", manifest=make_manifest(digest=recorded), model_digest=found)
    metadata = read(engine)
    assert metadata.integrity == Integrity(state, changed)
    assert [line for line in metadata.notices if "changed since export" in line] == list(metadata.notices)
    assert bool(metadata.notices) == (state == "changed")
    assert main(["inspect", str(engine), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["integrity"] == metadata.integrity.words
    assert described["operators"] == "standard operators"


def test_metadata_of_before_has_no_digest(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "kgt.sm86.plan")
    values = json.loads(metadata_path(engine).read_text())
    del values["model_digest"]
    metadata_path(engine).write_text(json.dumps({**values, "format_version": 1}))
    assert read(engine).integrity.state == "no digest"


def test_an_engine_of_this_place_passes(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "kgt.sm86.plan")
    assert check(engine, HERE, pytest.fail).target == "sm_86"


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    engine = tmp_path / "kgt.sm86.plan"
    assert "does not exist" in refused(engine)
    write_engine(engine)
    path = metadata_path(engine)
    text = path.read_text()
    path.unlink()
    assert "kgt.sm86.plan.json is missing" in refused(engine)
    for content in ("{", "[]", "{}", text[:-40], text.replace('"tensors"', '"tensor"')):
        path.write_text(content)
        assert "is damaged; build the engine again with" in refused(engine)
    path.write_text(json.dumps({**json.loads(text), "surprise": 1}))
    assert "is damaged; build the engine again with" in refused(engine)
    path.write_text(json.dumps({**json.loads(text), "format_version": 99}))
    assert "format 99 is newer than this keygraph reads" in refused(engine)


@pytest.mark.parametrize("content", [b"another!!", b"an engin", b"an engine and more"])
def test_metadata_of_another_engine(tmp_path: Path, content: bytes) -> None:
    engine = write_engine(tmp_path / "kgt.sm86.plan")
    engine.write_bytes(content)
    message = refused(engine)
    assert "is not the engine that kgt.sm86.plan.json describes" in message
    assert message.endswith(
        "build it again with: keygraph build kgt.onnx --target sm_86 --backend tensorrt-rtx --tile 256"
    )
    assert ("9 were built" in message) == (len(content) != 9)


@pytest.mark.parametrize(
    ("here", "words", "command"),
    [
        (
            LoadEnvironment("tensorrt-rtx", "1.7.1.116", (8, 9)),
            "1.7.1.116, sm_89",
            "--target sm_89 --backend tensorrt-rtx",
        ),
        (
            LoadEnvironment("tensorrt-rtx", "1.8.0.1", (8, 6)),
            "TensorRT-RTX 1.8.0.1, sm_86",
            "--target sm_86 --backend tensorrt-rtx",
        ),
        (
            LoadEnvironment("tensorrt", "10.12.0", (8, 6)),
            "here it is TensorRT 10.12.0",
            "--target sm_86 --backend tensorrt ",
        ),
    ],
)
def test_an_engine_of_another_place(tmp_path: Path, here: LoadEnvironment, words: str, command: str) -> None:
    message = refused(write_engine(tmp_path / "kgt.sm86.plan"), here)
    assert "was built by TensorRT-RTX 1.7.1.116 for sm_86; here it is" in message
    assert words in message
    assert f"rebuild with: keygraph build kgt.onnx {command}" in message


def test_compatible_engines(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.plan", **TENSORRT, compatible="ampere-plus")
    for capability in ((8, 0), (8, 9), (12, 0)):
        check(engine, LoadEnvironment("tensorrt", "10.12.0", capability, "GPU B"), pytest.fail)
    assert "for sm_80 and newer" in refused(engine, LoadEnvironment("tensorrt", "10.12.0", (7, 5)))
    engine = write_engine(tmp_path / "b.plan", **TENSORRT, version_compatible=True, host_code=False)
    check(engine, LoadEnvironment("tensorrt", "10.14.1", (8, 6)), pytest.fail)
    for version in ("10.11.9", "11.0.0"):
        assert "rebuild with" in refused(engine, LoadEnvironment("tensorrt", version, (8, 6)))


def test_another_model_of_gpu_is_said(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.plan", **TENSORRT)
    said: list[str] = []
    check(engine, LoadEnvironment("tensorrt", "10.12.0", (8, 6), "GPU B"), said.append)
    assert len(said) == 1
    assert "was tuned on GPU A and runs on GPU B" in said[0]
    check(engine, THERE, pytest.fail)


def test_the_plugin_library(tmp_path: Path) -> None:
    library = tmp_path / "libkeygraph_trt.so"
    library.write_bytes(b"operators")
    plugin = Plugin(library.name, hashlib.sha256(b"operators").hexdigest())
    engine = write_engine(tmp_path / "a.plan", **TENSORRT, plugin=plugin)
    check(engine, LoadEnvironment("tensorrt", "10.12.0", (8, 6), "GPU A", library), pytest.fail)
    assert "needs the operators of libkeygraph_trt.so, and none is loaded" in refused(engine, THERE)
    library.write_bytes(b"others")
    message = refused(engine, LoadEnvironment("tensorrt", "10.12.0", (8, 6), "GPU A", library))
    assert f"SHA-256 {plugin.sha256[:12]}, but" in message
    library.unlink()
    assert "does not exist; install it, or rebuild without it: keygraph build" in refused(
        engine, LoadEnvironment("tensorrt", "10.12.0", (8, 6), "GPU A", library)
    )


def test_host_code_is_a_matter_of_trust(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.plan", **TENSORRT, host_code=True, version_compatible=True)
    assert "only if you trust its source: allow that explicitly" in refused(engine, THERE)
    check(engine, LoadEnvironment("tensorrt", "10.12.0", (8, 6), allow_host_code=True), pytest.fail)


def test_an_engine_without_weights(tmp_path: Path) -> None:
    engine = write_engine(tmp_path / "a.plan", stripped=True, options={"strip-weights": True})
    message = refused(engine)
    assert "without its weights" in message
    assert message.endswith("keygraph build kgt.onnx --target sm_86 --backend tensorrt-rtx")


def test_the_command_is_for_a_shell() -> None:
    metadata = metadata_for(
        model="my model.onnx", options={"tile": ["64", "128"], "batch": ["1:2:4"], "k": 8, "strip-weights": True}
    )
    assert metadata.command() == (
        "keygraph build 'my model.onnx' --target sm_86 --backend tensorrt-rtx --tile 64 --tile 128 --batch 1:2:4 --k 8 "
        "--strip-weights"
    )
