"""The PyTorch operators through the GPU kernels, in Triton's interpreter: layouts, k, and the choice of variants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from keygraph.plugins.torch import key_graph, key_graph_attention, use_attention
from keygraph.plugins.torch.kernels import kernel_attention, kernel_key_graph

pytest.importorskip("triton")
from keygraph.plugins.torch import tuning
from keygraph.plugins.triton import jit

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu does this on a GPU")


def tensors(nodes: int = 40) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    x = torch.randn(1, 1, nodes, 6)
    return (*(torch.randn(1, 2, nodes, 8) for _ in range(3)), key_graph(x, x, torch.tensor([7])))


def test_key_graph_takes_k_from_the_host() -> None:
    x = torch.randn(1, 1, 40, 6)
    assert torch.equal(kernel_key_graph(x, x, torch.tensor([7])), key_graph(x, x, torch.tensor([7])))
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        kernel_key_graph(x, x, torch.tensor([0]))


def test_both_forms_give_the_reference_result_in_their_own_layout() -> None:
    q, k, v, graph = tensors()
    expected = key_graph_attention(q, k, v, graph)
    with use_attention("triton"):
        torch.testing.assert_close(key_graph_attention(q, k, v, graph), expected)
        rows = [t.transpose(1, 2).flatten(2) for t in (q, k, v)]
        torch.testing.assert_close(key_graph_attention(*rows, graph, heads=2), expected.transpose(1, 2).flatten(2))
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    output = kernel_attention(*turned, graph, None, 8**-0.5)
    assert output.transpose(1, 2).is_contiguous()


def test_views_and_odd_addresses_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, graph = tensors()
    seen: list[torch.Tensor] = []
    launch = jit.launch
    monkeypatch.setattr(
        jit, "launch", lambda variant, given, *rest: (seen.extend(given), launch(variant, given, *rest))
    )
    wide = torch.cat([torch.zeros_like(q[..., :1]), q], dim=-1)
    flat = torch.empty(k.numel() + 1)
    flat[1:] = k.flatten()
    output = kernel_attention(wide[..., 1:], flat[1:].view_as(k), v, graph, None, 8**-0.5)
    torch.testing.assert_close(output, key_graph_attention(q, k, v, graph))
    assert all(t.is_contiguous() and t.data_ptr() % jit.ALIGNMENT == 0 for t in seen)


def test_the_gradient_is_that_of_the_definition() -> None:
    q, k, v, graph = tensors()

    def gradients() -> list[Any]:
        leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
        key_graph_attention(*leaves, graph).square().sum().backward()
        return [t.grad for t in leaves]

    expected = gradients()
    with use_attention("triton"):
        for mine, theirs in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_the_largest_window_and_every_type_has_a_variant() -> None:
    for dtype in jit.DTYPES:
        capability = 80 if dtype is torch.bfloat16 else 75
        assert jit.fitting("KeyGraph", dtype, jit.Sizes(1, 1, 1, 10**6, 7), False, capability)
        for bias in (False, True):
            sizes = jit.Sizes(1, 3, 1, 10**6, 257, 3, 129)
            assert jit.fitting("KeyGraphAttention", dtype, sizes, bias, capability)
    assert not jit.fitting("KeyGraph", torch.float64, jit.Sizes(1, 1, 1, 10, 7))
    with pytest.raises(jit.InputError, match="float64"):
        kernel_key_graph(torch.zeros(1, 1, 4, 2).double(), torch.zeros(1, 1, 4, 2).double(), torch.tensor([1]))


def test_a_variant_with_several_heads_a_program_needs_one_graph_for_them() -> None:
    one = jit.Sizes(1, 1, 8, 64, 30, 4, 30)
    many = jit.Sizes(1, 4, 8, 64, 30, 4, 30)
    found, left = (jit.fitting("KeyGraphAttention", torch.float32, sizes) for sizes in (one, many))
    assert {v.name for v in found} > {v.name for v in left}
    assert all(v.block_heads == 1 for v in left)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A GPU that is asked for measurements only: `times` by a variant's name, `measured` how often, `capturing`."""
    state: dict[str, Any] = {"times": {}, "measured": 0, "capturing": False}

    def milliseconds(variant: Any, _launch: Any) -> float:
        state["measured"] += 1
        return state["times"].get(variant.name, 1.0)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "_choices", {})
    monkeypatch.setattr(tuning, "_machine", lambda _device: "a GPU")
    monkeypatch.setattr(tuning, "capability", lambda _device: 90)
    monkeypatch.setattr(tuning, "_milliseconds", milliseconds)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["capturing"])
    return state


