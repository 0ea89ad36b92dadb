"""The PyTorch operators on a GPU: the conformance suite for every implementation and variant, and how calls behave."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import operator_oracle as oracle
import pytest
import torch
from keygraph.plugins.torch import key_graph, key_graph_attention, use_attention
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
from operator_hosts import Torch, Triton

pytest.importorskip("triton")
from keygraph.plugins.triton import jit

CUDA = torch.device("cuda")
TYPES = {np.float32: torch.float32, np.float16: torch.float16, FLOATS[2]: torch.bfloat16}

every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=[str(np.dtype(dtype)) for dtype in FLOATS])
every_graph_case = pytest.mark.parametrize("case", GRAPH_CASES, ids=lambda case: case.name)
every_attention_case = pytest.mark.parametrize("case", ATTENTION_CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Disable TF32, and use an empty cache of tuning results."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before
    torch._dynamo.reset()  # PyTorch keeps compiled FlexAttention for a few shapes only


@functools.cache
def expected_attention(case: AttentionCase, dtype: type) -> np.ndarray:
    inputs = attention_inputs(case, dtype)
    selected = oracle.unpack(inputs["graph"], case.nodes)
    q, k, v, bias = (inputs[name] for name in ("q", "k", "v", "bias"))
    expected: np.ndarray = oracle.key_graph_attention(q, k, v, selected, bias, case.scale)
    return expected


def check_attention(host: Any, case: AttentionCase, dtype: type) -> None:
    output = host.key_graph_attention(**attention_inputs(case, dtype), scale=case.scale)
    assert output.dtype == dtype
    oracle.check_attention(output, expected_attention(case, dtype), TOLERANCE[dtype])


@every_dtype
@every_graph_case
def test_key_graph(dtype: type, case: GraphCase) -> None:
    query, key = graph_inputs(case, dtype)
    oracle.check_graph(Torch(device="cuda").key_graph(query, key, case.k), query, key, case.k, case.exact)


@every_dtype
@every_graph_case
def test_every_variant_of_key_graph(dtype: type, case: GraphCase) -> None:
    query, key = graph_inputs(case, dtype)
    sizes = jit.Sizes(case.batch, case.groups, query.shape[2], case.nodes, case.channels)
    for variant in jit.fitting("KeyGraph", TYPES[dtype], sizes, False, jit.capability(CUDA)):
        oracle.check_graph(Triton(variant).key_graph(query, key, case.k), query, key, case.k, case.exact)


@pytest.mark.parametrize("case", PACK_CASES, ids=lambda case: case.name)
def test_pack_graph(case: PackCase) -> None:
    """The choice and every variant of every type."""
    for dtype, type_ in {**TYPES, **({} if case.threshold else {np.bool_: torch.bool})}.items():
        inputs = pack_inputs(case, dtype)
        expected = oracle.pack(oracle.pack_graph(**inputs))
        sizes = jit.Sizes(case.batch, case.groups, case.rows, case.nodes, case.nodes)
        fitting = jit.fitting("PackGraph", type_, sizes, case.threshold, jit.capability(CUDA))
        for host in (Torch(device="cuda"), *map(Triton, fitting)):
            np.testing.assert_array_equal(host.pack_graph(**inputs), expected, err_msg=str(np.dtype(dtype)))


@pytest.mark.parametrize("case", TOP_K_CASES, ids=lambda case: case.name)
def test_top_k_graph(case: TopKCase) -> None:
    """The choice and every variant of every type."""
    for dtype, type_ in TYPES.items():
        scores = top_k_inputs(case, dtype)
        sizes = jit.Sizes(case.batch, case.groups, case.rows, case.nodes, case.nodes)
        for host in (
            Torch(device="cuda"),
            *map(Triton, jit.fitting("TopKGraph", type_, sizes, False, jit.capability(CUDA))),
        ):
            oracle.check_top_k(host.top_k_graph(scores, case.k), scores, case.k)


@pytest.mark.parametrize("heads_last", [False, True], ids=["heads-first", "heads-last"])
@pytest.mark.parametrize("implementation", [None, "mask", "gather", "sdpa"], ids=["ours", "mask", "gather", "sdpa"])
@every_dtype
@every_attention_case
def test_attention(implementation: str | None, dtype: type, case: AttentionCase, heads_last: bool) -> None:
    if case.values != "normal":
        pytest.skip("the choice of variant is not fixed, and masked variants need finite values")
    check_attention(Torch(heads_last, "cuda", implementation), case, dtype)


@pytest.mark.parametrize("name", ["plain", "window", "bias, a graph per head", "empty rows", "N is 31"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
def test_flex(dtype: type, name: str) -> None:
    """Only a few cases, because each is compiled."""
    check_attention(
        Torch(device="cuda", implementation="flex"), next(c for c in ATTENTION_CASES if c.name == name), dtype
    )


@every_dtype
@every_attention_case
def test_every_variant_of_attention(dtype: type, case: AttentionCase) -> None:
    sizes = jit.Sizes(case.batch, case.groups, case.rows, case.nodes, case.channels, case.heads, case.value_channels)
    for variant in jit.fitting("KeyGraphAttention", TYPES[dtype], sizes, case.bias, jit.capability(CUDA)):
        for host in (Triton(variant), Triton(variant, heads_last=True)):
            check_attention(host, case, dtype)


def layer(nodes: int = 256, windows: int = 8, k: int = 32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator("cuda").manual_seed(1)
    x = torch.randn(windows, 1, nodes, 60, generator=generator, device="cuda").half()
    q, key, v = (torch.randn(windows, 6, nodes, 30, generator=generator, device="cuda").half() for _ in range(3))
    return x, q, key, v, torch.tensor([k], device="cuda")


def test_k_changes_between_replays_of_a_cuda_graph() -> None:
    x, q, key, v, k = layer()

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        graph = key_graph(x, x, k)
        return graph, key_graph_attention(q, key, v, graph)

    both()  # compiles and chooses
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        static_graph, static_output = both()
    for neighbours in (7, 256, 64):
        k.fill_(neighbours)
        captured.replay()
        graph, output = both()
        assert torch.equal(static_graph, graph)
        torch.testing.assert_close(static_output, output)
        links = oracle.unpack(graph.cpu().numpy(), x.shape[2])
        assert (links.sum(-1) == neighbours).all()


def test_k_on_the_host_is_captured_too() -> None:
    x, *_ = layer()
    expected = key_graph(x, x, torch.tensor([9]))
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        graph = key_graph(x, x, torch.tensor([9]))
    captured.replay()
    assert torch.equal(graph, expected)


@pytest.mark.parametrize("host", [False, True], ids=["k on the device", "k on the host"])
def test_nothing_waits_for_the_device(host: bool) -> None:
    x, q, key, v, k = layer()
    k = k.cpu() if host else k
    expected = key_graph_attention(q, key, v, key_graph(x, x, k))  # compiles and chooses
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")  # raises where something waits
    try:
        output = key_graph_attention(q, key, v, key_graph(x, x, k))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(output, expected)


@pytest.mark.parametrize("nodes", [256, 1024, 2304])
@pytest.mark.parametrize("heads_last", [False, True], ids=["heads-first", "heads-last"])
def test_memory_is_inputs_and_outputs_whatever_k_is(nodes: int, heads_last: bool) -> None:
    x, q, key, v, _ = layer(nodes, windows=4)
    if heads_last:
        q, key, v = (t.transpose(1, 2).flatten(2).contiguous() for t in (q, key, v))
    peaks = []
    for neighbours in (16, 64, 200):
        k = torch.tensor([neighbours])

        def run(k: torch.Tensor = k) -> tuple[torch.Tensor, torch.Tensor]:
            graph = key_graph(x, x, k)
            return graph, key_graph_attention(q, key, v, graph, heads=6 if heads_last else None)

        run()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        outputs = run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        inputs_and_outputs = sum(t.nbytes for t in (x, q, key, v, *outputs))
        peaks.append(peak)
        assert peak - sum(t.nbytes for t in outputs) <= 0.05 * inputs_and_outputs
        del outputs
    assert len(set(peaks)) == 1


def test_views_and_odd_addresses() -> None:
    """Tensors that are not contiguous or not aligned are copied and give the same results."""
    x, q, key, v, k = layer(nodes=70)
    graph = key_graph(x, x, k)
    expected = key_graph_attention(q, key, v, graph)
    wide = torch.cat([torch.zeros_like(q[..., :1]), q], dim=-1)
    torch.testing.assert_close(key_graph_attention(wide[..., 1:], key, v, graph), expected)
    flat = torch.empty(q.numel() + 1, dtype=q.dtype, device="cuda")
    flat[1:] = q.flatten()
    torch.testing.assert_close(key_graph_attention(flat[1:].view_as(q), key, v, graph), expected)


def test_k_on_the_host_below_1_is_an_error() -> None:
    x, *_ = layer(nodes=40)
    with pytest.raises(ValueError, match="at least 1"):
        key_graph(x, x, torch.tensor([0]))


def test_gradients_are_those_of_the_definition() -> None:
    x, q, key, v, k = layer(nodes=70)
    graph = key_graph(x, x, k)

    def gradients() -> list[torch.Tensor]:
        leaves = [t.detach().float().requires_grad_() for t in (q, key, v)]
        key_graph_attention(leaves[0], leaves[1], leaves[2], graph).square().sum().backward()
        return [t.grad for t in leaves if t.grad is not None]

    ours = gradients()
    with use_attention("mask"):
        expected = gradients()
    assert len(ours) == 3
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_a_choice_is_made_once_and_kept(tmp_path: Any) -> None:
    from keygraph.plugins.torch import tuning

    x, q, key, v, _ = layer()
    tuning._choices.clear()
    graph = key_graph(x, x, torch.tensor([32]))
    key_graph_attention(q, key, v, graph)
    kept = tuning._read()[tuning._machine(q.device)]
    assert sorted(kind.split()[0] for kind in kept) == ["KeyGraph", "KeyGraphAttention"]
    assert kept == tuning._choices[tuning._machine(q.device)]
