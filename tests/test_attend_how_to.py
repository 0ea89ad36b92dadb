"""docs/how-to/attend-in-your-network.md: its code, run in the order of the page."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from keygraph.cli import export_model
from keygraph.plugins.torch import replace

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "attend-in-your-network.md").read_text(encoding="utf-8")

NET, TRAIN, REPLACE, CHECK, BUILD = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)

pytestmark = pytest.mark.usefixtures("one_thread")

#: Its attention stands for a kernel: it runs, and cannot be exported.
THEIR_NET = """
import opaque_modules
from opaque_modules import Attention

def build():
    return opaque_modules.Windows(opaque_modules.by_numpy).eval()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("my_net", "their_net"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_training_and_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_net.py").write_text(NET)
    # Verified below; that exported files are, is tested elsewhere.
    (folder / "train.py").write_text(TRAIN.replace("notice=print", "notice=print, verification=False"))
    runpy.run_path("train.py")
    printed = capsys.readouterr().out.splitlines()
    before, after = map(float, re.findall(r"\d\.\d+", printed[0]))
    assert after < before
    shown = re.findall(r"^ {4}(`body.*)$", PAGE, flags=re.MULTILINE)
    assert [line for line in printed if line.startswith("`")] == shown
    assert printed[-1] == "the file agrees: True"


def test_replacing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton")
    (folder / "their_net.py").write_text(THEIR_NET)
    (folder / "their_build.py").write_text(BUILD)
    quick = REPLACE.replace("notice=print", "notice=print, shape=(1, 16, 24), verification=False")
    (folder / "replace.py").write_text(quick + CHECK)
    runpy.run_path("replace.py")
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if "fused" in line] == [
        "`layers.0`: fused by hand, k = 5",
        "`layers.1`: fused by hand, k = 5",
    ]
    assert printed[-1] == "the same: True"
    original = sys.modules["their_net"].Attention.forward
    try:
        assert export_model(["their_build.py:build", "--shape", "1x16x24", "--no-verify"]) == 0
    finally:
        for begun in list(replace._begun):  # For good, as the page says.
            begun.stop()
    assert sys.modules["their_net"].Attention.forward is original
    assert capsys.readouterr().err.count("fused by hand") == 2