CUDA = torch.device("cuda", 0)
PROBLEM = tuning.Problem("KeyGraphAttention", torch.float16, jit.Sizes(8, 1, 256, 256, 32, 6, 32), share=0.25)


def launches() -> tuning.Launch:
    return lambda _variant: None


def test_the_fastest_is_chosen_once(gpu: dict[str, Any]) -> None:
    candidates = jit.fitting(PROBLEM.op, PROBLEM.dtype, PROBLEM.sizes, False, 90)
    gpu["times"] = {candidates[2].name: 0.5}
    assert tuning.choose(PROBLEM, CUDA, launches) is candidates[2]
    assert gpu["measured"] == len(candidates)
    assert tuning.choose(PROBLEM, CUDA, launches) is candidates[2]
    assert gpu["measured"] == len(candidates)
    # Another process reads it from the disk.
    tuning._choices.clear()
    assert tuning.choose(PROBLEM, CUDA, launches) is candidates[2]
    assert gpu["measured"] == len(candidates)


def test_nothing_is_measured_while_a_graph_is_captured(gpu: dict[str, Any]) -> None:
    candidates = jit.fitting(PROBLEM.op, PROBLEM.dtype, PROBLEM.sizes, False, 90)
    gpu["times"] = {candidates[1].name: 0.5}
    gpu["capturing"] = True
    assert tuning.choose(PROBLEM, CUDA, launches) is candidates[0]
    gpu["capturing"] = False
    assert tuning.choose(PROBLEM, CUDA, launches) is candidates[1]
    gpu["capturing"] = True
    assert tuning.choose(PROBLEM, CUDA, launches) is candidates[1]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", '{"a GPU": 3}', '{"a GPU": {"x": null}}', "\0", json.dumps({"a GPU": {PROBLEM.kind: 9999}})],
)
def test_a_damaged_file_costs_a_measurement(gpu: dict[str, Any], content: str) -> None:
    tuning.cache_file().parent.mkdir(parents=True)
    tuning.cache_file().write_text(content)
    chosen = tuning.choose(PROBLEM, CUDA, launches)
    assert chosen is not None
    assert gpu["measured"] > 1
    assert json.loads(tuning.cache_file().read_text())["a GPU"][PROBLEM.kind] == chosen.number


def test_without_a_place_to_write_choices_live_in_memory(gpu: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "keygraph").write_text("a file where the folder should be")
    first = tuning.choose(PROBLEM, CUDA, launches)
    measured = gpu["measured"]
    assert tuning.choose(PROBLEM, CUDA, launches) is first
    assert gpu["measured"] == measured


def test_what_one_process_writes_another_keeps(gpu: dict[str, Any]) -> None:
    tuning.choose(PROBLEM, CUDA, launches)
    tuning._remember("another GPU", {"a problem": 3})
    content = json.loads(tuning.cache_file().read_text())
    assert content["another GPU"] == {"a problem": 3}
    assert PROBLEM.kind in content["a GPU"]


def test_problems_that_are_alike_share_a_choice() -> None:
    def kind(windows: int = 60, nodes: int = 256, channels: int = 30, **options: Any) -> str:
        sizes = jit.Sizes(windows, 1, nodes, nodes, channels, 6, channels)
        return tuning.Problem("KeyGraphAttention", torch.float16, sizes, **options).kind

    assert kind(60) == kind(64) != kind(65)
    assert kind(share=0.25) == kind(share=0.26) != kind(share=0.5)
    others = [kind(), kind(channels=32), kind(bias=True), kind(heads_last=True), kind(nodes=1024), kind(share=1.0)]
    assert len(set(others)) == len(others)


def test_a_graph_of_unknown_k_is_measured_as_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, graph = tensors()
    problems: list[tuning.Problem] = []

    def choose(problem: tuning.Problem, device: torch.device, _launches: Any) -> Any:
        problems.append(problem)
        return jit.fitting(problem.op, problem.dtype, problem.sizes)[0]

    monkeypatch.setattr(tuning, "choose", choose)
    kernel_attention(q, k, v, graph, None, 1.0)
    x = torch.randn(1, 1, 40, 6)
    kernel_attention(q, k, v, kernel_key_graph(x, x, torch.tensor([10])), None, 1.0)
    assert [problem.share for problem in problems] == [1.0, 0.0, 0.25]
