"""docs/tutorials/your-model.md, run from an empty folder: its files, its commands, and what it says they print."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from keygraph.cli import export_model, main
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture

PAGE = (Path(__file__).parents[1] / "docs" / "tutorials" / "your-model.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "my_model", raising=False)
    files = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", PAGE, flags=re.DOTALL))
    assert files.keys() == {"my_model.py", "train.py", "build.json"}
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    images.write(tmp_path / "photo.png", Picture(np.random.default_rng(0).integers(0, 256, (61, 45, 3), np.uint8)))
    return tmp_path


def test_the_tutorial(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path("train.py")
    commands = re.findall(r"^ {4}((?:keygraph|export-model) .*)$", PAGE, flags=re.MULTILINE)
    assert [command.split()[:2] for command in commands] == [
        ["export-model", "my_model.py:build"],
        ["keygraph", "inspect"],
        ["keygraph", "restore"],
        ["keygraph", "compare"],
        ["export-model", "my_model.py:build"],
        ["keygraph", "compare"],
        ["keygraph", "build"],
    ]
    printed: list[str] = []
    for command in commands:
        program, *arguments = shlex.split(command)
        if arguments[0] == "build" and importlib.util.find_spec("tensorrt_rtx_bindings") is None:
            continue
        assert (export_model if program == "export-model" else main)(arguments) == 0, command
        out, err = capsys.readouterr()
        printed += [*err.splitlines(), *out.splitlines()]
    # The seconds differ.
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    shown = re.findall(r"^ {4}((?:note: |  |my_model).*)$", prose, flags=re.MULTILINE)
    assert len(shown) == 9
    assert [line for line in shown if not line.startswith("my_model") and line not in printed] == []
    assert images.read(folder / "restored.png").pixels.shape == (61, 45, 3)


def test_its_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path("train.py")
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "export_module(" in block
    ]
    (folder / "export.py").write_text(code, encoding="utf-8")
    runpy.run_path("export.py")
    assert "1 Tiling(tile=256" in capsys.readouterr().out
    assert (folder / "from-python.onnx").is_file()
