"""Run every command of docs/how-to/use-polygraphy.md as a reader would: in order, in a folder of their own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from tiny_kgt import Tiny

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "use-polygraphy.md"

#: Comments that say why a command is not run here.
LEFT_OUT = ("needs TensorRT and a GPU", "not run: ")


class Command(NamedTuple):
    words: list[str]
    code: int
    comment: str


def commands(text: str) -> Iterator[Command]:
    """Yield the indented commands, with the exit codes that their comments promise."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r" \\\n +", " ", text)  # commands of several lines
    for line in re.findall(r"^    (\S.*)$", text, flags=re.MULTILINE):
        command, _, comment = line.partition("  # ")
        if re.match(r"(polygraphy|keygraph|python) ", command):
            promised = re.match(r"exit code (\d)", comment)
            yield Command(shlex.split(command), int(promised[1]) if promised else 0, comment)


COMMANDS = list(commands(DOCS.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("polygraphy")
    shutil.copy(tiny.onnx, folder / "kgt.onnx")
    shutil.copy(tiny.checkpoint, folder / "kgt.ckpt")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    images.write(folder / "photo.png", Picture(pixels))
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words[:6]))
def test_command(command: Command, folder: Path) -> None:
    """Later commands use what earlier ones wrote, so the order is the page's."""
    if command.comment.startswith(LEFT_OUT):
        pytest.skip(command.comment)
    words = " ".join(command.words)
    if "polygraphy.rtx" in words and find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT-RTX is not installed: pip install 'keygraph[rtx]'")
    if " surgeon " in words and find_spec("onnx_graphsurgeon") is None:
        pytest.skip("needs pip install onnx-graphsurgeon")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    result = subprocess.run(
        command.words,
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == command.code, (result.stdout + result.stderr)[-3000:]
    if "--keygraph-torch" in words:
        assert result.stdout.count("PASSED | Image") == 2
    if command.code and "debug precision" in words:
        assert "is not available on TensorRT version" in result.stdout + result.stderr
    outputs = [command.words[i + 1] for i, word in enumerate(command.words) if word in ("-o", "--emit-polygraphy")]
    assert all((folder / name).stat().st_size for name in outputs)


def test_the_page_has_commands() -> None:
    said = [" ".join(command.words) for command in COMMANDS]
    for part in ("--emit-polygraphy", "python script.py", "polygraphy run", "inspect model", "debug precision", "rtx"):
        assert any(part in line for line in said)
