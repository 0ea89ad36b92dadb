"""Selections of networks of any code: recorded, forced, and made again by other scores; what near ties explain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keygraph
import numpy as np
import pytest
import torch
from keygraph.parity import compare_modules
from keygraph.parity.rounding.expected import near_ties
from keygraph.parity.rounding.network import EXACT, Arithmetic, Network
from keygraph.parity.rounding.selections import Scores, Selections
from keygraph.plugins.torch import key_graph, pack_graph, top_k_graph
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")

SCORES = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
#: In another order.
OTHERS = torch.tensor([[0.0, 2.0, 1.0, 3.0]])
TWO = torch.tensor([2])

#: Every kind of selection: scores -> what depends on it.
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "topk": lambda s: s.topk(2).values,
    "topk of another dimension": lambda s: s.T.topk(2, dim=0).indices.float(),
    "sort": lambda s: s.sort(descending=True).indices.float(),
    "argsort": lambda s: s.argsort().float(),
    "stable": lambda s: s.sort(dim=-1, stable=True).indices.float(),
    "argmax": lambda s: s.argmax(-1).float(),
    "max": lambda s: s.max(-1).values,
    "min of a kept dimension": lambda s: s.min(-1, keepdim=True).indices.float(),
    "comparison": lambda s: (s >= s.roll(1, -1)).float(),
    "constant": lambda s: (s > 1.5).float(),
    "key graph": lambda s: key_graph(s.view(1, 1, 4, 1), torch.ones(1, 1, 4, 1).cumsum(2), TWO).float(),
    "packed scores": lambda s: pack_graph(s.view(1, 1, 1, 4), torch.full((1, 1, 1, 1), 1.5)).float(),
    "graph of scores": lambda s: top_k_graph(s.view(1, 1, 1, 4), TWO).float(),
}


def run(kind: str, scores: Tensor, given: Any = (), observe: Any = None) -> tuple[Tensor, list[Tensor]]:
    with torch.no_grad(), Selections(given, observe) as selections:
        return KINDS[kind](scores), selections.chosen


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "key graph"])
def test_a_selection_is_recorded_forced_and_made_again(kind: str) -> None:
    seen: list[Scores] = []
    own, chosen = run(kind, SCORES, observe=seen.append)
    assert len(chosen) == len(seen) == 1
    other, others = run(kind, OTHERS)
    assert not torch.equal(chosen[0], others[0])
    forced, used = run(kind, OTHERS, chosen)
    assert torch.equal(used[0], chosen[0])
    if own.shape != (1,) and kind != "topk":  # What is selected, not the values of it.
        assert torch.equal(forced, own)
    else:
        assert not torch.equal(forced, other)
    values = tuple(OTHERS.numpy().reshape(one.shape) if one.size == 4 else one for one in seen[0].values)
    if kind == "comparison":
        values = (OTHERS.numpy(), OTHERS.roll(1, -1).numpy())
    assert np.array_equal(seen[0].select(values), others[0].numpy())


def test_key_graphs_are_selected_again_by_other_features() -> None:
    seen: list[Scores] = []
    _, (graph,) = run("key graph", SCORES, observe=seen.append)
    ((query, key), again) = seen[0].values, seen[0].select
    assert np.array_equal(again((query, key)), graph.numpy())
    assert not np.array_equal(again((-query, key)), graph.numpy())


def test_what_packs_a_mask_follows_the_mask() -> None:
    seen: list[Scores] = []

    def packed(scores: Tensor, given: Any = ()) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad(), Selections(given, seen.append) as selections:
            mask = scores >= scores.topk(2).values[..., -1:].expand_as(scores)
            return pack_graph(mask.view(1, 1, 1, 4)), selections.chosen

    graph, chosen = packed(SCORES)
    assert [one.dtype for one in chosen] == [torch.int64, torch.bool, torch.int32]
    assert torch.equal(packed(OTHERS, chosen)[0], graph)
    other, _ = packed(OTHERS)
    again = [torch.from_numpy(np.asarray(one.select([OTHERS.numpy()] * len(one.values)))) for one in seen[:1]]
    mask = OTHERS >= 2.0
    assert torch.equal(packed(SCORES, [again[0], mask, torch.from_numpy(seen[2].select(()))])[0], other)


def in_place(scores: Tensor) -> Tensor:
    kept = scores < scores.topk(3).values[..., -1:]
    kept.logical_not_()
    indices = scores.topk(3).indices
    indices += 1
    return scores.masked_fill(~kept, -1e4) + scores.gather(-1, (indices - 1)[..., :1])


def ranked(scores: Tensor) -> Tensor:
    rank = scores.argsort(-1, descending=True).argsort(-1)
    again = (2 * scores).argsort(-1, descending=True).argsort(-1)
    return scores.masked_fill(rank >= 3, -1e4) + scores.masked_fill(again >= 2, -1e4)


def above_mean(scores: Tensor) -> Tensor:
    return torch.where(scores > scores.mean(), scores, -1e4)


@pytest.mark.parametrize("select", [in_place, ranked, above_mean])
@pytest.mark.parametrize("function", [False, True], ids=["module", "function"])
def test_every_way_to_select_is_measured(select: Callable[[Tensor], Tensor], function: bool) -> None:
    class Selects(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(select(self.first(x)).softmax(-1))
            return y

    module, x = Selects().eval(), torch.randn(4, 40, 8, generator=torch.Generator().manual_seed(0))
    other, wrong = Selects().eval(), Selects().eval()
    with torch.no_grad():
        wrong.first.bias.zero_()
    candidates = [(lambda given, one=one: one(given)) if function else one for one in (other, wrong)]
    right, fault = (compare_modules(module, one, x) for one in candidates)
    assert right.passed, str(right)
    assert right.error.expected < 1e-3
    assert not fault.passed, str(fault)


class Ties(nn.Module):
    """Weights the nodes of each set with the largest sums of their first channels, of which two tie but for rounding.

    Nodes come in pairs, whose first channels are the same numbers in another order and whose others differ. Seven are
    weighted, so that rounding decides which of one pair is.
    """

    def __init__(self, order: int = 1, eps: float = 1e-5, scale: float = 1.0) -> None:
        super().__init__()
        self.order, self.scale = order, scale
        self.norm = nn.LayerNorm(8, eps=eps)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, N, 8] for [B, N, 24]."""
        first, *others = x[..., :16].unbind(-1)[:: self.order]
        scores = first
        for term in others:  # One after the other: PyTorch's sums have an order of their own.
            scores = scores + term
        kept = scores >= scores.topk(7).values[..., -1:]
        y: Tensor = self.out(self.norm(x[..., 16:])) * (0.5 + kept[..., None]) * self.scale
        return y


