"""Packages: missing, too old, in conflict, or not importable."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from keygraph.environment import BROKEN, MISSING, OK, packages
from keygraph.environment.packages import package, parse_requirement


def test_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert parse_requirement("numpy>=1.26") == ("numpy", "1.26", "")
    assert parse_requirement("onnx-ir>=0.1.12; extra == 'export'") == ("onnx-ir", "0.1.12", "export")
    assert parse_requirement('keygraph[cli]; extra == "cpu"') == ("keygraph", "", "cpu")
    assert package("core", "numpy", "1.26").state == OK
    old = package("export", "onnx", "999.0")
    assert (old.state, old.remedy) == (BROKEN, "pip install 'keygraph[export]' --upgrade")
    gone = package("rtx", "no-such-package", "1")
    assert (gone.state, gone.remedy) == (MISSING, "pip install 'keygraph[rtx]'")
    assert package("core", "no-such-package", "1").state == BROKEN
    # 1.10 is newer than 1.9, and what follows the numbers plays no part.
    assert packages._release("1.10.0+cpu") > packages._release("1.9")
    assert packages._release("2.0rc1") == (2, 0)
    info = tmp_path / "broken_thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken_thing\nVersion: 1.0\n")
    (tmp_path / "broken_thing.py").write_text("raise OSError('libmissing.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    broken = package("export", "broken_thing", "")
    assert broken.state == BROKEN
    assert "libmissing.so" in broken.detail


def test_both_onnx_runtimes_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.31.1" if name == "onnxruntime-gpu" else version(name)
    )
    (finding,) = (f for f in packages.examine_packages() if f.state == BROKEN)
    assert "overwrite each other" in finding.detail
    assert finding.remedy.startswith("pip uninstall")
