"""Bad input at the C interface, in ONNX Runtime and in PyTorch: a message of one line, never a crash."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bad_calls import BAD_CALLS, BadCall
from openvino_host import compiled_node
from operator_hosts import (
    AttentionShape,
    GraphShape,
    PackShape,
    cpu_library,
    declare,
    instruction_sets,
    native,
    session,
)


def array(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.ones(shape, dtype=dtype)


def graph_status(shape: GraphShape | None, dtype: int = 1, k: int = 1, null: bool = False) -> str:
    memory = array(64)
    pointer = None if null else memory.ctypes.data
    status = cpu_library().keygraph_cpu_key_graph(shape, dtype, pointer, pointer, k, pointer, None)
    text: str = cpu_library().keygraph_status_message(status).decode()
    return text


def test_c_interface_rejects_bad_graph_arguments() -> None:
    good = GraphShape(1, 1, 2, 2, 2)
    assert graph_status(good) == "no error"
    assert "k must be at least 1" in graph_status(good, k=0)
    assert "k must be at least 1" in graph_status(good, k=-(2**63))
    assert "element type" in graph_status(good, dtype=0)
    assert "element type" in graph_status(good, dtype=77)
    assert "null" in graph_status(None)
    assert "null" in graph_status(good, null=True)
    assert "negative" in graph_status(GraphShape(1, 1, -1, 2, 2))
    assert "too large" in graph_status(GraphShape(2**40, 2**40, 2, 2, 2))
    assert "too large" in graph_status(GraphShape(1, 1, 1, 2**31, 1))


def test_c_interface_rejects_bad_pack_arguments() -> None:
    def status(shape: PackShape | None, dtype: int = 1, null: bool = False, threshold: bool = False) -> str:
        memory = array(64)
        p = None if null else memory.ctypes.data
        code = cpu_library().keygraph_cpu_pack_graph(shape, dtype, p, p if threshold else None, p, None)
        text: str = cpu_library().keygraph_status_message(code).decode()
        return text

    good = PackShape(1, 1, 2, 2)
    assert [status(good, dtype) for dtype in (1, 2, 3, 4)] == ["no error"] * 4
    assert status(good, threshold=True) == "no error"
    assert "or bool for a mask without a threshold" in status(good, dtype=4, threshold=True)
    assert "element type" in status(good, dtype=5)
    assert "negative" in status(PackShape(1, 1, -1, 2))
    assert "too large" in status(PackShape(1, 1, 1, 2**31))
    assert "null" in status(good, null=True)
    assert "null" in status(None)
    assert [status(PackShape(*sizes), null=True) for sizes in ((0, 1, 2, 2), (1, 1, 2, 0))] == ["no error"] * 2


def test_c_interface_rejects_bad_top_k_arguments() -> None:
    def status(shape: PackShape | None, dtype: int = 1, null: bool = False, k: int = 1) -> str:
        memory = array(64)
        p = None if null else memory.ctypes.data
        code = cpu_library().keygraph_cpu_top_k_graph(shape, dtype, p, k, p, None)
        text: str = cpu_library().keygraph_status_message(code).decode()
        return text

    good = PackShape(1, 1, 2, 2)
    assert [status(good, dtype) for dtype in (1, 2, 3)] == ["no error"] * 3
    assert [status(good, k=k) for k in (0, -(2**63))] == ["k must be at least 1"] * 2
    assert "element type" in status(good, dtype=4)
    assert "negative" in status(PackShape(1, 1, -1, 2))
    assert "null" in status(good, null=True)
    assert "null" in status(None)
    assert [status(PackShape(*sizes), null=True) for sizes in ((0, 1, 2, 2), (1, 1, 2, 0))] == ["no error"] * 2


def test_c_interface_rejects_bad_attention_arguments() -> None:
    def status(shape: AttentionShape | None, dtype: int = 1, null: bool = False) -> str:
        memory = array(64)
        p = None if null else memory.ctypes.data
        code = cpu_library().keygraph_cpu_key_graph_attention(shape, dtype, p, p, p, p, None, 1.0, p, None)
        text: str = cpu_library().keygraph_status_message(code).decode()
        return text

    assert status(AttentionShape(1, 2, 1, 2, 2, 2, 2)) == "no error"
    assert "groups" in status(AttentionShape(1, 3, 2, 2, 2, 2, 2))
    assert status(AttentionShape(4, 2, 1, 2, 2, 2, 2, 0, 3)) == "no error"  # there is no bias
    assert "element type" in status(AttentionShape(1, 2, 1, 2, 2, 2, 2), dtype=9)
    assert "negative" in status(AttentionShape(1, 2, 1, 2, 2, -2, 2))
    assert "null" in status(AttentionShape(1, 2, 1, 2, 2, 2, 2), null=True)
    assert "null" in status(None)


@pytest.mark.parametrize("shape", [(0, 1, 2, 2, 2), (1, 1, 0, 2, 2), (1, 1, 2, 0, 2)])
def test_empty_tensors_are_no_error(shape: tuple[int, ...]) -> None:
    assert graph_status(GraphShape(*shape), null=True) == "no error"


def test_no_channels_is_a_tie_of_all_nodes() -> None:
    graph = np.zeros(2, np.int32)
    assert (
        cpu_library().keygraph_cpu_key_graph(GraphShape(1, 1, 2, 9, 0), 1, None, None, 3, graph.ctypes.data, None) == 0
    )
    np.testing.assert_array_equal(graph, [7, 7])


def test_no_nodes_gives_zeros() -> None:
    output = array(6)
    shape = AttentionShape(1, 1, 1, 2, 0, 4, 3)
    status = cpu_library().keygraph_cpu_key_graph_attention(
        shape, 1, output.ctypes.data, None, None, None, None, 1.0, output.ctypes.data, None
    )
    assert status == 0
    np.testing.assert_array_equal(output, 0)


def test_bits_past_the_last_node_are_ignored() -> None:
    q, k, v = array(1, 1, 2, 3), array(1, 1, 5, 3), np.arange(5, dtype=np.float32).reshape(1, 1, 5, 1)
    output = array(1, 1, 2, 1)
    graph = np.full((1, 1, 2, 1), -1, np.int32)
    cpu_library().keygraph_cpu_key_graph_attention(
        AttentionShape(1, 1, 1, 2, 5, 3, 1), 1, q.ctypes.data, k.ctypes.data, v.ctypes.data, graph.ctypes.data, None,
        1.0, output.ctypes.data, None,
    )  # fmt: skip
    np.testing.assert_allclose(output.ravel(), [2, 2])


def test_bfloat16() -> None:
    """The third storage type, which NumPy lacks: the upper halves of float32."""
    random = np.random.default_rng(0)

    def rounded(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape).astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)

    def halves(values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values.view(np.uint16)[..., 1::2])

    q, k, v = rounded(1, 2, 9, 5), rounded(1, 2, 40, 5), rounded(1, 2, 40, 7)
    graph = np.full((1, 1, 9, 2), 0x55, np.int32)
    results = []
    for dtype, inputs in ((1, (q, k, v)), (3, (halves(q), halves(k), halves(v)))):
        output = np.zeros((1, 2, 9, 7), np.float32 if dtype == 1 else np.uint16)
        pointers = [a.ctypes.data for a in inputs]
        shape = AttentionShape(1, 2, 1, 9, 40, 5, 7)
        assert (
            cpu_library().keygraph_cpu_key_graph_attention(
                shape, dtype, *pointers, graph.ctypes.data, None, 0.5, output.ctypes.data, None
            )
            == 0
        )
        results.append(output)
    widened = (results[1].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(widened, results[0], rtol=2**-8)


@pytest.mark.parametrize("isa", ["avx9000", "AVX2", "baseline "])
def test_unknown_instruction_set_in_the_environment(isa: str) -> None:
    program = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "library.keygraph_status_message.restype = library.keygraph_cpu_isa.restype = ctypes.c_char_p\n"
        "print(library.keygraph_cpu_isa(), library.keygraph_status_message(library.keygraph_cpu_key_graph()))"
    )
    # With no arguments at all: the instruction set is looked at first.
    result = subprocess.run(
        [sys.executable, "-c", program, str(native("cpu"))],
        env={**os.environ, "KEYGRAPH_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("None ")
    assert "choose one of baseline, avx2, avx512" in result.stdout


@pytest.mark.parametrize("isa", instruction_sets())
def test_instruction_set_of_the_environment(isa: str) -> None:
    program = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "library.keygraph_cpu_isa.restype = ctypes.c_char_p\n"
        "print(library.keygraph_cpu_isa().decode())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(native("cpu"))],
        env={**os.environ, "KEYGRAPH_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == isa


def test_selecting_an_unknown_instruction_set_changes_nothing() -> None:
    library = cpu_library()
    before = library.keygraph_cpu_isa()
    assert library.keygraph_cpu_select_isa(b"mmx") != 0
    assert library.keygraph_cpu_isa() == before


def onnx_runtime_message(call: BadCall) -> str:
    """The error of ONNX Runtime, which names the operator and the node."""
    run = session(call.op, np.float32, call.optional_input, None, 1, False,
                  call.heads, ranked=False)  # fmt: skip
    with pytest.raises(Exception, match=f"{call.op} node 'the_node': ") as caught:
        run.run(None, call.inputs())
    return str(caught.value)


def torch_message(call: BadCall) -> str:
    """The error of the PyTorch operators, which names the function."""
    import torch
    from keygraph.plugins.torch import key_graph, key_graph_attention, pack_graph, top_k_graph

    tensors = {name: torch.from_numpy(array) for name, array in call.inputs().items()}
    functions = {
        "KeyGraph": key_graph,
        "PackGraph": pack_graph,
        "TopKGraph": top_k_graph,
        "KeyGraphAttention": key_graph_attention,
    }
    function: Any = functions[call.op]
    name = function.__name__
    with pytest.raises(ValueError, match=f"^{name}: ") as caught:
        function(**tensors, **({} if call.heads is None else {"heads": call.heads}))
    return str(caught.value)


@pytest.mark.parametrize("message", [onnx_runtime_message, torch_message], ids=["onnxruntime", "torch"])
@pytest.mark.parametrize("call", BAD_CALLS, ids=lambda call: call.name)
def test_every_host_refuses_a_bad_call_in_the_same_words(call: BadCall, message: Callable[[BadCall], str]) -> None:
    """TensorRT's turn with the same calls is in tensorrt_plugin/test_tensorrt_plugin.py."""
    assert message(call).endswith(f": {call.message}")


