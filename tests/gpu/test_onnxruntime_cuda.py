"""The operators in ONNX Runtime's CUDA provider; needs a GPU and onnxruntime-gpu."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import operator_oracle as oracle
import pytest
from keygraph.errors import MissingDependencyError
from operator_cases import (
    ATTENTION_CASES,
    GRAPH_CASES,
    PACK_CASES,
    TOP_K_CASES,
    AttentionCase,
    GraphCase,
    PackCase,
    TopKCase,
    attention_inputs,
    graph_inputs,
    pack_inputs,
    top_k_inputs,
)
from operator_hosts import OnnxRuntime, native, session

onnxruntime = pytest.importorskip("onnxruntime")
CUDA = "CUDAExecutionProvider"
if CUDA not in onnxruntime.get_available_providers():
    pytest.skip("needs onnxruntime-gpu", allow_module_level=True)
try:
    native("cuda")
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

TOLERANCE: dict[type, float] = {np.float32: 1e-5, np.float16: 2e-3}
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])


@pytest.mark.parametrize("op", ["KeyGraph", "PackGraph", "TopKGraph", "KeyGraphAttention"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, "bfloat16"])
def test_the_provider_runs_the_node(op: str, dtype: Any) -> None:
    """Creating the session fails if a node would fall back to the CPU."""
    assert session(op, dtype, False, None, 1, False, None, CUDA).get_providers()[0] == CUDA


@every_dtype
@pytest.mark.parametrize("case", GRAPH_CASES, ids=lambda case: case.name)
def test_key_graph(case: GraphCase, dtype: type) -> None:
    query, key = graph_inputs(case, dtype)
    oracle.check_graph(OnnxRuntime(provider=CUDA).key_graph(query, key, case.k), query, key, case.k, case.exact)


@pytest.mark.parametrize("case", PACK_CASES, ids=lambda case: case.name)
def test_pack_graph(case: PackCase) -> None:
    for dtype in (np.float32, np.float16) if case.threshold else (np.float32, np.float16, np.bool_):
        inputs = pack_inputs(case, dtype)
        graph = OnnxRuntime(provider=CUDA).pack_graph(**inputs)
        np.testing.assert_array_equal(graph, oracle.pack(oracle.pack_graph(**inputs)))


@every_dtype
@pytest.mark.parametrize("case", TOP_K_CASES, ids=lambda case: case.name)
def test_top_k_graph(case: TopKCase, dtype: type) -> None:
    scores = top_k_inputs(case, dtype)
    oracle.check_top_k(OnnxRuntime(provider=CUDA).top_k_graph(scores, case.k), scores, case.k)


@functools.cache
def expected_attention(case: AttentionCase, dtype: type) -> np.ndarray:
    inputs = attention_inputs(case, dtype)
    selected = oracle.unpack(inputs["graph"], case.nodes)
    q, k, v, bias = (inputs[name] for name in ("q", "k", "v", "bias"))
    expected: np.ndarray = oracle.key_graph_attention(q, k, v, selected, bias, case.scale)
    return expected


@every_dtype
@pytest.mark.parametrize("heads_last", [False, True], ids=["", "heads-last"])
@pytest.mark.parametrize("case", [c for c in ATTENTION_CASES if c.values == "normal"], ids=lambda case: case.name)
def test_key_graph_attention(case: AttentionCase, heads_last: bool, dtype: type) -> None:
    host = OnnxRuntime(provider=CUDA, heads_last=heads_last)
    output = host.key_graph_attention(**attention_inputs(case, dtype), scale=case.scale)
    assert output.dtype == dtype
    oracle.check_attention(output, expected_attention(case, dtype), TOLERANCE[dtype])


def test_bad_shapes_name_the_node() -> None:
    q = np.ones((1, 1, 40, 2), np.float32)
    with pytest.raises(Exception, match=r"KeyGraphAttention node 'the_node': graph has shape \[1, 1, 40, 1\]"):
        OnnxRuntime(provider=CUDA).key_graph_attention(q, q, q, np.ones((1, 1, 40, 1), np.int32))


def test_tensors_stay_on_the_device() -> None:
    """Inputs, k and output are bound on the device; nothing is copied to the host."""
    run = session("KeyGraph", np.float16, False, None, 1, False, None, CUDA)
    query = np.random.default_rng(0).standard_normal((2, 1, 200, 32)).astype(np.float16)
    binding = run.io_binding()
    values = {"query": query, "key": query, "k": np.array([20])}
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0) for name, array in values.items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("graph", "cuda")
    run.run_with_iobinding(binding)
    (graph,) = binding.get_outputs()
    assert graph.device_name() == "cuda"
    oracle.check_graph(graph.numpy(), query, query, 20, False)
