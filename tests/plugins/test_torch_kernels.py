"""The PyTorch operators through the GPU kernels, in Triton's interpreter: layouts, k, and the choice of variants."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from keygraph.errors import InputError
from keygraph.plugins.torch import key_graph, key_graph_attention, use_attention
from keygraph.plugins.torch.kernels import kernel_attention, kernel_key_graph

pytest.importorskip("triton")
from keygraph.plugins.torch import tuning
from keygraph.plugins.triton import jit
from triton.runtime.errors import OutOfResources, PTXASError

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
        output = key_graph_attention(rows[0], rows[1], rows[2], graph, heads=2)
        torch.testing.assert_close(output, expected.transpose(1, 2).flatten(2))
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    output = kernel_attention(turned[0], turned[1], turned[2], graph, None, 8**-0.5)
    assert output.transpose(1, 2).is_contiguous()


def test_views_and_odd_addresses_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, graph = tensors()
    seen: list[torch.Tensor] = []
    launch = jit.launch

    def seen_launch(variant: Any, given: Sequence[torch.Tensor], *rest: Any) -> None:
        seen.extend(given)
        launch(variant, given, *rest)

    monkeypatch.setattr(jit, "launch", seen_launch)
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
        key_graph_attention(leaves[0], leaves[1], leaves[2], graph).square().sum().backward()
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
    with pytest.raises(InputError, match="float64"):
        kernel_key_graph(torch.zeros(1, 1, 4, 2).double(), torch.zeros(1, 1, 4, 2).double(), torch.tensor([1]))


def test_what_int32_cannot_count_is_refused_before_anything_is_launched() -> None:
    """Whichever variant is asked for: such an index would wrap around, into another tensor."""
    long = torch.empty(1, 1, 2**22, 600, device="meta")
    graph = torch.empty(1, 1, 2**22, 2**17, dtype=torch.int32, device="meta")
    (*_, variant) = jit.fitting("KeyGraph", torch.float32, jit.Sizes(1, 1, 1, 64, 60))
    with pytest.raises(InputError, match=r"KeyGraph: there are 2\^31 elements or more .*; attend within smaller"):
        jit.key_graph(long, long, torch.tensor([1]), variant)
    with pytest.raises(InputError, match=r"KeyGraphAttention: there are 2\^31 elements or more"):
        jit.key_graph_attention(long, long, long, graph, None, 1.0, False, variant)


def test_a_variant_with_several_heads_a_program_needs_one_graph_for_them() -> None:
    one = jit.Sizes(1, 1, 8, 64, 30, 4, 30)
    many = jit.Sizes(1, 4, 8, 64, 30, 4, 30)
    found, left = (jit.fitting("KeyGraphAttention", torch.float32, sizes) for sizes in (one, many))
    assert {v.name for v in found} > {v.name for v in left}
    assert all(v.block_heads == 1 for v in left)


class FakeGpu:
    """A GPU of which only times are asked, as `torch.cuda` has them: launches queue up while the host goes on.

    `times` are milliseconds of a launch on the GPU, by the variant's name; on the host one takes 0.02 to 0.4, as chance
    has it. `errors` by the variant's name what a launch raises.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.current = device, 0
        self.times: dict[str, float] = {}
        self.errors: dict[str, Exception] = {}
        self.chance = random.Random(0)
        self.now = self.busy_until = 0.0
        self.launched: list[str] = []
        self.capturing = False

    def launches(self) -> tuning.Launch:
        def launch(variant: Any) -> None:
            self.launched.append(variant.name)
            if variant.name in self.errors:
                raise self.errors[variant.name]
            self.now += self.chance.uniform(0.02, 0.4)
            self.run(self.times.get(variant.name, 0.02))

        return launch

    def run(self, milliseconds: float) -> None:
        self.busy_until = max(self.now, self.busy_until) + milliseconds

    @contextlib.contextmanager
    def switched(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def sleep(self, cycles: int) -> None:
        self.run(cycles / 2e6)

    def captures(self) -> bool:
        return self.capturing and self.current == self.device.index


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.at = gpu, 0.0

    def record(self) -> None:
        assert self.gpu.current == self.gpu.device.index, "an event of another GPU"
        self.at = max(self.gpu.now, self.gpu.busy_until)

    def synchronize(self) -> None:
        self.gpu.now = max(self.gpu.now, self.at)

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.gpu.now >= end.at, "not waited for"
        return end.at - self.at


CUDA = torch.device("cuda", 1)
PROBLEM = tuning.Problem("KeyGraphAttention", torch.float16, jit.Sizes(8, 1, 256, 256, 32, 6, 32), share=0.25)
CANDIDATES = jit.fitting(PROBLEM.op, PROBLEM.dtype, PROBLEM.sizes, False, 90)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    """The second GPU, while the first one is the thread's own."""
    gpu = FakeGpu(CUDA)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "_choices", {})
    monkeypatch.setattr(tuning, "_machine", lambda _device: "a GPU")
    monkeypatch.setattr(tuning, "capability", lambda _device: 90)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: FakeEvent(gpu))
    monkeypatch.setattr(torch.cuda, "device", gpu.switched)
    monkeypatch.setattr(torch.cuda, "_sleep", gpu.sleep)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", gpu.captures)
    return gpu


