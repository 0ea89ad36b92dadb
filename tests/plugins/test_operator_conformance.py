"""One suite for every implementation of the operators, against the float64 oracle."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import operator_oracle as oracle
import pytest
from operator_cases import (
    ATTENTION_CASES,
    FLOATS,
    GRAPH_CASES,
    PACK_CASES,
    TOLERANCE,
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
from operator_hosts import Cpu, OnnxRuntime, heads_last_hosts, hosts, instruction_sets

HOSTS = hosts()
#: The attention also takes q, k and v as linear layers make them, [B, N, H D].
ATTENTION_HOSTS = HOSTS | {f"{name}-heads-last": host for name, host in heads_last_hosts().items()}


def with_dtypes(hosts: dict[str, Any]) -> pytest.MarkDecorator:
    """Every host with every type that it computes with."""
    pairs = [
        pytest.param(host, dtype, id=f"{np.dtype(dtype)}-{name}")
        for name, host in hosts.items()
        for dtype in host.dtypes
    ]
    return pytest.mark.parametrize(("host", "dtype"), pairs)


every_graph_case = pytest.mark.parametrize("case", GRAPH_CASES, ids=lambda case: case.name)
every_attention_case = pytest.mark.parametrize("case", ATTENTION_CASES, ids=lambda case: case.name)


every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=[str(np.dtype(dtype)) for dtype in FLOATS])


@functools.cache
def expected_attention(case: AttentionCase, dtype: type) -> np.ndarray:
    inputs = attention_inputs(case, dtype)
    selected = oracle.unpack(inputs["graph"], case.nodes)
    q, k, v, bias = (inputs[name] for name in ("q", "k", "v", "bias"))
    expected: np.ndarray = oracle.key_graph_attention(q, k, v, selected, bias, case.scale)
    return expected


@with_dtypes(HOSTS)
@every_graph_case
def test_key_graph(host: Any, dtype: type, case: GraphCase) -> None:
    query, key = graph_inputs(case, dtype)
    graph = host.key_graph(query, key, case.k)
    oracle.check_graph(graph, query, key, case.k, case.exact, host.lowest_of_equals)


@pytest.mark.parametrize("case", PACK_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("host", [pytest.param(host, id=name) for name, host in HOSTS.items()])
def test_pack_graph(host: Any, case: PackCase) -> None:
    for dtype in host.dtypes if case.threshold else (*host.dtypes, np.bool_):
        inputs = pack_inputs(case, dtype)
        graph = host.pack_graph(**inputs)
        assert graph.dtype == np.int32
        np.testing.assert_array_equal(graph, oracle.pack(oracle.pack_graph(**inputs)), err_msg=str(np.dtype(dtype)))


@pytest.mark.parametrize("case", TOP_K_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("host", [pytest.param(host, id=name) for name, host in HOSTS.items()])
def test_top_k_graph(host: Any, case: TopKCase) -> None:
    for dtype in host.dtypes:
        scores = top_k_inputs(case, dtype)
        graph = host.top_k_graph(scores, case.k)
        oracle.check_top_k(graph, scores, case.k, host.lowest_of_equals)


@with_dtypes(ATTENTION_HOSTS)
@every_attention_case
def test_key_graph_attention(host: Any, dtype: type, case: AttentionCase) -> None:
    if host.finite_only and case.values != "normal":
        pytest.skip("a masked implementation: only finite values")
    inputs = attention_inputs(case, dtype)
    output = host.key_graph_attention(**inputs, scale=case.scale)
    assert output.dtype == dtype
    oracle.check_attention(output, expected_attention(case, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("density", [0.3, 0.9], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    "host",
    [pytest.param(host, id=name) for name, host in ATTENTION_HOSTS.items() if not isinstance(host, Cpu)],
)
def test_a_bias_of_one_number_is_none(host: Any, density: float) -> None:
    """[1, 1, 1], for nodes without a bias in files where others have one. The C interface has null for that."""
    inputs = attention_inputs(AttentionCase("plain", batch=2, density=density), np.float32)
    expected = host.key_graph_attention(**inputs)
    for number in (0, 3) if host.finite_only else (0, 3, np.nan):
        output = host.key_graph_attention(**inputs | {"bias": np.full((1, 1, 1), number, np.float32)})
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def graph_words() -> np.ndarray:
    """[1, 1, M, 1]: single bits, words near multiples of 2**16, where rounding to float32 carries, random ones."""
    near = np.arange(-(2**31), 2**31, 2**21)[:, None] + [-129, -64, -1, 0, 1, 65535]
    random = np.random.default_rng(0).integers(-(2**31), 2**31, 500)
    words = np.concatenate([1 << np.arange(32), near.ravel(), random, [2**31 - 1, -(2**31)]])
    return words.astype(np.uint32).view(np.int32).reshape(1, 1, -1, 1)


@pytest.mark.parametrize("host", [pytest.param(host, id=name) for name, host in ATTENTION_HOSTS.items()])
def test_every_bit_of_a_word(host: Any) -> None:
    """Engines that compute int32 in float32, as OpenVINO does, keep 24 bits of a number."""
    graph = graph_words()
    q, k = np.zeros((1, 1, graph.size, 4), np.float32), np.zeros((1, 1, 32, 4), np.float32)
    v = np.eye(32, dtype=np.float32)[None, None]
    output = host.key_graph_attention(q, k, v, graph)
    np.testing.assert_array_equal(output > 0, oracle.unpack(graph, 32))


@pytest.mark.parametrize("threaded", [*instruction_sets(), "onnxruntime"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
def test_threads_do_not_matter(threaded: str, dtype: type) -> None:
    """Bit for bit the same on 1, 2 and 3 threads."""
    graph_cases = [case for case in GRAPH_CASES if case.name in ("window", "wide", "infinities")]
    attention_cases = [case for case in ATTENTION_CASES if case.name in ("window", "sparse and dense rows", "plain")]

    def results(threads: int) -> list[np.ndarray]:
        host = OnnxRuntime(threads) if threaded == "onnxruntime" else Cpu(threaded, threads)
        outputs = [host.key_graph(*graph_inputs(case, dtype), case.k) for case in graph_cases]
        outputs += [host.top_k_graph(top_k_inputs(case, dtype), case.k) for case in TOP_K_CASES if case.rows > 150]
        outputs += [
            host.key_graph_attention(**attention_inputs(case, dtype), scale=case.scale) for case in attention_cases
        ]
        return outputs

    alone = results(1)
    for threads in (2, 3):
        for one, other in zip(alone, results(threads), strict=True):
            np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@pytest.mark.parametrize("isa", instruction_sets())
@every_dtype
@pytest.mark.parametrize("shape", [(2, 1, 200, 30), (16, 1, 64, 30), (8, 2, 256, 7), (16, 1, 512, 3)])
def test_graph_of_a_window_with_itself_is_the_same_as_with_a_copy(
    isa: str, dtype: type, shape: tuple[int, ...]
) -> None:
    """Whatever is made of query and key being one tensor, the bits must not show it."""
    query: np.ndarray = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    query[:, :, 5::11] = np.nan
    query[:, :, 1::7] = query[:, :, ::7][:, :, : query[:, :, 1::7].shape[2]]  # ties
    host = Cpu(isa)
    np.testing.assert_array_equal(host.key_graph(query, query, 50), host.key_graph(query, query.copy(), 50))