def ties(**options: Any) -> Ties:
    torch.manual_seed(0)
    return Ties(**options).eval().requires_grad_(False)


def nodes(sets: int = 64, pairs: int = 8) -> Tensor:
    random = torch.Generator().manual_seed(0)
    first = torch.rand(sets, pairs, 16, generator=random)
    others = torch.randn(2, sets, pairs, 8, generator=random)
    permuted = first[..., torch.randperm(16, generator=random)]
    return torch.cat([torch.cat([first, others[0]], -1), torch.cat([permuted, others[1]], -1)], 1)


def test_near_ties_explain_what_they_change() -> None:
    x, module = nodes(), ties()
    other = ties(order=-1)
    assert (module(x) - other(x)).abs().amax() > 0.1  # Far beyond rounding.
    found = compare_modules(module, other, x)
    assert found.passed, str(found)
    assert found.error.beside == ("near ties",)
    assert "a median error, of at most 4 times what fp32 rounding and near ties explain" in str(found)
    assert compare_modules(module, lambda given: other(given), x).passed


@pytest.mark.parametrize("fault", [{"eps": 1e-4}, {"scale": 1.0003}], ids=["epsilon", "scale"])
def test_near_ties_hide_no_fault_of_all_values(fault: dict[str, float]) -> None:
    x, module = nodes(), ties()
    wrong = ties(**fault)
    # A function has no blocks: the verdict is that of the output alone.
    found = compare_modules(module, lambda given: wrong(given), x)
    assert found.error.found < 4 * found.error.expected
    assert not found.passed
    assert "median error" in found.reasons[0]


def test_the_block_at_fault_is_named_beside_near_ties() -> None:
    found = compare_modules(ties(), ties(order=-1, eps=1e-3), nodes())
    assert [(block.name, block.suspect) for block in found.beyond_rounding] == [("norm", "an epsilon of 0.001")]


def test_without_a_selection_nothing_ties() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.GELU()).eval().requires_grad_(False)
    found = compare_modules(module, module, torch.randn(3, 4))
    assert found.error.beside == ()
    assert found.error.median_times == 0


def test_large_scores_are_kept_on_disk_and_tie_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = Network(ties(), None), nodes().numpy()
    _, selected = network.run(EXACT, (x,), None)
    small = near_ties(network, Arithmetic("fp32"), (x,), None, selected)
    monkeypatch.setattr("keygraph.parity.rounding.expected._LARGE", 1)
    large = near_ties(network, Arithmetic("fp32"), (x,), None, selected)
    for one in (small, large):
        mask, before = one[1], selected[1]
        assert 0 < (mask != before).sum() <= 2 * 64
        assert set(mask.sum(-1)) <= {7, 8}  # A threshold keeps both of a pair that are equal.


def test_networks_that_attend_by_hand_select_too() -> None:
    class ByHand(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = x[:, None]
            y: Tensor = keygraph.attend(heads, heads, heads, similarity=(x, x), k=4)
            return y[:, 0]

    x = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(0))
    _, selected = Network(ByHand().eval(), None).run(EXACT, (x.numpy(),), None)
    assert [one.dtype for one in selected] == [np.int32]
