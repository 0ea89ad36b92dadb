"""Times of the operators: which implementations are compared, and which are left out. No test asserts a time."""

from __future__ import annotations

import json

import pytest
import torch
from keygraph.bench import implementations, onnx_runtime
from keygraph.bench.operators import Times, measure
from keygraph.bench.problem import Problem, random_inputs
from keygraph.cli import main

CPU = torch.device("cpu")
TINY = Problem(2, 3, 40, 5, 7, "float32", 15)


@pytest.mark.slow
def test_everyone_is_measured_and_agrees() -> None:
    times = measure(TINY, CPU, rounds=1)
    attention, graph = times["KeyGraphAttention"], times["KeyGraph"]
    assert not attention.failures
    assert not graph.failures
    assert list(attention.milliseconds) == ["ours", "sdpa", "flex", "sdpa, padded", "flex, padded", "mask", "gather"]
    assert list(graph.milliseconds) == ["ours", "topk + scatter", "topk"]
    assert all(value > 0 for each in times.values() for value in each.milliseconds.values())
    assert json.loads(json.dumps(attention.as_json()))["ratios"].keys() == attention.milliseconds.keys() - {"ours"}


@pytest.mark.slow
def test_flex_reads_no_memory_that_nobody_has_written() -> None:
    """40 nodes, no multiple of what a CPU computes at once; memory that was used before holds NaN."""
    inputs = random_inputs(TINY, CPU)
    expected = implementations.mask(inputs)()
    call = implementations.padded(implementations.flex)(inputs)
    for _ in range(10):
        used = [torch.full((size,), torch.nan) for size in (100, 1000, 10_000, 30_000, 100_000)]
        del used
        torch.testing.assert_close(call(), expected, atol=1e-5, rtol=1e-5)


def test_an_alternative_that_is_wrong_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        implementations,
        "attention_alternatives",
        lambda *_: {"wrong": lambda inputs: lambda: inputs.v, "sdpa": implementations.sdpa},
    )
    nothing = torch.zeros(2, 1, 40, 7).long()
    monkeypatch.setattr(
        implementations, "GRAPH_ALTERNATIVES", {"wrong": lambda inputs: lambda: nothing, "topk": implementations.topk}
    )
    times = measure(TINY, CPU, rounds=1)
    attention, graph = times["KeyGraphAttention"], times["KeyGraph"]
    assert list(attention.milliseconds) == ["ours", "sdpa"]
    assert attention.failures["wrong"].startswith("differs from float64 by")
    assert list(graph.milliseconds) == ["ours", "topk"]
    assert graph.failures["wrong"].endswith("of its links are float64's")
    assert attention.error is graph.error is None


def test_ours_that_is_wrong_is_an_error_and_everyone_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dead(_inputs: object) -> implementations.Call:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(onnx_runtime, "our_attention", lambda inputs: lambda: inputs.v)
    monkeypatch.setattr(onnx_runtime, "our_graph", dead)
    monkeypatch.setattr(implementations, "attention_alternatives", lambda *_: {"sdpa": implementations.sdpa})
    times = measure(TINY, CPU, rounds=1)
    attention, graph = times["KeyGraphAttention"], times["KeyGraph"]
    assert attention.error is not None
    assert attention.error.startswith("differs from float64 by")
    assert list(attention.milliseconds) == ["ours", "sdpa"]
    assert graph.error == "no such kernel"
    assert list(graph.milliseconds) == ["topk + scatter", "topk"]
    assert graph.ratio("topk") is None
    words = ["--windows", "1", "--heads", "2", "--nodes", "40", "--channels", "5", "--k", "7", "--rounds", "1"]
    assert main(["bench", "operators", "--device", "cpu", *words]) == 1
    said = capsys.readouterr()
    assert "error: our KeyGraph: no such kernel" in said.err
    assert "sdpa" in said.out


def test_each_sdpa_backend_is_forced_and_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    alternatives = implementations.attention_alternatives(TINY.channels, "cuda")
    for backend in implementations.SDPA_BACKENDS:
        for mask in ("bool", "additive"):
            assert f"sdpa {backend}, {mask} mask" in alternatives
            assert (f"sdpa {backend}, {mask} mask, padded" in alternatives) == (backend != "math")
    monkeypatch.setattr(
        implementations,
        "attention_alternatives",
        lambda *_: {n: w for n, w in alternatives.items() if n.startswith("sdpa")},
    )
    times = measure(TINY, CPU, rounds=1)["KeyGraphAttention"]
    # On the CPU there are these two, with either mask.
    for name in ("sdpa flash, bool mask", "sdpa math, additive mask"):
        assert times.milliseconds[name] > 0
    assert "No viable backend" in times.failures["sdpa cudnn, bool mask"]


def test_what_is_left_out_is_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_inputs: object) -> implementations.Call:
        raise AssertionError

    monkeypatch.setattr(
        implementations, "attention_alternatives", lambda *_: {"flex, padded": never, "sdpa": implementations.sdpa}
    )
    assert list(measure(TINY, CPU, 1, without=["flex"])["KeyGraphAttention"].milliseconds) == ["ours", "sdpa"]


def test_an_alternative_that_cannot_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(_inputs: object) -> implementations.Call:
        raise torch.OutOfMemoryError("out of memory: tried to allocate everything\nand more")

    monkeypatch.setattr(implementations, "attention_alternatives", lambda *_: {"greedy": greedy})
    times = measure(TINY, CPU, rounds=1)["KeyGraphAttention"]
    assert times.failures == {"greedy": "out of memory: tried to allocate everything"}
    assert times.ratio("greedy") is None


def test_chunks_do_not_change_what_is_gathered() -> None:
    inputs = random_inputs(TINY, CPU)
    torch.testing.assert_close(implementations.gather(1)(inputs)(), implementations.gather(None)(inputs)())


def test_the_fastest_alternative_counts() -> None:
    times = Times({"ours": 2.0, "slow": 9.0, "quick": 3.0})
    assert times.ratio("slow", "quick", "gone") == 1.5
    assert times.ratio("gone") is None
