"""The PyTorch operators as PyTorch sees them: opcheck, compile, export, gradients; and comparing selections.

Their numbers are tested by the conformance suite.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from keygraph.plugins.torch import (
    ATTENTION_IMPLEMENTATIONS,
    compare_selections,
    forced_graphs,
    key_graph,
    key_graph_attention,
    operators,
    pack_graph,
    recorded_graphs,
    top_k_graph,
    unpack_graph,
    use_attention,
)
from keygraph.plugins.torch.attention import mask_attention
from keygraph.plugins.torch.flex import block_mask
from keygraph.plugins.torch.graph_bits import count_bits, pack_bits
from keygraph.plugins.torch.selection import TooFewGraphsError

#: Implementations with gradients of their own, and what comes before [H, M, N] in biases for a batch of 4. The gradient
#: of flex is that of sdpa, and its forward takes seconds to compile.
GRADIENTS = [*itertools.product(["mask", "gather", "sdpa"], [(), (1,), (2,)]), ("flex", ())]


def arguments(windows: tuple[int, ...] | None = None, nodes: int = 40) -> tuple[Any, ...]:
    """Inputs of the attention; `windows` comes before [H, M, N] in the bias's shape, None is no bias."""
    torch.manual_seed(0)
    x = torch.randn(4, 1, nodes, 6)
    q, k, v = (torch.randn(4, 3, nodes, 5) for _ in range(3))
    graph = key_graph(x, x, torch.tensor([7]))
    return q, k, v, graph, None if windows is None else torch.randn(*windows, 3, nodes, nodes), 0.4, 0


def test_opcheck_key_graph() -> None:
    x = torch.randn(2, 1, 40, 6)
    checks = torch.library.opcheck(torch.ops.keygraph.key_graph.default, (x, x.clone(), torch.tensor([7])))
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("windows", [None, (), (2,)], ids=["plain", "bias", "bias per window"])
def test_opcheck_attention(windows: tuple[int, ...] | None) -> None:
    inputs = arguments(windows)
    for tensor in (*inputs[:3], inputs[4]):
        if tensor is not None:
            tensor.requires_grad_()
    checks = torch.library.opcheck(torch.ops.keygraph.key_graph_attention.default, inputs)
    assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize(("implementation", "windows"), GRADIENTS)
def test_gradients_are_those_of_the_definition(implementation: str, windows: tuple[int, ...]) -> None:
    q, k, v, graph, bias, scale, _ = arguments(windows)
    selected = unpack_graph(graph, 40)

    def gradients(attend) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
        leaves = [t.detach().clone().requires_grad_() for t in (q, k, v, bias)]
        attend(*leaves).square().sum().backward()
        return [t.grad for t in leaves]

    def plain(q, k, v, bias) -> torch.Tensor:  # type: ignore[no-untyped-def]
        # As Swin adds its masks: windows are the fast axis of the batch.
        by_window = (q @ k.mT * scale).view(-1, *windows, 3, 40, 40) + bias
        scores = by_window.view(4, 3, 40, 40).masked_fill(~selected, -torch.inf)
        attended: torch.Tensor = scores.softmax(-1) @ v
        return attended

    with use_attention(implementation):
        ours = gradients(lambda q, k, v, bias: key_graph_attention(q, k, v, graph, bias, scale))
    for mine, expected in zip(ours, gradients(plain), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("chosen", "gradient"), [("mask", "mask"), ("gather", "gather"), ("flex", "sdpa")])
