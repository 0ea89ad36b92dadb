"""Packages: missing, too old, in conflict, or not importable."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from keygraph import installation
from keygraph.environment import BROKEN, MISSING, OK, packages
from keygraph.environment.packages import package
from keygraph.installation import install_line


def test_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert package("core", "numpy", "1.26").state == OK
    old = package("export", "onnx", "999.0")
    assert (old.state, old.remedy) == (BROKEN, f"{install_line('export')} --upgrade")
    gone = package("rtx", "no-such-package", "1")
    assert (gone.state, gone.remedy) == (MISSING, install_line("rtx"))
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


def runtimes(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Install these packages of ONNX Runtime alone."""
    version = importlib.metadata.version

    def known(name: str) -> str:
        if name.startswith("onnxruntime") and name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.31.1" if name in names else version(name)

    monkeypatch.setattr(importlib.metadata, "version", known)
    monkeypatch.setattr(installation, "providers", lambda module: list(names) if module == "onnxruntime" else [])


def test_two_onnx_runtimes_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes(monkeypatch, "onnxruntime", "onnxruntime-directml")
    (finding,) = (f for f in packages.examine_packages() if f.state == BROKEN)
    assert "overwrite each other" in finding.detail
    assert finding.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-directml && ")


@pytest.mark.parametrize("name", ["onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-gpu"])
def test_another_onnx_runtime_is_enough(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A second one would overwrite its files: no line may install it beside the first."""
    runtimes(monkeypatch, name)
    found = {(finding.group, finding.name): finding for finding in packages.examine_packages()}
    cpu = found["cpu", "onnxruntime"]
    assert (cpu.state, cpu.remedy) == (MISSING, "")
    assert f"{name} is, in its place" in cpu.detail
    for finding in found.values():
        assert finding.state != BROKEN
        if "install" in finding.remedy and "uninstall" not in finding.remedy:
            assert "'onnxruntime" not in finding.remedy
            assert "keygraph[" not in finding.remedy
    if name != "onnxruntime-gpu":
        assert found["gpu", "onnxruntime-gpu"].remedy.startswith(f"pip uninstall -y {name} && ")
    assert "'onnxruntime>" not in install_line("export")
    assert "onnxruntime-gpu[cuda,cudnn]" in install_line("gpu")
    assert installation.onnx_runtime_remedy() == (
        f"{name} is installed; repair it with: pip install --force-reinstall {name}"
    )
