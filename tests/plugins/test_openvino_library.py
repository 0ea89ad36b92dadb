"""libkeygraph_openvino beyond the conformance suite: bad calls, half precision, the model cache, other versions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keygraph.plugins
import numpy as np
import pytest
from bad_calls import BAD_CALLS, BadCall
from exported import ExportStore
from keygraph.errors import MissingDependencyError
from openvino_host import OpenVino, compiled_node, name_of, read_node, to_openvino
from operator_cases import (
    ATTENTION_CASES,
    FLOATS,
    GRAPH_CASES,
    PackCase,
    attention_inputs,
    graph_inputs,
    pack_inputs,
)
from operator_hosts import Cpu, cpu_library, native, one_node
from tiny_kgt import CONFIG

openvino = pytest.importorskip("openvino")


def message(call: BadCall, fixed: bool) -> str:
    """The last line of the error, where the model's shapes are fixed to the call's, or known at run time only."""
    core, model = read_node(False, call.op, np.float32, call.optional_input, heads=call.heads, ranked=False)
    shapes = [
        openvino.PartialShape(s) if fixed else openvino.PartialShape.dynamic(len(s)) for s in call.shapes.values()
    ]

    def run() -> None:
        model.reshape(dict(zip(model.inputs, shapes, strict=True)))
        core.compile_model(model, "CPU")(list(call.inputs().values()))

    with pytest.raises(RuntimeError, match=f"{call.op} node 'the_node': ") as caught:
        run()
    return str(caught.value).strip().splitlines()[-1]


@pytest.mark.parametrize("call", BAD_CALLS, ids=lambda call: call.name)
def test_fixed_shapes_are_refused_in_the_same_words(call: BadCall) -> None:
    assert message(call, fixed=True) == f"{call.op} node 'the_node': {call.message}"


@pytest.mark.parametrize("call", BAD_CALLS, ids=lambda call: call.name)
def test_shapes_at_run_time_are_refused_in_the_same_words(call: BadCall) -> None:
    """What the ranks alone tell is refused before the sizes are known."""
    said = message(call, fixed=False)
    if "?" in said:
        pattern = re.escape(said.partition(": ")[2].partition(",")[0]).replace(r"\?", r"\d+")
        assert re.match(pattern, call.message)
    else:
        assert said == f"{call.op} node 'the_node': {call.message}"


def evaluated(op: str, inputs: list[np.ndarray], like: np.ndarray, **options: Any) -> np.ndarray:
    """Run a node without any of OpenVINO's plugins, none of which converts its inputs."""
    _, model = read_node(False, op, name_of(inputs[0].dtype), **options)
    output = openvino.Tensor(model.outputs[0].element_type, openvino.Shape(like.shape))
    assert model.evaluate([output], [to_openvino(array) for array in inputs])
    return np.array(output.data).view(like.dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=[str(np.dtype(dtype)) for dtype in FLOATS])
def test_every_type_reaches_the_kernels(dtype: type) -> None:
    """The same bits as the C interface gives."""
    cpu = Cpu(cpu_library().keygraph_cpu_isa().decode())
    case = next(case for case in GRAPH_CASES if case.name == "window")
    graph = cpu.key_graph(*graph_inputs(case, dtype), case.k)
    inputs = [*graph_inputs(case, dtype), np.array([case.k])]
    np.testing.assert_array_equal(evaluated("KeyGraph", inputs, graph), graph)
    for case, type_ in (
        (PackCase("scores", threshold=True), dtype),
        (PackCase("mask"), dtype),
        (PackCase(""), np.bool_),
    ):
        masks = [array for array in pack_inputs(case, type_).values() if array is not None]
        graph = cpu.pack_graph(*masks)
        np.testing.assert_array_equal(evaluated("PackGraph", masks, graph, bias=case.threshold), graph)
    values = attention_inputs(next(case for case in ATTENTION_CASES if case.name == "bias"), dtype)
    arrays = [array for array in values.values() if array is not None]
    expected = cpu.key_graph_attention(*arrays, scale=0.5)
    output = evaluated("KeyGraphAttention", arrays, expected, bias=3, scale=0.5)
    np.testing.assert_array_equal(output.view(np.uint8), expected.view(np.uint8))


def test_different_types_are_refused() -> None:
    _, model = read_node(False, "KeyGraph", np.float32)
    model.inputs[1].get_node().set_element_type(openvino.Type.f16)
    with pytest.raises(
        RuntimeError, match="node 'the_node': the inputs have the element types f32 and f16, which must"
    ):
        model.validate_nodes_and_infer_types()


