"""Attention to the k most similar nodes, as different people write it, and what only looks like it.

A dialect is a function of q, k, v [W, H, N, D], the nodes x [W, N, C], a bias [H, N, N] and k.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

K, NODES, CHANNELS, HEADS = 5, 12, 8, 2
SCALE = (CHANNELS // HEADS) ** -0.5

Dialect = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
DIALECTS: dict[str, Dialect] = {}
PACKED: dict[str, tuple[Dialect, str]] = {}
LOOKALIKES: dict[str, tuple[Dialect, str]] = {}


def dialect(function: Dialect) -> Dialect:
    DIALECTS[function.__name__] = function
    return function


def packed(reason: str) -> Callable[[Dialect], Dialect]:
    def register(function: Dialect) -> Dialect:
        PACKED[function.__name__] = function, reason
        return function

    return register


def lookalike(reason: str) -> Callable[[Dialect], Dialect]:
    def register(function: Dialect) -> Dialect:
        LOOKALIKES[function.__name__] = function, reason
        return function

    return register


def similarity(x: Tensor) -> Tensor:
    return x @ x.transpose(-2, -1)


def indices(x: Tensor) -> Tensor:
    return similarity(x).topk(K, dim=-1).indices


def mask(x: Tensor) -> Tensor:
    return torch.zeros_like(similarity(x), dtype=torch.bool).scatter_(-1, indices(x), True)[:, None]


def scores(q: Tensor, k: Tensor) -> Tensor:
    result: Tensor = (q @ k.mT) * SCALE
    return result


def masked(attention: Tensor, selected: Tensor) -> Tensor:
    return attention.masked_fill(~selected, -torch.inf)


class Attention(nn.Module):
    """One dialect after a linear layer: [W, N, C] -> [W, N, C]."""

    def __init__(self, function: Dialect) -> None:
        super().__init__()
        self.function = function
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.bias = nn.Parameter(torch.randn(HEADS, NODES, NODES))
        self.temperature = nn.Parameter(torch.tensor([-1.5, 0.7]).view(HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        windows, nodes, channels = x.shape
        q, k, v = self.qkv(x).view(windows, nodes, 3, HEADS, channels // HEADS).permute(2, 0, 3, 1, 4)
        given = self.temperature if "temperature" in self.function.__name__ else self.bias
        return self.function(q, k, v, x, given).transpose(1, 2).reshape(x.shape)


# Masks that exclude


@dialect
def subtracted_where(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) - (1 - torch.where(mask(x), 1.0, 0.0)) * 1e9).softmax(-1) @ v


@dialect
def where_with_a_full_tensor(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention, selected = scores(q, k), torch.zeros_like(similarity(x)).scatter_(-1, indices(x), 1.0)
    return torch.where(selected.unsqueeze(1) > 0, attention, torch.full_like(attention, -torch.inf)).softmax(-1) @ v


@dialect
def fill_where_zero(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = torch.zeros_like(similarity(x)).scatter_(-1, indices(x), 1.0).unsqueeze(1)
    attention = torch.matmul(q, k.permute(0, 1, 3, 2)) / (q.shape[-1] ** 0.5)
    return torch.matmul(F.softmax(attention.masked_fill(selected == 0, -1e9), dim=-1), v)


@dialect
def added_large_number(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = torch.zeros_like(similarity(x)).scatter_(-1, indices(x), 1.0)
    return (scores(q, k) + (1.0 - selected.unsqueeze(1)) * -1e9).softmax(-1) @ v


@dialect
def added_scattered_zeros(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    added = torch.full_like(similarity(x), -torch.inf).scatter_(-1, indices(x), 0.0)
    return (scores(q, k) + added.unsqueeze(1)).softmax(-1) @ v


@dialect
def sdpa_with_booleans(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask(x))


@dialect
def sdpa_with_numbers(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    added = torch.full_like(similarity(x), -torch.inf).scatter_(-1, indices(x), 0.0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added.unsqueeze(1), scale=0.3)


@dialect
def fill_minus_100(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return scores(q, k).masked_fill(~mask(x), -100.0).softmax(-1) @ v


@dialect
def fill_of_one_element(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return torch.where(mask(x), scores(q, k), torch.tensor(-1e9)).softmax(-1) @ v


@dialect
def where_with_a_number(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return torch.where(mask(x), scores(q, k), -torch.inf).softmax(-1) @ v


@dialect
def where_dropped(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    dropped = ~mask(x)
    return torch.where(dropped, torch.full_like(scores(q, k), -1e4), scores(q, k)).softmax(-1) @ v


@dialect
def assigned_with_a_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = scores(q, k).clone()
    attention[~mask(x).expand_as(attention)] = -torch.inf
    return attention.softmax(-1) @ v


@dialect
def log_of_a_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) + mask(x).float().log()).softmax(-1) @ v


@dialect
def guarded_log_of_a_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) + mask(x).float().clamp_min(1e-38).log()).softmax(-1) @ v


@dialect
def subtracted_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) - (1 - mask(x).float()) * 1e9).softmax(-1) @ v


@dialect
def mask_where_zero_and_inf(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) + torch.where(mask(x), 0.0, -torch.inf)).softmax(-1) @ v


@dialect
def mask_from_filled_zeros(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    added = torch.zeros_like(similarity(x)).masked_fill(~mask(x)[:, 0], -1e9)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added[:, None])


@dialect
def masked_before_the_scale(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = ((q @ k.mT).masked_fill(~mask(x), -1e9) * SCALE).softmax(-1) @ v
    return result


@dialect
def masked_twice(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k), mask(x)).softmax(-1).masked_fill(~mask(x), 0.0) @ v


@dialect
def dropped_set_to_false(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    others = similarity(x).topk(NODES - K, dim=-1, largest=False).indices
    kept = torch.ones_like(similarity(x), dtype=torch.bool).scatter(-1, others, False)
    return masked(scores(q, k), kept[:, None]).softmax(-1) @ v


@dialect
def fill_of_one_element_in_a_vector(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) + (~mask(x)) * torch.tensor([-100.0])).softmax(-1) @ v


@dialect
def mask_turned_into_minus_100(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    added = mask(x).float()
    added = added.masked_fill(added == 0, -100.0).masked_fill(added == 1, 0.0)
    return (scores(q, k) + added).softmax(-1) @ v


@dialect
def filled_empty(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    low = torch.empty_like(scores(q, k)).fill_(-torch.inf)
    return torch.where(mask(x), scores(q, k), low).softmax(-1) @ v


@dialect
def multiplied_and_zeros_filled(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = scores(q, k) * mask(x)
    return attention.masked_fill(attention == 0, -torch.inf).softmax(-1) @ v


@dialect
def scattered_and_zeros_filled(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    best, chosen = scores(q, k).topk(K, dim=-1)
    attention = torch.zeros_like(scores(q, k)).scatter_(-1, chosen, best)
    return torch.where(attention == 0, -1e9, attention).softmax(-1).nan_to_num(0.0) @ v


# Selections


@dialect
def threshold(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = similarity(x)
    selected = near >= near.topk(K, dim=-1).values[..., -1:]
    return scores(q, k).masked_fill(~selected.unsqueeze(1), torch.finfo(q.dtype).min).softmax(-1) @ v


@dialect
def threshold_of_the_dropped(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = similarity(x)
    dropped = near < torch.topk(near, K)[0].min(dim=-1, keepdim=True)[0]
    return scores(q, k).masked_fill(dropped.unsqueeze(1), -torch.inf).softmax(-1) @ v


@dialect
def threshold_of_own_scores(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention, lowest = torch.einsum("b h i d, b h j d -> b h i j", q, k) * SCALE, -torch.finfo(q.dtype).max
    best, _ = attention.topk(K, dim=-1)
    kept = (attention >= best.select(-1, -1).unsqueeze(-1)) & (attention > lowest)
    return torch.einsum("b h i j, b h j d -> b h i d", attention.masked_fill(~kept, lowest).softmax(-1), v)


@dialect
def sorted_descending(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = similarity(x).sort(dim=-1, descending=True)[1][..., :K]
    selected = torch.zeros_like(similarity(x), dtype=torch.bool).scatter_(-1, chosen, True)
    return masked(scores(q, k), selected.unsqueeze(1)).softmax(-1) @ v


@dialect
def distance(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    apart = torch.cdist(x, x)
    near = torch.zeros_like(apart, dtype=torch.bool).scatter_(-1, apart.topk(K, dim=-1, largest=False).indices, True)
    return masked(scores(q, k), near.unsqueeze(1)).softmax(-1) @ v


@dialect
def one_hot(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = F.one_hot(indices(x), NODES).sum(-2)
    return scores(q, k).masked_fill(selected[:, None] == 0, -1e9).softmax(-1) @ v


@dialect
def one_hot_by_comparison(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = (indices(x).unsqueeze(-1) == torch.arange(NODES)).any(-2)
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@dialect
def index_put(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = torch.zeros_like(similarity(x), dtype=torch.bool)
    windows = torch.arange(x.shape[0])[:, None, None]
    selected[windows, torch.arange(NODES)[None, :, None], indices(x)] = True
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@dialect
def scatter_add(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = indices(x)
    selected = torch.zeros_like(similarity(x)).scatter_add(-1, chosen, torch.ones_like(chosen, dtype=torch.float32))
    return scores(q, k).masked_fill(selected[:, None] < 0.5, -1e9).softmax(-1) @ v


@dialect
def scatter_of_ones(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = indices(x)
    selected = torch.zeros_like(similarity(x)).scatter(-1, chosen, torch.ones_like(chosen, dtype=torch.float32))
    return masked(scores(q, k), selected.bool()[:, None]).softmax(-1) @ v


@dialect
def ranks_of_nodes(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    place = similarity(x).argsort(dim=-1, descending=True).argsort(dim=-1)
    return masked(scores(q, k), (place < K)[:, None]).softmax(-1) @ v


@dialect
def kthvalue(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    border = similarity(x).kthvalue(NODES - K + 1, dim=-1, keepdim=True).values
    return masked(scores(q, k), (similarity(x) >= border)[:, None]).softmax(-1) @ v


@dialect
def sorted_ascending(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    border = similarity(x).sort(dim=-1).values[..., -K].unsqueeze(-1)
    return scores(q, k).masked_fill((similarity(x) < border)[:, None], -1e9).softmax(-1) @ v


@dialect
def strictly_above_the_next(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    border = similarity(x).topk(K + 1, dim=-1).values[..., -1:]
    return masked(scores(q, k), (similarity(x) > border)[:, None]).softmax(-1) @ v


@dialect
def argsort_of_the_negative(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = (-similarity(x)).argsort(dim=-1)[..., :K]
    selected = torch.zeros_like(similarity(x), dtype=torch.bool).scatter(-1, chosen, True)
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@dialect
def larger_topk_cut(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = similarity(x).topk(K + 3, dim=-1).indices[:, :, :K]
    selected = torch.zeros_like(similarity(x)).scatter(-1, chosen, 1.0)
    return masked(scores(q, k), selected[:, None] == 1).softmax(-1) @ v


@dialect
def cosine(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    unit = F.normalize(x, dim=-1)
    return masked(scores(q, k), mask(unit)).softmax(-1) @ v


@dialect
def cosine_divided_last(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    length = x.norm(dim=-1, keepdim=True)
    cosines = similarity(x) / length / length.mT
    selected = torch.zeros_like(cosines, dtype=torch.bool).scatter(-1, cosines.topk(K).indices, True)
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@dialect
def softmax_of_similarity(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = (similarity(x) / 8).softmax(-1).topk(K).indices
    selected = torch.zeros_like(similarity(x), dtype=torch.bool).scatter(-1, chosen, True)
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@dialect
def distance_guarded(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """As exporters write `torch.cdist` into ONNX files."""
    square, one = (x**2).sum(-1, keepdim=True), torch.ones_like(x[..., :1])
    apart = torch.cat([-2 * x, square, one], -1) @ torch.cat([x, one, square], -1).transpose(-2, -1)
    nearest = apart.clamp_min(0).sqrt().topk(K, dim=-1, largest=False).indices
    selected = torch.zeros_like(apart, dtype=torch.bool).scatter_(-1, nearest, True)
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@dialect
def nan_replaced_by_where(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    """As exporters write PyTorch's own attention with a mask into ONNX files."""
    weights = masked(scores(q, k), mask(x)).softmax(-1)
    return torch.where(weights.isnan(), 0.0, weights) @ v


