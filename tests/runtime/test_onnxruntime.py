"""The ONNX Runtime session: operators, files that are refused, memory, and what importing the runtime needs."""

from __future__ import annotations

import dataclasses
import gc
import json
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path

import keygraph
import numpy as np
import pytest
from keygraph import plugins
from keygraph.errors import InputError, MissingDependencyError
from keygraph.installation import install_line
from keygraph.manifest import METADATA_KEY, ExtraInput, Manifest, Neighbours
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from tiny_kgt import Tiny

ModelFile = Callable[..., Path]


def no_library(host: str) -> Path:
    raise MissingDependencyError(f"lib{host}.so is not installed")


def test_a_missing_library_is_announced_and_replaced_by_the_functions(
    tiny: Tiny, make_model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "library", no_library)
    notices: list[str] = []
    restorer = keygraph.load(tiny.onnx, notice=notices.append)
    assert len(notices) == 1
    assert "not installed" in notices[0]
    assert "functions in the file" in restorer.description
    assert not getattr(restorer.session, "runs_library", True)
    with pytest.warns(UserWarning, match="not installed"):
        keygraph.load(tiny.onnx)
    # A model without these operators needs no library.
    notices.clear()
    restorer = keygraph.load(make_model("identity"), notice=notices.append)
    assert (notices, "standard operators" in restorer.description) == ([], True)


def test_a_library_that_does_not_load_is_announced_unless_it_was_asked_for(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "libkeygraph_ort.so"
    wrong.write_bytes(b"not a library")
    with pytest.raises(InputError, match=r"does not load: .*file too short"):
        OnnxRuntimeSession(tiny.onnx, library=wrong)
    with pytest.raises(InputError, match="does not exist"):
        OnnxRuntimeSession(tiny.onnx, library=tmp_path / "none.so")
    monkeypatch.setattr(plugins, "library", lambda host: wrong)
    notices: list[str] = []
    OnnxRuntimeSession(tiny.onnx, notice=notices.append)
    assert "does not load" in notices[0]


def test_the_description_says_what_runs(make_model: ModelFile) -> None:
    session = OnnxRuntimeSession(make_model("identity"), library=None, threads=1)
    assert "CPUExecutionProvider" in session.description
    assert "ONNX Runtime 1." in session.description


def test_the_installed_library_is_used(tiny: Tiny) -> None:
    try:
        library = plugins.library("onnxruntime")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    for asked in ("auto", library):
        assert library.name in OnnxRuntimeSession(tiny.onnx, asked).description


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"something else", "not an ONNX file"),
    ],
)
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        keygraph.load(path, library=None)


def test_a_truncated_model(make_model: ModelFile) -> None:
    path = make_model("blur")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated"):
        keygraph.load(path, library=None)


def test_a_folder_and_an_unknown_suffix(tmp_path: Path) -> None:
    folder = tmp_path / "x.onnx"
    folder.mkdir()
    with pytest.raises(InputError, match="folder"):
        keygraph.load(folder)
    with pytest.raises(InputError, match=r"ends with \.onnx, \.plan, \.ckpt"):
        keygraph.load(tmp_path / "model.bin")


def rewrite(path: Path, text: str | None) -> Path:
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    if text is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, path)
    return path


def test_an_onnx_file_that_is_not_ours_is_newer_or_damaged(
    make_model: ModelFile, make_manifest: Callable[..., Manifest]
) -> None:
    path = make_model("identity")
    newer = json.dumps({**dataclasses.asdict(make_manifest()), "format_version": 99})
    for text, message in ((None, "not one that keygraph exported"), (newer, "newer"), ("{}", "damaged")):
        with pytest.raises(InputError, match=message):
            keygraph.load(rewrite(path, text), library=None)
    neighbours = Neighbours(default=1, maximum=64, trained=(), runtime=True)
    wants_k = dataclasses.replace(make_manifest(), neighbours=neighbours).to_json()
    wants_mask = dataclasses.replace(make_manifest(), extra_inputs=(ExtraInput("mask", 1),)).to_json()
    for text in (wants_k, wants_mask):
        with pytest.raises(InputError, match="not those of its manifest"):
            keygraph.load(rewrite(path, text), library=None)


def test_a_session_that_nobody_has_any_more_is_freed_at_once(
    make_model: ModelFile, make_manifest: Callable[..., Manifest]
) -> None:
    """Memory must be freed without the garbage collector, which may not run for a long time."""
    torch = pytest.importorskip("torch")
    from keygraph.runtime.backends.pytorch import TorchSession

    images = np.zeros((1, 3, 8, 8), np.float32)
    gc.collect()
    gc.disable()
    try:
        exact = OnnxRuntimeSession(make_model("identity"), library=None)
        exact.run(images, None)
        exact.exact()
        pytorch = TorchSession(torch.nn.Conv2d(3, 3, 1), make_manifest())
        pytorch.run(images, None)
        alive = weakref.ref(exact._session), weakref.ref(pytorch._module)
        del exact, pytorch
        assert [one() for one in alive] == [None, None]
    finally:
        gc.enable()


def test_the_runtime_needs_no_torch_onnx_or_typer(make_model: ModelFile) -> None:
    code = f"""
        import sys
        for name in ("torch", "onnx", "onnxscript", "typer", "rich", "safetensors"):
            sys.modules[name] = None
        import keygraph, numpy as np
        import keygraph.runtime.restore_files
        image = np.zeros((9, 9, 3), np.uint8)
        assert keygraph.load({str(make_model("identity"))!r}, library=None)(image).shape == image.shape
        try:
            keygraph.load("model.ckpt")
        except keygraph.errors.MissingDependencyError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert install_line("export") in run.stdout


def test_importing_keygraph_imports_nothing_heavy() -> None:
    code = "import keygraph, sys; print(keygraph.__version__, *{'numpy', 'onnxruntime', 'pyvips'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(run.stdout.split()) == 1