def test_wrong_type_is_refused_when_the_model_is_read() -> None:
    with pytest.raises(RuntimeError, match="element type is not supported; choose one of float32, float16, bfloat16"):
        read_node(False, "KeyGraph", np.float64)


def test_threads_do_not_matter() -> None:
    case = next(case for case in GRAPH_CASES if case.name == "wide")
    query, key = graph_inputs(case, np.float32)
    results = [
        compiled_node("KeyGraph", np.float32, False, None, False, threads=threads)([query, key, np.array([case.k])])[0]
        for threads in (1, 2, 3)
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_output_shapes_are_inferred() -> None:
    _, model = read_node(False, "KeyGraph", np.float32)
    model.reshape({"query": [2, 1, "1..9", 8], "key": [2, 1, 70, 8]})
    assert str(model.outputs[0].partial_shape) == "[2,1,1..9,3]"
    _, model = read_node(False, "PackGraph", np.float32)
    model.reshape({"mask": [2, 1, "1..9", 70]})
    assert str(model.outputs[0].partial_shape) == "[2,1,1..9,3]"
    _, model = read_node(False, "KeyGraphAttention", np.float32, heads=2)
    model.reshape({"q": ["1..4", 5, 8], "k": ["1..4", 70, 8], "v": ["1..4", 70, 6], "graph": ["1..4", 1, 5, 3]})
    assert str(model.outputs[0].partial_shape) == "[1..4,5,6]"


def test_an_exported_file_from_the_model_cache(exports: ExportStore, tmp_path: Path) -> None:
    """The second start reads the compiled model, with the operators' attributes, from OpenVINO's cache."""
    import onnxruntime

    path = exports.get(CONFIG, "tiny").onnx
    inputs = {"image": np.random.default_rng(0).random((2, 3, 24, 32), dtype=np.float32), "k": np.array([9])}
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(native("onnxruntime")))
    expected = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    results, cached = [], []
    for _ in range(2):
        core = openvino.Core()
        core.add_extension(str(native("openvino")))
        core.set_property({"CACHE_DIR": str(tmp_path)})
        compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        cached.append(compiled.get_property("LOADED_FROM_CACHE"))
        results.append(compiled(inputs)[0])
    assert cached == [False, True]
    np.testing.assert_array_equal(results[0], results[1])
    assert -10 * np.log10(np.mean((results[0] - expected) ** 2) + 1e-20) > 90


def test_an_omitted_threshold_with_a_place() -> None:
    """ONNX gives an optional input that is left out the name ""."""
    model = one_node("PackGraph", np.float32)
    model.graph.node[0].input.append("")
    core = openvino.Core()
    core.add_extension(str(native("openvino")))
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    mask = np.array([[[[0, 2, -1, np.nan]]]], np.float32)
    assert compiled([mask])[0].item() == 0b1110


def test_an_omitted_bias_with_a_place() -> None:
    """ONNX gives an optional input that is left out the name ""."""
    model = one_node("KeyGraphAttention", np.float32, scale=0.5)
    model.graph.node[0].input.append("")
    core = openvino.Core()
    core.add_extension(str(native("openvino")))
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    values = attention_inputs(ATTENTION_CASES[0], np.float32)
    arrays = [array for array in values.values() if array is not None]
    np.testing.assert_array_equal(compiled(arrays)[0], OpenVino().key_graph_attention(*arrays, scale=0.5))


def test_bad_instruction_set_is_refused_at_registration() -> None:
    program = "import openvino, sys\nopenvino.Core().add_extension(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", program, str(native("openvino"))],
        env={**os.environ, "KEYGRAPH_CPU_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "choose one of baseline, avx2, avx512" in result.stderr


def test_another_version_of_openvino_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same library beside a package with another libopenvino."""
    library = native("openvino")
    package = tmp_path / "openvino"
    (package / "libs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "libs" / "libopenvino.so.2530").touch()
    monkeypatch.delitem(sys.modules, "openvino")
    monkeypatch.syspath_prepend(tmp_path)
    built = re.search(r"libopenvino\.so\.\d+", library.read_bytes().decode("latin-1"))
    assert built is not None
    with pytest.raises(MissingDependencyError) as caught:
        keygraph.plugins.library("openvino")
    said = str(caught.value)
    assert f"was built with the OpenVINO of {built[0]}, and the installed one has libopenvino.so.2530" in said
    assert "build it with: pip install openvino" in said


def test_the_library_has_no_path_of_the_build_machine() -> None:
    """OpenVINO's headers put their paths into messages."""
    content = native("openvino").read_bytes()
    assert b"openvino/core/partial_shape.hpp" in content
    assert str(Path(openvino.__file__).parent).encode() not in content
