"""``keygraph doctor``: what it prints, what it calls broken, and that it needs the core only."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from keygraph import plugins
from keygraph.cli import main
from keygraph.environment import BROKEN, EXTRAS, MISSING, OK, Finding
from keygraph.errors import MissingDependencyError
from keygraph.installation import install_line


def diagnosis(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Finding]]:
    """Exit code, and findings by ``group/name``."""
    code = main(["doctor", "--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["ok"] == (code == 0)
    return code, {f"{f['group']}/{f['name']}": Finding(**f) for f in values["findings"]}


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = diagnosis(capsys)
    assert code == 0, [finding for finding in found.values() if finding.state == BROKEN]
    for name in ("machine/Python", "core/numpy", "cpu/onnxruntime", "export/torch", "keygraph/keygraph"):
        assert found[name].state == OK
    assert found["export/torch"].detail == importlib.metadata.version("torch")
    assert "CPUExecutionProvider" in found["ONNX Runtime/providers"].detail
    for finding in found.values():
        assert bool(finding.remedy) <= (finding.state != OK)
    missing = [finding for finding in found.values() if finding.state == MISSING and finding.group in EXTRAS]
    assert all("pip install" in finding.remedy for finding in missing)


def test_text_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for part in ("Python", "CPU", "numpy", "libkeygraph_ort.so", "NVIDIA driver"):
        assert part in said


def test_libraries_are_really_run(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        plugins.library("onnxruntime")
    except MissingDependencyError:
        pytest.skip("the native libraries are not built")
    _, found = diagnosis(capsys)
    assert "KeyGraph runs" in found["libraries/libkeygraph_ort.so"].detail
    assert any(isa in found["libraries/libkeygraph_cpu.so"].detail for isa in ("baseline", "avx2", "avx512"))


def test_missing_libraries_are_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def none(_host: str) -> Path:
        raise MissingDependencyError("not there; build it with: pip install the-line")

    monkeypatch.setattr(plugins, "library", none)
    code, found = diagnosis(capsys)
    assert code == 0
    finding = found["libraries/libkeygraph_ort.so"]
    assert (finding.state, finding.remedy) == (MISSING, "pip install the-line")
    assert "own functions" in finding.detail
    assert "on NVIDIA GPUs" in found["libraries/libkeygraph_cuda.so"].detail


def test_a_broken_library_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF, but no more")
    monkeypatch.setattr(plugins, "library", lambda _host: broken)
    code, found = diagnosis(capsys)
    assert code == 1
    for name in ("libraries/libkeygraph_ort.so", "libraries/libkeygraph_cpu.so", "libraries/libkeygraph_cuda.so"):
        assert found[name].state == BROKEN
        assert "broken.so" in found[name].detail
        assert found[name].remedy.startswith("pip install --force-reinstall")
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "BROKEN" in said
    assert said.rstrip().splitlines()[-1].startswith(("broken: ", "missing: "))


def test_only_the_core_is_needed() -> None:
    code = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "onnxruntime", "rich_nothing", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
import importlib.metadata
version = importlib.metadata.version
def gone(name):
    if name.partition("-")[0] in {"torch", "onnx", "onnxscript", "onnxruntime", "safetensors"}:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = gone
importlib.metadata.packages_distributions = dict
from keygraph.cli import main
sys.exit(main(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"missing: run exported files on the CPU: {install_line('cpu')}\n" in done.stdout
    assert f"missing: export checkpoints: {install_line('export')}\n" in done.stdout