def test_the_gradient_is_computed_as_the_forward_was(
    chosen: str, gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where autograd calls in another thread, as it does on GPUs, and outside of the block."""
    q, k, v, graph, *_ = arguments()
    called: list[object] = []
    attend = operators._attend

    def seen_attend(way: Any, *given: Any) -> torch.Tensor:
        called.append(way)
        return attend(way, *given)

    monkeypatch.setattr(operators, "_attend", seen_attend)
    monkeypatch.setitem(ATTENTION_IMPLEMENTATIONS, "flex", lambda *given: mask_attention(*given))  # not compiled
    q.requires_grad_()
    with use_attention(chosen):
        result = key_graph_attention(q, k, v, graph).sum()
        thread = threading.Thread(target=result.backward)
        thread.start()
        thread.join()
    assert q.grad is not None
    assert called == [ATTENTION_IMPLEMENTATIONS[chosen], ATTENTION_IMPLEMENTATIONS[gradient]]
    with use_attention(chosen):
        result = key_graph_attention(q, k, v, graph).sum()
    result.backward()
    assert called[2:] == called[:2]


@pytest.mark.parametrize("windows", [None, 0, 2], ids=["plain", "bias", "bias per window"])
def test_flex_gives_the_reference_result(windows: int | None) -> None:
    """FlexAttention compiles for CPUs too: groups, bias, more than one block of nodes, a row with nothing selected."""
    torch.manual_seed(0)
    batch, groups = 2 * windows if windows else 1, 1 if windows is None else 2
    q, k, v = (torch.randn(batch, 2, 150, 7) for _ in range(3))
    selected = torch.rand(batch, groups, 150, 150) < 0.2
    selected[..., 3, :] = False
    selected[..., :128, 64:] &= torch.rand(64 + 22) < 0.5
    graph, added = pack_graph(selected), None
    if windows is not None:
        added = torch.randn(windows, 2, 150, 150) if windows else torch.randn(2, 150, 150)
    expected = key_graph_attention(q, k, v, graph, added)
    with use_attention("flex"):
        torch.testing.assert_close(key_graph_attention(q, k, v, graph, added), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("windows", [None, (2,)], ids=["plain", "bias per window"])
def test_flex_reads_no_memory_that_nobody_has_written(windows: tuple[int, ...] | None) -> None:
    """40 nodes, no multiple of what a CPU computes at once; memory that was used before holds NaN."""
    q, k, v, graph, bias, scale, _ = arguments(windows)
    expected = key_graph_attention(q, k, v, graph, bias, scale)
    with use_attention("flex"):
        for _ in range(5):
            used = [torch.full((size,), torch.nan) for size in (100, 1000, 10_000, 30_000, 100_000)]
            del used
            result = key_graph_attention(q, k, v, graph, bias, scale)
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_flex_skips_blocks_without_a_bit() -> None:
    selected = torch.zeros(1, 1, 300, 520, dtype=torch.bool)
    selected[0, 0, 5, 400] = selected[0, 0, 299, 0] = selected[0, 0, 299, 519] = True
    blocks = block_mask(pack_graph(selected), 520)
    assert blocks.kv_num_blocks.tolist() == [[[1, 0, 2]]]
    assert blocks.kv_indices[0, 0, 0, :1].tolist() == [3]
    assert blocks.kv_indices[0, 0, 2, :2].tolist() == [0, 4]


def test_without_triton_its_absence_is_the_message() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
from keygraph.errors import MissingDependencyError
from keygraph.plugins.torch import key_graph, key_graph_attention, use_attention
x = torch.randn(1, 1, 4, 2)
graph = key_graph(x, x, torch.tensor([2]))
key_graph_attention(x, x, x, graph)
for _ in range(2):
    try:
        with use_attention("triton"):
            key_graph_attention(x, x, x, graph)
    except MissingDependencyError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install triton") == 2


def test_kernels_on_the_cpu_need_the_interpreter() -> None:
    pytest.importorskip("triton")
    code = """
import torch
from keygraph.errors import InputError
from keygraph.plugins.torch import key_graph, key_graph_attention, use_attention
x = torch.randn(1, 1, 4, 2)
try:
    with use_attention("triton"):
        key_graph_attention(x, x, x, key_graph(x, x, torch.tensor([2])))
except InputError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "need a CUDA device" in done.stdout


class Both(torch.nn.Module):
    def forward(self, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        graph = key_graph(x, x, k)
        return key_graph_attention(x, x, x, graph) + 1


def test_compiles_as_one_graph() -> None:
    x, k = torch.randn(2, 1, 40, 6), torch.tensor([7])
    compiled = torch.compile(Both(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, k), Both()(x, k))


def test_exports_as_single_nodes_with_dynamic_sizes() -> None:
    x, k = torch.randn(2, 1, 40, 6), torch.tensor([7])
    sizes = {"x": {0: torch.export.Dim("b"), 2: torch.export.Dim("n", min=33)}, "k": {}}
    program = torch.export.export(Both(), (x, k), dynamic_shapes=sizes)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called.count("keygraph.key_graph.default") == 1
    assert called.count("keygraph.key_graph_attention.default") == 1
    other = torch.randn(3, 1, 75, 6)
    torch.testing.assert_close(program.module()(other, k), Both()(other, k))


@pytest.mark.parametrize("nodes", [1, 31, 32, 33, 64, 100])
def test_bits_round_trip(nodes: int) -> None:
    selected = torch.rand(2, 3, 4, nodes) < 0.5
    graph = pack_graph(selected)
    assert graph.dtype == torch.int32
    assert graph.shape[-1] == -(-nodes // 32)
    assert torch.equal(unpack_graph(graph, nodes), selected)


def test_bit_31_is_the_sign() -> None:
    selected = torch.zeros(1, 33, dtype=torch.bool)
    selected[0, 31] = selected[0, 32] = True
    assert pack_bits(selected).tolist() == [[-(2**31), 1]]


def test_bits_of_any_strides() -> None:
    """PyTorch takes an axis of size 1 for contiguous whatever its stride is."""
    column = torch.arange(64).reshape(64, 1) % 3 == 0
    graph = pack_bits(column.T)
    assert torch.equal(unpack_graph(graph, 64), column.T)
    selected = torch.arange(2 * 3 * 64).reshape(2, 3, 64) % 5 == 0
    words_first = pack_bits(selected).transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(unpack_graph(words_first, 64), selected)
    assert torch.equal(unpack_graph(words_first.transpose(0, 1), 64), selected.transpose(0, 1))
    assert count_bits(graph) == 22
    assert count_bits(torch.full((2, 3), -1, dtype=torch.int32)) == 6 * 32


@pytest.mark.parametrize("rows", ["without ties", "with ties", "with NaN", "all"])
def test_ties_are_broken_by_index_in_the_rows_that_have_them(rows: str) -> None:
    numbers = {
        "without ties": [[4.0, 1.0, 3.0, 2.0, 0.0]],
        "with ties": [[1.0, 2.0, 2.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]],
        "with NaN": [[math.nan, 1.0, math.nan, 2.0, -math.inf], [math.nan] * 5],
    }
    numbers["all"] = [row for each in numbers.values() for row in each]
    similarity = torch.tensor(numbers[rows])
    worst_first = similarity.nan_to_num(nan=-math.inf, neginf=-1e30, posinf=1e30)
    order = worst_first.sort(dim=-1, descending=True, stable=True).indices
    expected = torch.zeros_like(similarity, dtype=torch.bool).scatter(-1, order[:, :3], True)
    graph = top_k_graph(similarity[None, None], torch.tensor([3]))
    assert torch.equal(unpack_graph(graph, 5)[0, 0], expected)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_an_error(k: int) -> None:
    x = torch.randn(1, 1, 4, 2)
    with pytest.raises(ValueError, match="at least 1"):
        key_graph(x, x, torch.tensor([k]))


def test_heads_are_only_for_three_dimensions() -> None:
    """The other bad calls are those of `bad_calls`; this one is no error in files, whose node may carry both."""
    q, k, v, graph, *_ = arguments()
    with pytest.raises(ValueError, match=r"q has shape .*, which is \[B, H, M, D\], so heads must not be given"):
        key_graph_attention(q, k, v, graph, heads=q.shape[1])


def test_default_scale_without_channels() -> None:
    """D = 0: every score is 0, so the result is the mean of the selected values, as on the other hosts."""
    q, k, v = torch.zeros(1, 1, 2, 0), torch.zeros(1, 1, 3, 0), torch.tensor([1.0, 2.0, 6.0]).reshape(1, 1, 3, 1)
    graph = torch.tensor([0b111, 0b011], dtype=torch.int32).reshape(1, 1, 2, 1)
    assert key_graph_attention(q, k, v, graph).flatten().tolist() == [3.0, 1.5]


def test_unknown_attention_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose one of mask, gather, sdpa, flex, triton"), use_attention("magic"):
        pass


def test_selections_are_compared_with_a_tolerance_at_the_kth_similarity() -> None:
    # Row similarities to key: 3, 2, 2 - 1e-6, 1; k = 2.
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([3.0, 2.0, 2.0 - 1e-6, 1.0]).reshape(1, 1, 4, 1)

    def graph(*chosen: int) -> torch.Tensor:
        selected = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
        selected[..., list(chosen)] = True
        return pack_graph(selected)

    same = compare_selections(query, key, graph(0, 1), graph(0, 1), 1e-5)
    assert (same.jaccard, same.different, same.beyond_tolerance) == (1.0, 0, 0)
    tie = compare_selections(query, key, graph(0, 1), graph(0, 2), 1e-5)
    assert tie.jaccard == pytest.approx(1 / 3)
    assert (tie.different, tie.beyond_tolerance) == (1, 0)
    wrong = compare_selections(query, key, graph(0, 1), graph(0, 3), 1e-5)
    assert wrong.beyond_tolerance == 1
    fewer = compare_selections(query, key, graph(0, 1), graph(0), 1e-5)
    assert fewer.beyond_tolerance == 1
    # A row may have all the neighbours near its k-th, but too many of them.
    more = compare_selections(query, key, graph(0, 1), graph(0, 1, 2), 1e-5)
    assert more.beyond_tolerance == 1


def test_a_batch_is_compared_as_its_elements_are() -> None:
    """Only the elements whose graphs differ are looked at, and all are counted."""
    torch.manual_seed(0)
    nodes = torch.randn(5, 1, 40, 8)
    other = nodes + 1e-2 * torch.randn(5, 1, 40, 8) * torch.tensor([0, 1, 0, 30, 0]).reshape(5, 1, 1, 1)
    first, second = (key_graph(each, each, torch.tensor([9])) for each in (nodes, other))
    whole = compare_selections(nodes, nodes, first, second, 1e-3)
    elements = [slice(i, i + 1) for i in range(5)]
    parts = [compare_selections(nodes[i], nodes[i], first[i], second[i], 1e-3) for i in elements]
    ours, theirs = unpack_graph(first, 40), unpack_graph(second, 40)
    assert whole.selected == int(ours.sum()) == sum(part.selected for part in parts)
    assert whole.different == int((ours & ~theirs).sum()) == sum(part.different for part in parts)
    assert [part.different > 0 for part in parts] == [False, True, False, True, False]
    assert whole.beyond_tolerance == sum(part.beyond_tolerance for part in parts) > 0
    assert whole.jaccard == pytest.approx(int((ours & theirs).sum()) / int((ours | theirs).sum()))


def test_recorded_graphs_can_be_forced() -> None:
    x, k = torch.randn(1, 1, 40, 6), torch.tensor([7])
    with recorded_graphs() as graphs:
        before = key_graph(x, x, k)
    assert torch.equal(graphs[0], before)
    other = key_graph(-x.flip(2), x, k)
    with forced_graphs([other], 1e-4) as agreements:
        assert torch.equal(key_graph(x, x, k), other)
    assert agreements[0].selected == 40 * 7
    assert agreements[0].beyond_tolerance > 0
    assert torch.equal(key_graph(x, x, k), before)


@pytest.mark.parametrize("thresholded", [False, True])
def test_opcheck_pack_graph(thresholded: bool) -> None:
    scores = torch.randn(2, 1, 9, 40)
    threshold = scores.topk(5).values[..., -1:].contiguous() if thresholded else None
    checks = torch.library.opcheck(torch.ops.keygraph.pack_graph.default, (scores, threshold))
    assert set(checks.values()) == {"SUCCESS"}


def test_a_threshold_keeps_ties() -> None:
    scores = torch.tensor([5.0, 1.0, 3.0, 3.0, torch.nan, -0.0]).reshape(1, 1, 1, 6)
    assert pack_graph(scores, torch.full((1, 1, 1, 1), 3.0)).item() == 0b001101
    assert pack_graph(scores, torch.zeros(1, 1, 1, 1)).item() == 0b101111
    assert pack_graph(scores, torch.full((1, 1, 1, 1), torch.nan)).item() == 0
    assert pack_graph(scores).item() == 0b011111


def test_types_that_a_mask_may_have() -> None:
    mask = torch.ones(1, 1, 2, 3)
    with pytest.raises(ValueError, match=r"mask has type torch\.int64, expected bool, .*; give mask != 0"):
        pack_graph(mask.long())
    with pytest.raises(ValueError, match=r"mask has type torch\.bool and threshold torch\.bool, expected one type"):
        pack_graph(mask.bool(), mask.bool()[..., :1])
    with pytest.raises(ValueError, match=r"mask has type torch\.float32 and threshold torch\.float16, expected"):
        pack_graph(mask, mask[..., :1].half())


def test_packed_graphs_are_forced_where_a_threshold_decides() -> None:
    scores = torch.tensor([3.0, 2.0, 2.0 - 1e-6, 1.0]).reshape(1, 1, 1, 4)
    threshold = torch.full((1, 1, 1, 1), 2.0)
    (tie, far) = (
        pack_bits(torch.tensor(chosen, dtype=torch.bool).reshape(1, 1, 1, 4)) for chosen in ([1, 1, 1, 0], [1, 1, 0, 1])
    )
    with forced_graphs([tie, far, tie], 1e-5, packed=True) as agreements:
        assert torch.equal(pack_graph(scores, threshold), tie)
        assert torch.equal(pack_graph(scores, threshold), far)
        assert pack_graph(scores >= threshold).item() == 0b0011  # what decided on a mask is not known
    assert [(a.selected, a.different, a.beyond_tolerance) for a in agreements] == [(2, 0, 0), (2, 0, 1)]
    with forced_graphs([], 1e-5):
        assert pack_graph(scores, threshold).item() == 0b0011
    with pytest.raises(TooFewGraphsError, match="0 graphs are forced"), forced_graphs([], 1e-5, packed=True):
        pack_graph(scores, threshold)
