"""The native libraries: each is run, and what is broken is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from keygraph import plugins
from keygraph.environment import BROKEN, MISSING, libraries
from keygraph.environment.libraries import TINY_KEY_GRAPH
from keygraph.errors import MissingDependencyError


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("capability", [70, 90])
def test_what_the_gpu_library_is_built_for(tmp_path: Path, capability: int) -> None:
    try:
        library = plugins.library("cuda")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    (tmp_path / "driver.c").write_text(
        f"""
        #include <stddef.h>
        int cuInit(unsigned flags) {{ return 0; }}
        int cuDeviceGet(int* handle, int index) {{ *handle = index; return 0; }}
        int cuDeviceGetName(char* name, int size, int device) {{ name[0] = 0; return 0; }}
        int cuDeviceTotalMem_v2(size_t* bytes, int device) {{ *bytes = 0; return 0; }}
        int cuDeviceGetCount(int* count) {{ *count = 1; return 0; }}
        int cuDeviceGetAttribute(int* value, int which, int device) {{
          *value = which == 75 ? {capability // 10} : {capability % 10};
          return 0;
        }}
        """
    )
    driver = tmp_path / "libfake.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", driver, tmp_path / "driver.c"], check=True)
    said = libraries._check_cuda(library, str(driver))
    assert said.startswith("loads; built for sm_")
    built, _, used = said.partition("; ")[2].partition("; ")
    targets = [target for target in (f"sm_{capability}", "PTX of 8.0") if target in built.split(" for ")[1].split(", ")]
    assert used == (
        f"GPU 0 uses {targets[0]}" if targets and capability >= 80 else f"nothing for GPU 0, an sm_{capability}"
    )
    assert libraries._check_cuda(library, "libnothing.so").count(";") == 1


def test_targets_have_names() -> None:
    assert [libraries._target(number) for number in (80, 121, 1080, 1100)] == [
        "sm_80", "sm_121", "PTX of 8.0", "PTX of 10.0",
    ]  # fmt: skip


def test_the_tiny_model_is_what_it_says() -> None:
    from onnx import TensorProto, ValueInfoProto, helper

    def value(name: str, kind: int, shape: list[int]) -> ValueInfoProto:
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

        def add_session_config_entry(self, _name: str, _value: str) -> None:
            pass

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    with pytest.raises(RuntimeError, match=r"gives \[3, 6\] where \[3, 5\]"):
        libraries._check_onnxruntime(Path("any"))


def test_a_bad_instruction_set_is_a_failure() -> None:
    # In a process of its own: the library reads the variable once.
    code = (
        "import sys; from keygraph.environment import libraries as e;"
        "print([f.state + ' ' + f.detail for f in e.examine_libraries() if 'cpu' in f.name][0])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], env={"KEYGRAPH_CPU_ISA": "mmx"}, capture_output=True, text=True, check=True
    ).stdout
    if said.startswith(MISSING):
        pytest.skip("the native libraries are not built")
    assert said.startswith(BROKEN)
    assert "KEYGRAPH_CPU_ISA is 'mmx'" in said
