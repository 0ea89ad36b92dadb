"""``keygraph doctor``: what it finds, what it calls broken, and that it needs the core only."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from keygraph import plugins
from keygraph.cli import environment, main
from keygraph.cli.environment import BROKEN, MISSING, OK, TINY_KEY_GRAPH, Finding
from keygraph.errors import MissingDependencyError


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
    missing = [
        finding for finding in found.values() if finding.state == MISSING and finding.group in environment.EXTRAS
    ]
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


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("capability", [70, 90])
def test_what_the_gpu_library_is_built_for(tmp_path: Path, capability: int) -> None:
    try:
        library = plugins.library("cuda")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    (tmp_path / "driver.c").write_text(
        f"""
        int cuInit(unsigned flags) {{ return 0; }}
        int cuDeviceGetCount(int* count) {{ *count = 1; return 0; }}
        int cuDeviceGetAttribute(int* value, int which, int device) {{
          *value = which == 75 ? {capability // 10} : {capability % 10};
          return 0;
        }}
        """
    )
    driver = tmp_path / "libfake.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", driver, tmp_path / "driver.c"], check=True)
    said = environment._check_cuda(library, str(driver))
    assert said.startswith("loads; built for sm_")
    built, _, used = said.partition("; ")[2].partition("; ")
    targets = [target for target in (f"sm_{capability}", "PTX of 8.0") if target in built.split(" for ")[1].split(", ")]
    assert used == (
        f"GPU 0 uses {targets[0]}" if targets and capability >= 80 else f"nothing for GPU 0, an sm_{capability}"
    )
    assert environment._check_cuda(library, "libnothing.so").count(";") == 1


def test_targets_have_names() -> None:
    assert [environment._target(number) for number in (80, 121, 1080, 1100)] == [
        "sm_80", "sm_121", "PTX of 8.0", "PTX of 10.0",
    ]  # fmt: skip


def test_the_tiny_model_is_what_it_says() -> None:
    from onnx import TensorProto, helper

    def value(name: str, kind: int, shape: list[int]) -> object:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [helper.make_node("KeyGraph", ["query", "key", "k"], ["graph"], domain="keygraph")],
        "check",
        [
            value("query", TensorProto.FLOAT, [1, 1, 2, 2]),
            value("key", TensorProto.FLOAT, [1, 1, 3, 2]),
            value("k", TensorProto.INT64, [1]),
        ],
        [value("graph", TensorProto.INT32, [1, 1, 2, 1])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("keygraph", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    assert model.SerializeToString(deterministic=True) == TINY_KEY_GRAPH


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


def test_a_library_that_computes_wrongly_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import onnxruntime

    class Wrong:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, *_: object) -> list[object]:
            return [np.array([3, 6], np.int32)]

    class Options:
        def register_custom_ops_library(self, _path: str) -> None:
            pass

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    with pytest.raises(RuntimeError, match=r"gives \[3, 6\] where \[3, 5\]"):
        environment._check_onnxruntime(Path("any"))


def test_a_bad_instruction_set_is_a_failure() -> None:
    # In a process of its own: the library reads the variable once.
    code = (
        "import sys; from keygraph.cli import environment as e;"
        "print([f.state + ' ' + f.detail for f in e.libraries() if 'cpu' in f.name][0])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env={"KEYGRAPH_CPU_ISA": "mmx"}, capture_output=True, text=True, check=True
    ).stdout
    if said.startswith(MISSING):
        pytest.skip("the native libraries are not built")
    assert said.startswith(BROKEN)
    assert "KEYGRAPH_CPU_ISA is 'mmx'" in said


def test_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert environment.parse("numpy>=1.26") == ("numpy", "1.26", "")
    assert environment.parse("onnx-ir>=0.1.12; extra == 'export'") == ("onnx-ir", "0.1.12", "export")
    assert environment.parse('keygraph[cli]; extra == "cpu"') == ("keygraph", "", "cpu")
    assert environment.package("core", "numpy", "1.26").state == OK
    old = environment.package("export", "onnx", "999.0")
    assert (old.state, old.remedy) == (BROKEN, "pip install 'keygraph[export]' --upgrade")
    gone = environment.package("rtx", "no-such-package", "1")
    assert (gone.state, gone.remedy) == (MISSING, "pip install 'keygraph[rtx]'")
    assert environment.package("core", "no-such-package", "1").state == BROKEN
    # 1.10 is newer than 1.9, and what follows the numbers plays no part.
    assert environment._numbers("1.10.0+cpu") > environment._numbers("1.9")
    assert environment._numbers("2.0rc1") == (2, 0)
    info = tmp_path / "broken_thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken_thing\nVersion: 1.0\n")
    (tmp_path / "broken_thing.py").write_text("raise OSError('libmissing.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    broken = environment.package("export", "broken_thing", "")
    assert broken.state == BROKEN
    assert "libmissing.so" in broken.detail


def test_both_onnx_runtimes_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.31.1" if name == "onnxruntime-gpu" else version(name)
    )
    (finding,) = (f for f in environment.packages() if f.state == BROKEN)
    assert "overwrite each other" in finding.detail
    assert finding.remedy.startswith("pip uninstall")


def test_the_driver(tmp_path: Path) -> None:
    (finding,) = environment.gpus("libnothing-of-this-name.so.1")
    assert finding.state == MISSING
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    (finding,) = environment.gpus(str(tmp_path / "libcuda.so.1"))
    assert finding.state == BROKEN


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, ["ok up to CUDA 12.8, 1 GPU(s)", "ok A GPU, sm_89, 24 GiB"]), (100, ["missing"]), (803, ["broken cuInit"])],
)
def test_a_driver_is_asked(tmp_path: Path, status: int, expected: list[str]) -> None:
    """With a driver of our own making: the calls and their types are what is tested."""
    (tmp_path / "driver.c").write_text(
        f"""
        #include <string.h>
        #include <stddef.h>
        int cuInit(unsigned flags) {{ return {status}; }}
        int cuDriverGetVersion(int* version) {{ *version = 12080; return 0; }}
        int cuDeviceGetCount(int* count) {{ *count = 1; return 0; }}
        int cuDeviceGetName(char* name, int size, int device) {{ strncpy(name, "A GPU", size); return 0; }}
        int cuDeviceTotalMem_v2(size_t* bytes, int device) {{ *bytes = 24ull << 30; return 0; }}
        int cuDeviceGetAttribute(int* value, int which, int device) {{ *value = which == 75 ? 8 : 9; return 0; }}
        """
    )
    driver = tmp_path / "libfake.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", driver, tmp_path / "driver.c"], check=True)
    found = [f"{finding.state} {finding.detail}" for finding in environment.gpus(str(driver))]
    assert len(found) == len(expected)
    for said, start in zip(found, expected, strict=True):
        assert said.startswith(start)


def test_the_processor(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 fma sse\n")
    assert environment.processor(tmp_path / "x86") == ("Some CPU @ 2 GHz", ["avx2", "fma"])
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd sve\n")
    assert environment.processor(tmp_path / "arm")[1] == ["asimd", "sve"]
    assert environment.processor(tmp_path / "none")[1] == []


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
from keygraph.cli import main
sys.exit(main(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "missing: run exported files on the CPU: pip install 'keygraph[cpu]'" in done.stdout
    assert "missing: export checkpoints: pip install 'keygraph[export]'" in done.stdout


def test_without_typer_and_rich_the_findings_are_there() -> None:
    code = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = sys.modules['torch'] = None;"
        "from keygraph.cli import environment as e; print(len(list(e.machine())), next(e.gpus()).group)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "GPU"]