@dialect
def distance_written_out(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    square = x.pow(2).sum(-1, keepdim=True)
    distance = square + square.mT - 2 * similarity(x)
    selected = torch.zeros_like(distance).scatter(-1, distance.topk(K, largest=False).indices, 1.0)
    return masked(scores(q, k), selected[:, None] > 0).softmax(-1) @ v


@dialect
def distance_of_differences(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    distance = (x.unsqueeze(2) - x.unsqueeze(1)).pow(2).sum(-1)
    selected = torch.zeros_like(distance, dtype=torch.bool).scatter(-1, (-distance).topk(K).indices, True)
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@dialect
def gaussian_of_distance(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    closeness = torch.exp(-(torch.cdist(x, x) ** 2) / 32)
    selected = torch.zeros_like(closeness, dtype=torch.bool).scatter(-1, closeness.topk(K).indices, True)
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@dialect
def per_head_selection(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    own = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    selected = torch.zeros_like(own, dtype=torch.bool).scatter(-1, own.topk(K).indices, True)
    return masked(scores(q, k), selected).softmax(-1) @ v


@dialect
def repeated_for_heads(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = mask(x).repeat(1, HEADS, 1, 1)
    return masked(scores(q, k), selected).softmax(-1) @ v


@dialect
def windows_times_heads(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    selected = mask(x)[:, 0].repeat_interleave(HEADS, 0)
    result: Tensor = (masked(scores(q, k), selected).softmax(-1) @ v).unflatten(0, (-1, HEADS))
    return result


@dialect
def one_hot_maximum(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = F.one_hot(indices(x), NODES).float().max(dim=-2)[0]
    return masked(scores(q, k), selected[:, None] > 0).softmax(-1) @ v


@dialect
def index_put_of_flat_rows(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = torch.zeros_like(similarity(x)).view(-1, NODES)
    selected[torch.arange(selected.shape[0])[:, None], indices(x).view(-1, K)] = 1
    return masked(scores(q, k), selected.view(-1, 1, NODES, NODES) > 0).softmax(-1) @ v


@dialect
def threshold_by_a_list(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    border = similarity(x).topk(K, dim=-1)[0][..., [-1]]
    return scores(q, k).masked_fill((similarity(x) < border)[:, None], -1e9).softmax(-1) @ v


@dialect
def threshold_expanded(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = similarity(x)
    border = torch.topk(near, K)[0][:, :, -1].unsqueeze(-1).expand(-1, -1, NODES)
    return masked(scores(q, k), torch.ge(near, border).unsqueeze(1)).softmax(-1) @ v


@dialect
def without_gradient(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    with torch.no_grad():
        selected = mask(x)
    return masked(scores(q, k), selected).softmax(-1) @ v


# Softmax


@dialect
def renormalised(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    weights = scores(q, k).softmax(-1) * mask(x).float()
    return (weights / weights.sum(-1, keepdim=True)) @ v


@dialect
def own_scores_scattered(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = scores(q, k)
    best, chosen = attention.topk(K, dim=-1)
    return torch.full_like(attention, -torch.inf).scatter_(-1, chosen, best).softmax(-1) @ v


@dialect
def softmax_by_hand(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = masked(scores(q, k), mask(x))
    attention = (attention - attention.amax(-1, keepdim=True)).exp()
    return (attention / attention.sum(-1, keepdim=True)) @ v


@dialect
def exp_times_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = scores(q, k)
    weights = torch.exp(attention - attention.max(dim=-1, keepdim=True)[0]) * mask(x)
    return (weights / (weights.sum(dim=-1, keepdim=True) + 1e-9)) @ v


@dialect
def divided_after_the_product(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    weights = scores(q, k).exp() * mask(x)
    return (weights @ v) / weights.sum(-1, keepdim=True)


@dialect
def exp_of_log_softmax(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k), mask(x)).log_softmax(-1).exp() @ v


@dialect
def logsumexp(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = masked(scores(q, k), mask(x))
    return (attention - attention.logsumexp(-1, keepdim=True)).exp() @ v


@dialect
def renormalised_by_normalize(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return F.normalize(scores(q, k).softmax(-1) * mask(x), p=1, dim=-1) @ v


@dialect
def softmax_then_topk(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    weights = scores(q, k).softmax(-1)
    best, chosen = weights.topk(K, dim=-1)
    weights = torch.zeros_like(weights).scatter(-1, chosen, best)
    return (weights / weights.sum(-1, keepdim=True)) @ v


@dialect
def scattered_softmax(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = scores(q, k)
    best, chosen = attention.topk(K, dim=-1)
    return torch.zeros_like(attention).scatter(-1, chosen, best.softmax(-1)) @ v


# Gathering


@dialect
def gathered(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = indices(x)[:, None, :, :, None].expand(-1, HEADS, -1, -1, q.shape[-1])
    near, values = (t[:, :, None].expand(-1, -1, NODES, -1, -1).gather(3, chosen) for t in (k, v))
    result: Tensor = (((q.unsqueeze(-2) @ near.mT) * SCALE).softmax(-1) @ values).squeeze(-2)
    return result


@dialect
def fancy_index(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    windows = torch.arange(x.shape[0])[:, None, None, None]
    heads = torch.arange(HEADS)[None, :, None, None]
    chosen = indices(x)[:, None]
    attention = torch.einsum("bhnd,bhnkd->bhnk", q, k[windows, heads, chosen]) * SCALE
    return torch.einsum("bhnk,bhnkd->bhnd", attention.softmax(-1), v[windows, heads, chosen])


@dialect
def gathered_and_summed(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = indices(x)[:, None, :, :, None].expand(-1, HEADS, -1, -1, q.shape[-1])
    near = k.unsqueeze(2).expand(-1, -1, NODES, -1, -1).gather(3, chosen)
    attention = ((q.unsqueeze(3) * near).sum(-1) * SCALE).softmax(-1)
    result: Tensor = (attention.unsqueeze(-1) * v.unsqueeze(2).expand(-1, -1, NODES, -1, -1).gather(3, chosen)).sum(-2)
    return result


@dialect
def flat_gather(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    width = q.shape[-1]
    chosen = indices(x)[:, None].expand(-1, HEADS, -1, -1).flatten(2).unsqueeze(-1).expand(-1, -1, -1, width)
    near, values = (t.gather(2, chosen).view(-1, HEADS, NODES, K, width) for t in (k, v))
    attention = (q.unsqueeze(-2) @ near.mT) * SCALE
    result: Tensor = (attention.softmax(-1) @ values).squeeze(-2)
    return result


@dialect
def values_of_topk(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    best, chosen = scores(q, k).topk(K, dim=-1)
    chosen = chosen.unsqueeze(-1).expand(-1, -1, -1, -1, v.shape[-1])
    near = v.unsqueeze(2).expand(-1, -1, NODES, -1, -1).gather(3, chosen)
    return (best.softmax(-1).unsqueeze(-2) @ near).squeeze(-2)


@dialect
def gathered_scores(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = indices(x)[:, None].expand(-1, HEADS, -1, -1)
    attention = (scores(q, k) + bias).gather(-1, chosen).softmax(-1)
    return torch.zeros_like(scores(q, k)).scatter(-1, chosen, attention) @ v


@dialect
def gathered_sdpa(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = indices(x)[:, None, :, :, None].expand(-1, HEADS, -1, -1, q.shape[-1])
    near, values = (t.unsqueeze(2).expand(-1, -1, NODES, -1, -1).gather(3, chosen) for t in (k, v))
    return F.scaled_dot_product_attention(q.unsqueeze(3), near, values).squeeze(3)


@dialect
def gathered_with_offsets(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    flat = indices(x) + torch.arange(x.shape[0])[:, None, None] * NODES
    heads = []
    for h in range(HEADS):
        near, values = (t[:, h].reshape(-1, t.shape[-1])[flat] for t in (k, v))
        weights = ((q[:, h].unsqueeze(2) * near).sum(-1) * SCALE).softmax(-1)
        heads.append((weights.unsqueeze(-1) * values).sum(2))
    return torch.stack(heads, 1)


# Products, layouts, scales


@dialect
def bmm(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (t.reshape(-1, NODES, t.shape[-1]) for t in (q, k, v))
    attention = torch.bmm(q, k.transpose(1, 2)).view(-1, HEADS, NODES, NODES) * SCALE
    weights = masked(attention, mask(x)).softmax(-1).view(-1, NODES, NODES)
    return torch.bmm(weights, v).view(-1, HEADS, NODES, v.shape[-1])


@dialect
def plain_bias(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k) + bias.unsqueeze(0), mask(x)).softmax(-1) @ v


@dialect
def baddbmm(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    attention = torch.baddbmm(torch.empty(1, 1, 1), q, k.mT, beta=0, alpha=SCALE).unflatten(0, (-1, HEADS))
    weights = masked(attention, mask(x)).softmax(-1)
    result: Tensor = (weights @ v.unflatten(0, (-1, HEADS))).contiguous()
    return result


@dialect
def baddbmm_with_bias(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = torch.baddbmm(bias[:1], q[:, 0], k[:, 0].mT, alpha=SCALE)
    first = masked(attention, mask(x)[:, 0]).softmax(-1) @ v[:, 0]
    return torch.stack([first, v[:, 1]], 1)


@dialect
def loop_over_heads(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = mask(x)[:, 0]
    heads = [masked(scores(q[:, h], k[:, h]) + bias[h], selected).softmax(-1) @ v[:, h] for h in range(HEADS)]
    return torch.stack(heads, 1)


@dialect
def autocast(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = mask(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (masked(scores(q, k), selected).softmax(-1) @ v).float()


@dialect
def heads_last_einsum(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    attention = torch.einsum("bnhd,bmhd->bhnm", q * SCALE, k)
    return torch.einsum("bhnm,bmhd->bnhd", masked(attention, mask(x)).softmax(-1), v).transpose(1, 2)


@dialect
def ellipsis_einsum(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = torch.einsum("...nd,...md->...nm", q, k) * SCALE
    return torch.einsum("...nm,...md->...nd", masked(attention, mask(x)).softmax(-1), v)


@dialect
def channels_first(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    weights = masked((q.mT.mT @ k.mT.contiguous()) * SCALE, mask(x)).softmax(-1)
    return (v.mT @ weights.mT).mT


@dialect
def temperature(q: Tensor, k: Tensor, v: Tensor, x: Tensor, temperature: Tensor) -> Tensor:
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    attention = (q @ k.mT) * temperature
    selected = torch.zeros_like(attention).scatter(-1, attention.topk(K).indices, 1.0)
    return torch.where(selected > 0, attention, -torch.inf).softmax(-1) @ v


@dialect
def temperature_divides(q: Tensor, k: Tensor, v: Tensor, x: Tensor, temperature: Tensor) -> Tensor:
    return masked((q @ k.mT) / temperature, mask(x)).softmax(-1) @ v


@dialect
def temperature_after_the_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, temperature: Tensor) -> Tensor:
    return (masked(scores(q, k), mask(x)) * (temperature.abs() + 0.1).sqrt()).softmax(-1) @ v


@dialect
def bias_after_the_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (masked(scores(q, k), mask(x)) + bias).softmax(-1) @ v


@dialect
def bias_in_the_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    added = torch.where(mask(x), bias, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added)


@dialect
def bias_of_each_window(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k) + similarity(x).sin()[:, None], mask(x)).softmax(-1) @ v


def shift_mask(x: Tensor) -> Tensor:
    """Return -100 where one node of a pair is behind the edge, for each of two windows of an image: [2, N, N]."""
    region = torch.zeros(2, NODES)
    region[1, NODES // 2 :] = 1
    apart = region.unsqueeze(1) - region.unsqueeze(2)
    return (apart != 0) * -100.0


@dialect
def shifted_windows(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = (scores(q, k) + bias.unsqueeze(0)).view(-1, 2, HEADS, NODES, NODES)
    attention = (attention + shift_mask(x).unsqueeze(1).unsqueeze(0)).view(-1, HEADS, NODES, NODES)
    return masked(attention, mask(x)).softmax(-1) @ v


@dialect
def two_biases(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked((scores(q, k) + bias) * 0.5 + bias[:, :1], mask(x)).softmax(-1) @ v


@dialect
def heads_in_a_view(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = (q.flatten(0, 1) @ k.flatten(0, 1).mT).view(-1, HEADS, NODES, NODES) * SCALE + bias
    weights = masked(attention, mask(x)).softmax(-1).view(-1, NODES, NODES)
    return (weights @ v.flatten(0, 1)).view(-1, HEADS, NODES, v.shape[-1])


# Other selections


@packed("not a plain top-k")
def above_a_border_or_near_filled_with_a_number(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return scores(q, k).masked_fill(~(mask(x) | (scores(q, k) > 1)), -1e9).softmax(-1) @ v


@lookalike("may select no node of a row")
def above_a_border_filled_with_a_number(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    # Where all are below the border, a row attends to all nodes equally; after -inf it is not a number.
    return scores(q, k).masked_fill(scores(q, k) < 1, -1e9).softmax(-1) @ v


@lookalike("no mask that is known")
def scores_of_the_image_added(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) + x.mean((0, 2))).softmax(-1) @ v


@packed("not a plain top-k")
def above_the_mean(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = similarity(x)
    return masked(scores(q, k), (near >= near.mean(-1, keepdim=True))[:, None]).softmax(-1) @ v


@packed("not a plain top-k")
def topk_of_columns(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = similarity(x + bias[0, 0, :CHANNELS])
    selected = torch.zeros_like(near, dtype=torch.bool).scatter(-2, near.topk(K, dim=-2).indices, True)
    return masked(scores(q, k), selected[:, None]).softmax(-1) @ v


@packed("not a plain top-k")
def topk_of_all_heads_together(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = similarity(x)
    border = near.flatten(1).topk(K * NODES, dim=-1).values[:, -1]
    return masked(scores(q, k), (near >= border[:, None, None])[:, None]).softmax(-1) @ v


@packed("not a plain top-k")
def two_selections_joined(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k), mask(x) | mask(x + 1)).softmax(-1) @ v


@packed("not a plain top-k")
def selected_by_either_node(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k), mask(x) | mask(x).mT).softmax(-1) @ v


@packed("not a plain top-k")
def transposed_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k), mask(x).mT).softmax(-1) @ v


@packed("more than one selection")
def masked_by_two_selections(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    other = torch.zeros_like(scores(q, k)).scatter(-1, scores(q, k).topk(K).indices, 1.0)
    return masked(masked(scores(q, k), mask(x)), other > 0).softmax(-1) @ v


@packed("the bias is inside the selection")
def bias_inside_the_selection(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = scores(q, k) + bias
    best, chosen = attention.topk(K, dim=-1)
    return torch.full_like(attention, -torch.inf).scatter(-1, chosen, best).softmax(-1) @ v


@packed("no product of two tensors")
def selection_after_a_convolution(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = F.conv2d(scores(q, k), bias[:, None, :3, :3].expand(-1, HEADS, -1, -1), padding=1)
    selected = torch.zeros_like(near).scatter(-1, near.topk(K).indices, 1.0)
    return masked(scores(q, k), selected > 0).softmax(-1) @ v


@packed("no product of two tensors")
def mean_over_heads(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = scores(q, k).mean(1, keepdim=True)
    selected = torch.zeros_like(near).scatter(-1, near.topk(K).indices, 1.0)
    return masked(scores(q, k), selected > 0).softmax(-1) @ v


@packed("not a plain top-k")
def above_a_learned_border(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    kept = torch.sigmoid(scores(q, k)) > bias[:, :1, :1].sigmoid()
    kept = kept | torch.eye(NODES, dtype=torch.bool)
    return (scores(q, k) + (1 - kept.float()) * -1e9).softmax(-1) @ v


@packed("not a plain top-k")
def sdpa_above_the_mean(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    near = similarity(x)[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=near >= near.mean(-1, keepdim=True))


@packed("not a plain top-k")
def union_scattered(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    selected = torch.zeros_like(similarity(x)).scatter(-1, indices(x), 1.0)
    selected = selected.scatter(-1, indices(x.flip(-1) + 1), 1.0)
    weights = scores(q, k).softmax(-1) * (selected[:, None] > 0)
    return (weights / weights.sum(-1, keepdim=True)) @ v


@packed("not a plain top-k")
def bright_nodes(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    bright = x.mean(-1) >= x.mean((1, 2))[:, None]
    return (scores(q, k) + bias).masked_fill(~bright[:, None, None, :], -torch.inf).softmax(-1) @ v


@packed("not a plain top-k")
def near_and_not_behind(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    ahead = torch.ones(NODES, NODES, dtype=torch.bool).tril()
    return masked(scores(q, k), (mask(x) & ahead) | torch.eye(NODES, dtype=torch.bool)).softmax(-1) @ v


@packed("the bias is inside the selection")
def gathered_with_bias(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    best, chosen = (scores(q, k) + bias).topk(K, dim=-1)
    chosen = chosen.unsqueeze(-1).expand(-1, -1, -1, -1, v.shape[-1])
    near = v.unsqueeze(2).expand(-1, -1, NODES, -1, -1).gather(3, chosen)
    return (best.softmax(-1).unsqueeze(-2) @ near).squeeze(-2)


@packed("no product of two tensors")
def learned_threshold_form(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    guess = torch.tanh(x @ bias[0, 0, :CHANNELS])[:, None] - (x[:, :, None] - x[:, None]).abs().mean(-1)
    return masked(scores(q, k), (guess >= guess.topk(K).values[..., -1:])[:, None]).softmax(-1) @ v


@packed("the bias is inside the selection")
def shifted_windows_then_topk(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    attention = (scores(q, k) + bias).view(-1, 2, HEADS, NODES, NODES)
    attention = (attention + shift_mask(x)[None, :, None]).view(-1, HEADS, NODES, NODES)
    best = attention.topk(K, dim=-1).values[..., -1:]
    return attention.masked_fill(attention < best, -torch.inf).softmax(-1) @ v


# What only looks like it


@lookalike("with a score of -10")
def fill_minus_10(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return scores(q, k).masked_fill(~mask(x), -10.0).softmax(-1) @ v


@lookalike("with a score of 1e-09")
def fill_with_a_missing_sign(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return scores(q, k).masked_fill(~mask(x), 1e-9).softmax(-1) @ v


@lookalike("nodes that are not selected take part in the softmax")
def mask_of_low_weight(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) + (1 - mask(x).float()) * -5.0).softmax(-1) @ v


@lookalike("nodes that are not selected take part in the softmax")
def fill_made_small_by_a_factor(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return ((q @ k.mT).masked_fill(~mask(x), -100.0) * 0.01).softmax(-1) @ v


@lookalike("does not depend on what is in the image")
def causal(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k), torch.ones(NODES, NODES, dtype=torch.bool).tril()).softmax(-1) @ v


@lookalike("does not depend on what is in the image")
def random_selection(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k), (torch.rand_like(similarity(x)) > 0.5)[:, None]).softmax(-1) @ v


@lookalike("its weights are multiplied with a tensor that is no mask")
def weights_of_an_earlier_attention(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    weights = (scores(q, k) + bias).softmax(-1) * (0.5 + torch.sigmoid(similarity(x))[:, None])
    best, chosen = (weights / weights.sum(-1, keepdim=True)).topk(K, dim=-1)
    return torch.zeros_like(weights).scatter(-1, chosen, best) @ v


@lookalike("not normalised again")
def topk_of_weights(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    weights = scores(q, k).softmax(-1)
    best, chosen = weights.topk(K, dim=-1)
    return torch.zeros_like(weights).scatter(-1, chosen, best) @ v


@lookalike("divided by something else than their sum")
def normalised_by_another_sum(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    weights = scores(q, k).softmax(-1)
    kept = weights * mask(x)
    return (kept / weights.sum(-1, keepdim=True)) @ v


@lookalike("divided by something else than their sum")
def normalised_by_the_columns(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    kept = scores(q, k).softmax(-1) * mask(x)
    return (kept / kept.sum(-2, keepdim=True).clamp_min(1e-6)) @ v


@lookalike("it attends to all nodes")
def dense(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (scores(q, k) + bias).softmax(-1) @ v


@lookalike("it attends to all nodes that are gathered for it")
def windows_gathered_as_a_whole(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    means = x.mean(1)
    chosen = (means @ means.mT).topk(2).indices
    near, values = (t[chosen].transpose(1, 2).flatten(2, 3) for t in (k, v))
    return scores(q, near).softmax(-1) @ values


@lookalike("it attends to all nodes")
def selection_for_nothing(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return scores(q, k).masked_fill(~mask(x), 0.0).mean() + scores(q, k).softmax(-1) @ v


@lookalike("the values are not those")
def values_of_others(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    chosen = indices(x)[:, None, :, :, None].expand(-1, HEADS, -1, -1, q.shape[-1])
    other = indices(x + 1)[:, None, :, :, None].expand(-1, HEADS, -1, -1, q.shape[-1])
    near = k.unsqueeze(2).expand(-1, -1, NODES, -1, -1).gather(3, chosen)
    values = v.unsqueeze(2).expand(-1, -1, NODES, -1, -1).gather(3, other)
    result: Tensor = ((q.unsqueeze(-2) @ near.mT * SCALE).softmax(-1) @ values).squeeze(-2)
    return result


@lookalike("no product of q and k")
def clamped_scores(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k).clamp(-1, 1), mask(x)).softmax(-1) @ v


@lookalike("may be negative")
def factor_of_unknown_sign_after_the_mask(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (masked(scores(q, k), mask(x)) * x.mean((1, 2))[:, None, None, None]).softmax(-1) @ v


@lookalike("a matrix")
def scores_times_a_matrix(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return masked(scores(q, k) * bias, mask(x)).softmax(-1) @ v


@lookalike("another dimension")
def softmax_over_rows(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return scores(q, k).masked_fill(~mask(x), -1e9).softmax(-2) @ v


@lookalike("is faster as it is")
def between_channels(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    q, k, v = (t.flatten(0, 1).repeat(1, 1, 3).mT[None] for t in (q, k, v))
    q, k, v = (torch.cat([t] * 3, -1) for t in (q, k, v))
    attention = q @ k.mT
    selected = torch.zeros_like(attention).scatter(-1, attention.topk(K).indices, 1.0)
    out = masked(attention, selected > 0).softmax(-1) @ v
    result: Tensor = out[0, :, : q.shape[2] // 3, :NODES].mT.unflatten(0, (-1, HEADS))
    return result


# Masks that are added, of which a row may be empty


@packed("not a plain top-k")
def above_a_border_added_as_a_number(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    # Where all are below the border, a row attends to all nodes by their scores.
    attention = q @ k.mT + -100.0 * ~((scores(q, k) > 0.5)[:, :1])
    return (attention * 2 + bias).softmax(-1) @ v


@lookalike("may select no node of a row")
def above_a_border_added_as_a_large_number(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    # Beside it all scores are the same.
    return (scores(q, k) + -1e9 * ~(scores(q, k) > 1)).softmax(-1) @ v