def test_the_fastest_is_chosen_once(gpu: FakeGpu) -> None:
    gpu.times = {CANDIDATES[2].name: 0.01}
    assert tuning.choose(PROBLEM, CUDA, gpu.launches) is CANDIDATES[2]
    assert set(gpu.launched) == {variant.name for variant in CANDIDATES}
    launched = len(gpu.launched)
    assert tuning.choose(PROBLEM, CUDA, gpu.launches) is CANDIDATES[2]
    # Another process reads it from the disk.
    tuning._choices.clear()
    assert tuning.choose(PROBLEM, CUDA, gpu.launches) is CANDIDATES[2]
    assert len(gpu.launched) == launched


def test_differences_smaller_than_the_hosts_time_are_seen(gpu: FakeGpu) -> None:
    """A launch takes Python longer than the kernel: without a head start every variant would be as slow as Python."""
    for place, fastest in enumerate(CANDIDATES):
        tuning._choices.clear()
        gpu.times = {variant.name: 0.010 for variant in CANDIDATES} | {fastest.name: 0.009}
        problem = dataclasses.replace(PROBLEM, share=(place + 1) / 16)
        assert tuning.choose(problem, CUDA, gpu.launches) is fastest


def test_a_disturbance_does_not_decide(gpu: FakeGpu) -> None:
    gpu.times = {CANDIDATES[1].name: 0.012}
    launch = gpu.launches()

    def disturb(variant: Any) -> None:
        launch(variant)
        if variant is CANDIDATES[1] and gpu.launched.count(variant.name) in (1, 2, 18):
            gpu.run(0.05)  # somebody else's kernel: before, in the first and in the last round

    assert tuning.choose(PROBLEM, CUDA, lambda: disturb) is CANDIDATES[1]
    assert gpu.launched.count(CANDIDATES[1].name) >= 18


def test_what_is_hopeless_costs_one_round(gpu: FakeGpu) -> None:
    slow = CANDIDATES[0].name
    gpu.times = {slow: 50.0}
    tuning.choose(PROBLEM, CUDA, gpu.launches)
    assert gpu.launched.count(slow) < gpu.launched.count(CANDIDATES[1].name)


def test_a_variant_that_does_not_start_is_left_out(gpu: FakeGpu) -> None:
    first, second, third, *others = (variant.name for variant in CANDIDATES)
    gpu.errors = {
        first: OutOfResources(300_000, 232_448, "shared memory"),
        second: PTXASError("ptxas does not compile\nits log"),
        third: RuntimeError("Triton Error [CUDA]: invalid argument"),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = tuning.choose(PROBLEM, CUDA, gpu.launches)
    assert chosen is not None
    assert chosen.name in others
    said = [str(warning.message) for warning in caught]
    assert [name for name in (first, second, third) if any(name in line for line in said)] == [second, third]
    assert "ptxas does not compile" in said[0]
    assert "PTXASError" in said[0]
    assert all(gpu.launched.count(name) == 1 for name in gpu.errors)
    # The only one that is left needs no measurement.
    gpu.errors = {variant.name: gpu.errors[first] for variant in CANDIDATES[:-1]}
    tuning._choices.clear()
    tuning.cache_file().unlink()
    assert tuning.choose(PROBLEM, CUDA, gpu.launches) is CANDIDATES[-1]


def test_where_no_variant_starts_the_first_error_says_why(gpu: FakeGpu) -> None:
    gpu.errors = {variant.name: RuntimeError(f"no {variant.name}") for variant in CANDIDATES}
    with pytest.raises(RuntimeError, match=f"^no {CANDIDATES[0].name}$"):
        tuning.choose(PROBLEM, CUDA, gpu.launches)
    assert not tuning.cache_file().exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), InputError("wrong")])
def test_an_error_of_the_problem_is_no_variants_fault(gpu: FakeGpu, error: Exception) -> None:
    gpu.errors = {CANDIDATES[0].name: error}
    with pytest.raises(type(error)):
        tuning.choose(PROBLEM, CUDA, gpu.launches)
    assert gpu.launched == [CANDIDATES[0].name]


def test_nothing_is_measured_while_a_graph_is_captured(gpu: FakeGpu) -> None:
    gpu.times = {CANDIDATES[1].name: 0.01}
    gpu.capturing = True
    assert tuning.choose(PROBLEM, CUDA, gpu.launches) is CANDIDATES[0]
    gpu.capturing = False
    assert tuning.choose(PROBLEM, CUDA, gpu.launches) is CANDIDATES[1]
    gpu.capturing = True
    assert tuning.choose(PROBLEM, CUDA, gpu.launches) is CANDIDATES[1]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", '{"a GPU": 3}', '{"a GPU": {"x": null}}', "\0", json.dumps({"a GPU": {PROBLEM.kind: 9999}})],
)
def test_a_damaged_file_costs_a_measurement(gpu: FakeGpu, content: str) -> None:
    tuning.cache_file().parent.mkdir(parents=True)
    tuning.cache_file().write_text(content)
    chosen = tuning.choose(PROBLEM, CUDA, gpu.launches)
    assert chosen is not None
    assert gpu.launched
    assert json.loads(tuning.cache_file().read_text())["a GPU"][PROBLEM.kind] == chosen.number


def test_without_a_place_to_write_choices_live_in_memory(gpu: FakeGpu, tmp_path: Path) -> None:
    (tmp_path / "keygraph").write_text("a file where the folder should be")
    first = tuning.choose(PROBLEM, CUDA, gpu.launches)
    launched = len(gpu.launched)
    assert tuning.choose(PROBLEM, CUDA, gpu.launches) is first
    assert len(gpu.launched) == launched


def test_what_one_process_writes_another_keeps(gpu: FakeGpu) -> None:
    tuning.choose(PROBLEM, CUDA, gpu.launches)
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
