"""A small KGT as others might write it: one network, whose attention to selected nodes is written in several ways.

A way is a pair of functions. `select` gets the nodes' similarity [W, N, N] and k, and returns what `attend` takes;
`attend` gets q, k, v [W, H, N, D], the selection, the scale and the layer's bias [H, N, N].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keygraph
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Select = Callable[[Tensor, int], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, float, Tensor], Tensor]

WAYS: dict[str, tuple[Select, Attend]] = {}


def way(select: Select) -> Callable[[Attend], Attend]:
    """Register an attention with the selection that it takes."""

    def register(attend: Attend) -> Attend:
        WAYS[attend.__name__.replace("_", " ").strip()] = select, attend
        return attend

    return register


def kept(similarity: Tensor, k: int) -> Tensor:
    """True where a node is among the k most similar."""
    return torch.zeros_like(similarity, dtype=torch.bool).scatter(-1, similarity.topk(k).indices, True)


def above(similarity: Tensor, k: int) -> Tensor:
    """True where a node is at least as similar as the k-th."""
    return similarity >= similarity.topk(k).values[..., -1:]


def nearest(similarity: Tensor, k: int) -> Tensor:
    """Indices of the k most similar nodes."""
    return similarity.topk(k, sorted=False).indices


@way(kept)
def masked_fill(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, _: Tensor) -> Tensor:
    return (scale * q @ k.mT).masked_fill(~keep[:, None], -torch.inf).softmax(-1) @ v


@way(above)
def threshold(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, _: Tensor) -> Tensor:
    scores = torch.where(keep[:, None], q @ k.mT * scale, torch.finfo(q.dtype).min)
    return scores.softmax(-1) @ v


@way(kept)
def added_mask(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, bias: Tensor) -> Tensor:
    return F.softmax(q @ k.mT * scale + bias + (~keep[:, None]).to(q.dtype) * -1e9, dim=-1) @ v


@way(kept)
def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, _: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, keep[:, None], scale=scale)


@way(nearest)
def gather(q: Tensor, k: Tensor, v: Tensor, index: Tensor, scale: float, _: Tensor) -> Tensor:
    count = q.shape[2]
    index = index[:, None, :, :, None].expand(-1, q.shape[1], -1, -1, q.shape[3])
    near = [each[:, :, None].expand(-1, -1, count, -1, -1).gather(3, index) for each in (k, v)]
    scores = (q[..., None, :] @ near[0].mT) * scale
    return (scores.softmax(-1) @ near[1]).squeeze(-2)


@way(kept)
def weights_masked_and_normalised(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, scale: float, _: Tensor) -> Tensor:
    weights = (q @ k.mT * scale).softmax(-1) * keep[:, None]
    return weights / weights.sum(-1, keepdim=True) @ v


@way(lambda similarity, k: similarity)
def bias_inside_the_selection(
    q: Tensor, k: Tensor, v: Tensor, similarity: Tensor, scale: float, bias: Tensor
) -> Tensor:
    count = similarity.shape[-1] // 4
    keep = kept(similarity[:, None] + bias, count)
    return (q @ k.mT * scale).masked_fill(~keep, -torch.inf).softmax(-1) @ v


def by_hand(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, scale: float, _: Tensor) -> Tensor:
    return keygraph.attend(q, k, v, graph=graph, scale=scale)


class Layer(nn.Module):
    """Attention with its projections, and a feed-forward part."""

    def __init__(self, channels: int, heads: int, nodes: int, attend: Attend) -> None:
        super().__init__()
        self.heads, self.attend = heads, attend
        self.norm, self.ffn_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.projection = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.bias = nn.Parameter(0.1 * torch.randn(heads, nodes, nodes))
        self.ffn = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor, selection: Tensor) -> Tensor:
        """Return [W, N, C] for [W, N, C]."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = self.attend(q, k, v, selection, q.shape[-1] ** -0.5, self.bias)
        x = x + self.projection(attended.transpose(1, 2).flatten(2))
        y: Tensor = x + self.ffn(self.ffn_norm(x))
        return y


class Network(nn.Module):
    """Stages of layers on windows, which share one selection in each stage.

    Parameters
    ----------
    name
        A key of `WAYS`, or ``"by hand"`` for `keygraph.attend`.
    window
        Side of a window, in pixels.
    k
        Nodes that each attends to.
    channels, heads, stages, layers
        Sizes of the network.
    """

    def __init__(
        self, name: str, window: int, k: int, channels: int = 60, heads: int = 6, stages: int = 2, layers: int = 3
    ) -> None:
        super().__init__()
        self.window, self.k = window, k
        select, attend = (None, by_hand) if name == "by hand" else WAYS[name]
        self.select = select
        self.head, self.tail = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 3, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.ModuleList(Layer(channels, heads, window * window, attend) for _ in range(layers)) for _ in range(stages)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return [B, 3, H, W] for [B, 3, H, W]; H and W are multiples of the window."""
        features = self.head(image)
        batch, channels, height, width = features.shape
        size = self.window
        down, across = height // size, width // size
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            grid = features.view(batch, channels, down, size, across, size)
            x = grid.permute(0, 2, 4, 3, 5, 1).reshape(-1, size * size, channels)
            selection: Any = keygraph.key_graph(x, x, self.k) if self.select is None else self.select(x @ x.mT, self.k)
            for layer in stage:
                x = layer(x, selection)
            grid = x.view(batch, down, across, size, size, channels).permute(0, 5, 1, 3, 2, 4)
            features = features + grid.reshape(batch, channels, height, width)
        restored: Tensor = image + self.tail(features)
        return restored