def onnx_runtime_with_functions(inputs: dict[str, np.ndarray]) -> None:
    session("KeyGraph", np.float32, False, None, 1, True).run(None, inputs)


def openvino_with_functions(inputs: dict[str, np.ndarray]) -> None:
    compiled_node("KeyGraph", np.float32, False, None, True)(list(inputs.values()))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (onnx_runtime_with_functions, "TopK node.*k_must_be_at_least_1.*value of k must not be negative"),
        (openvino_with_functions, "(?s)TopK node .*Check 'cmp::ge"),
    ],
    ids=["onnxruntime", "openvino"],
)
@pytest.mark.parametrize("k", [0, -1, -(2**31)])
def test_functions_refuse_k_below_1(run: Callable[[dict[str, np.ndarray]], None], message: str, k: int) -> None:
    """A function can fail, though not in our words."""
    with pytest.raises(Exception, match=message):
        run({"query": array(1, 1, 4, 3), "key": array(1, 1, 40, 3), "k": np.array([k])})


class TestOnnxRuntime:
    def test_bfloat16(self) -> None:
        """The third storage type: what the C interface computes."""
        import onnxruntime
        from onnx import TensorProto

        q, k, v = (np.ones((1, 2, 4, 8), np.uint16) * number for number in (0x3F80, 0x3F00, 0x4040))
        graph = np.full((1, 1, 4, 1), 0b11, np.int32)
        inputs = {"q": q, "k": k, "v": v}
        run = session("KeyGraphAttention", "bfloat16", False, None, 1, False)
        make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        values = {name: make(array, TensorProto.BFLOAT16) for name, array in inputs.items()}
        (output,) = run.run_with_ort_values(None, values | {"graph": onnxruntime.OrtValue.ortvalue_from_numpy(graph)})
        assert output.data_type() == "tensor(bfloat16)"
        assert output.shape() == [1, 2, 4, 8]
        assert set((ctypes.c_uint16 * 64).from_address(output.data_ptr())) == {0x4040}

    def test_wrong_type_is_refused_when_the_model_is_loaded(self) -> None:
        with pytest.raises(Exception, match="KeyGraph"):
            session("KeyGraph", np.float64, False, None, 1, False)

    def test_a_mask_of_bool_takes_no_threshold(self) -> None:
        run = session("PackGraph", np.bool_, True, None, 1, False)
        inputs = {"mask": array(1, 1, 2, 3, dtype=np.bool_), "threshold": array(1, 1, 2, 1, dtype=np.bool_)}
        with pytest.raises(Exception, match=r"PackGraph node 'the_node': .* or bool for a mask without a threshold"):
            run.run(None, inputs)

    def test_bad_instruction_set_is_refused_at_registration(self) -> None:
        program = "import onnxruntime, sys\nonnxruntime.SessionOptions().register_custom_ops_library(sys.argv[1])"
        result = subprocess.run(
            [sys.executable, "-c", program, str(native("onnxruntime"))],
            env={**os.environ, "KEYGRAPH_CPU_ISA": "mmx"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        assert "choose one of baseline, avx2, avx512" in result.stderr

    def test_the_library_has_the_c_interface_too(self) -> None:
        library = ctypes.CDLL(str(native("onnxruntime")))
        declare(library)
        assert library.keygraph_cpu_isa().decode() in instruction_sets()

    def test_shapes_are_inferred(self) -> None:
        graph = session("KeyGraph", np.float32, False, None, 1, False).get_outputs()[0]
        assert (graph.type, graph.shape) == ("tensor(int32)", ["B", "G", "M", "ceil(N/32)"])
        graph = session("PackGraph", np.float16, True, None, 1, False).get_outputs()[0]
        assert (graph.type, graph.shape) == ("tensor(int32)", ["B", "G", "M", "ceil(N/32)"])
        graph = session("TopKGraph", np.float16, False, None, 1, False).get_outputs()[0]
        assert (graph.type, graph.shape) == ("tensor(int32)", ["B", "G", "M", "ceil(N/32)"])
        output = session("KeyGraphAttention", np.float16, False, None, 1, False).get_outputs()[0]
        assert (output.type, output.shape) == ("tensor(float16)", ["B", "H", "M", "Dv"])
