"""Attention between channels: channels are the tokens, pixels their features.

``csa`` is the form of Restormer (arXiv 2111.09881, equation 1: MDTA) and of MST (arXiv 2111.07910: MS-MSA):

    softmax(norm(Q) norm(K)^T * temperature) V        Q: [d, HW], K and V: [e, HW] per head; e = d

``glmha`` (arXiv 2410.00380, equations 3 to 7) computes Q as before, derives from Q a factor for every channel of the
input (`Guide`), and computes fewer keys and values, e < d, from the input that the factors have scaled.

``linformer``, ``performer`` and ``reformer`` are what the GLMHA paper compares with in the same place (`mixer`): they
compute all of Q, K and V, and save in the products only.

Sums over pixels run over the whole image, so cutting it into tiles changes the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from .architecture import StateDict
from .configuration import require, shortest_decimal

#: Source of published figures with GLMHA.
GLMHA_PAPER = "arXiv 2410.00380"

ATTENTIONS = ("csa", "glmha", "linformer", "performer", "reformer")

#: What only layers of an attention have in a state dict, under the layer's name.
_MARKS = {
    "glmha": "guide.conv.weight",
    "linformer": "mixer.values",
    "performer": "mixer.features.directions",
    "reformer": "mixer.hashes.directions",
}

#: What sums over pixels, for half-precision files: norms, Gram products and the softmax, and random projections.
KEEP_FP32 = ("*.mixer.similarity", "*.mixer.features", "*.mixer.hashes")

#: Least norm of a channel, as in `torch.nn.functional.normalize`.
EPSILON = 1e-12

#: How the share rho of keys and values that is saved depends on the level, and the rho that it starts from.
REDUCTION_PRESETS = {"uniform": 0.5, "table": 0.7}


def preset_reduction(preset: str, heads: Sequence[int | None], rho: float | None = None) -> tuple[float, ...]:
    """The reduction of every level.

    Parameters
    ----------
    preset
        ``"uniform"``: rho everywhere, as the paper's text has it. ``"table"``: rho / heads, which the paper's tables
        fit better.
    heads
        Of every level; None for blocks that ``"table"`` leaves as they are, with rho = 0.
    rho
        The preset's own (`REDUCTION_PRESETS`) unless given.

    Raises
    ------
    InputError
        There is no such preset.
    """
    if preset not in REDUCTION_PRESETS:
        raise InputError(f"there is no reduction {preset!r}; choose one of {', '.join(REDUCTION_PRESETS)}")
    rho = REDUCTION_PRESETS[preset] if rho is None else rho
    if preset == "uniform":
        return (rho,) * len(heads)
    return tuple(0.0 if count is None else rho / count for count in heads)


def level_attention(attention: str, rho: float) -> str:
    """The attention of a level: where nothing is to be saved, CSA stays."""
    return attention if rho > 0 else "csa"


def reduced_channels(channels: int, rho: float) -> int:
    """Keys and values of a head that has so many queries."""
    return round(channels * (1 - rho))


def check_attention(config: Any, head_channels: Sequence[int]) -> None:
    """Check the fields `attention`, `reduction`, `alpha` and `pool` that all families with channel attention have.

    Parameters
    ----------
    config
        Its `reduction` is filled with the uniform preset where another attention than ``csa`` leaves it empty.
    head_channels
        Channels of a head for every entry of `reduction`.

    Raises
    ------
    InputError
        A value is of the wrong type or out of range.
    """
    attention, alpha, pool = config.attention, config.alpha, config.pool
    require(config, "attention", attention in ATTENTIONS, f"one of {', '.join(ATTENTIONS)}")
    levels = f"{len(head_channels)} numbers, at least 0 and below 1, one for each level"
    require(config, "reduction", isinstance(config.reduction, (tuple, list)), levels)
    reduction = tuple(config.reduction)  # from JSON it comes as a list
    if attention == "csa":
        require(config, "reduction", not reduction, "empty for csa, which computes all keys and values")
    else:
        reduction = reduction or preset_reduction("uniform", [None] * len(head_channels))
        numbers = all(type(rho) in (int, float) and 0 <= rho < 1 for rho in reduction)
        require(config, "reduction", numbers and len(reduction) == len(head_channels), levels)
        require(config, "reduction", any(reduction), "above 0 somewhere, or empty; where it is 0, csa stays")
        left = all(reduced_channels(c, rho) >= 1 for c, rho in zip(head_channels, reduction, strict=True))
        require(config, "reduction", left, f"small enough to leave a channel of each head ({tuple(head_channels)})")
    object.__setattr__(config, "reduction", reduction)
    require(config, "alpha", type(alpha) in (int, float) and math.isfinite(alpha), "a number")
    require(config, "pool", type(pool) is int and pool >= 1, "an integer of at least 1")


def infer_attention(
    state: StateDict, levels: Sequence[Sequence[str]], channels: Callable[[str], int], kept: Callable[[str], int]
) -> dict[str, Any]:
    """The fields `attention`, `reduction` and `pool`, as far as shapes tell.

    Parameters
    ----------
    state
        A checkpoint's tensors.
    levels
        For every entry of `reduction`, names of attention layers that it is for: one of each size.
    channels
        Name of an attention layer -> queries of each of its heads.
    kept
        Name of a GLMHA layer -> values of each of its heads.

    Returns
    -------
    dict
        Empty for ``csa``. Several reductions may give the same shapes: the one of fewest decimals.

    Raises
    ------
    InputError
        No reduction gives these shapes.
    """
    counts: dict[str, Callable[[str], int]] = {
        "glmha": kept,
        "linformer": lambda layer: state[f"{layer}.mixer.values"].shape[1],
        "performer": lambda layer: state[f"{layer}.mixer.features.directions"].shape[0],
        "reformer": lambda layer: 2 * state[f"{layer}.mixer.hashes.directions"].shape[0],
    }

    def kind(layer: str) -> str:
        return next((name for name, key in _MARKS.items() if f"{layer}.{key}" in state), "csa")

    found = {name: layers for layers in levels if (name := kind(layers[0])) != "csa"}
    if not found:
        return {}
    attention, example = next(iter(found.items()))
    count = counts[attention]

    def rho(layers: Sequence[str]) -> float:
        if kind(layers[0]) == "csa":
            return 0.0
        if attention == "reformer":
            return 1 - 1 / count(layers[0])
        return _rho([(channels(layer), count(layer)) for layer in layers])

    known: dict[str, Any] = {"attention": attention, "reduction": tuple(rho(layers) for layers in levels)}
    if attention == "glmha":
        known["pool"] = state[f"{example[0]}.{_MARKS[attention]}"].shape[-1]
    return known


def _rho(heads: Sequence[tuple[int, int]]) -> float:
    """The reduction that leaves heads of so many channels with so many."""
    rho = shortest_decimal(
        max(1e-9, *(1 - (kept + 0.5) / channels for channels, kept in heads)),
        lambda rho: all(reduced_channels(channels, rho) == kept for channels, kept in heads),
    )
    if rho is None:
        words = ", ".join(f"{kept} of {channels}" for channels, kept in heads)
        raise InputError(f"no reduction leaves heads with {words} channels")
    return rho


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, C, H, W] -> [B, heads, C / heads, H W]."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, heads, channels // heads, height * width)


def norm(x: Tensor) -> Tensor:
    """Length of each channel of [..., d, N]: [..., d, 1], never 0."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=EPSILON)


class ChannelSimilarity(nn.Module):
    """Attention weights between the channels of a head.

    Norms are divided out of the Gram matrix, so that normalised queries and keys are never stored. A module of its own
    without parameters: what it holds are the sums over pixels, which half-precision files keep in FP32 by its name.
    """

    def forward(self, q: Tensor, k: Tensor, temperature: Tensor, pairs: Tensor | None = None) -> Tensor:
        """Compare channels.

        Parameters
        ----------
        q, k
            [B, h, d, N] and [B, h, e, N] of N pixels.
        temperature
            [h, 1, 1].
        pairs
            Optional bool[B, h, d, e]: false where a weight is to be 0; true once in every row.

        Returns
        -------
        Tensor
            [B, h, d, e]: softmax over e of q k^T / (|q| |k|^T) * temperature.
        """
        scores = q @ k.transpose(-2, -1) / (norm(q) * norm(k).transpose(-2, -1)) * temperature
        if pairs is not None:
            scores = scores.masked_fill(~pairs, -torch.inf)
        return scores.softmax(dim=-1)


class Mixer(nn.Module):
    """CSA: every channel becomes a weighted mean of its head's values."""

    def __init__(self) -> None:
        super().__init__()
        self.similarity = ChannelSimilarity()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        q, k, v
            [B, h, d, N], [B, h, e, N] and [B, h, e, N].
        temperature
            [h, 1, 1].

        Returns
        -------
        Tensor
            [B, h, d, N].
        """
        return self.similarity(q, k, temperature) @ v


class LinformerMixer(Mixer):
    """Linformer (arXiv 2006.04768, equation 7): keys and values mixed to fewer ones by learned matrices, one a head."""

    def __init__(self, heads: int, channels: int, kept: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(heads, kept, channels) / math.sqrt(channels))
        self.values = nn.Parameter(torch.randn(heads, kept, channels) / math.sqrt(channels))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        return super().forward(q, self.keys @ k, self.values @ v, temperature)


class PixelProjection(nn.Module):
    """Projects channels, as vectors of N pixels, on random orthogonal directions, for any N.

    The directions are drawn for `PIXELS` pixels, with components of unit variance, and go on block after block with
    random signs: a Kronecker product of signs and directions, whose rows are orthogonal as well.

    Parameters
    ----------
    directions
        Their number, at most `PIXELS`.
    """

    PIXELS = 1024
    SIGNS = 64

    directions: Tensor
    signs: Tensor

    def __init__(self, directions: int) -> None:
        super().__init__()
        basis = torch.linalg.qr(torch.randn(self.PIXELS, directions)).Q
        lengths = torch.randn(directions, self.PIXELS).norm(dim=1)
        self.register_buffer("directions", basis.T.contiguous() * lengths[:, None])
        self.register_buffer("signs", torch.randint(0, 2, (self.SIGNS,)).mul(2.0).sub(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, d, N] -> [B, h, d, directions], of the channels at unit length."""
        blocks = functional.pad(x, (0, -x.shape[-1] % self.PIXELS)).unflatten(-1, (-1, self.PIXELS))
        signs = self.signs[torch.arange(blocks.shape[-2], device=x.device) % self.SIGNS]
        return (signs[None] @ blocks).squeeze(-2) @ self.directions.T / norm(x)


class PerformerMixer(nn.Module):
    """Performer (arXiv 2009.14794, lemma 1): exp(q k^T) from positive orthogonal random features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = PixelProjection(features)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        q, k = self.features(q) * temperature, self.features(k)
        # exp(x w - |x|^2 / 2): the lengths, 1 and the temperature, and what is subtracted to keep exp small, cancel.
        q = (q - q.amax(-1, keepdim=True)).exp()
        k = (k - k.amax((-2, -1), keepdim=True)).exp()
        total = q @ k.sum(-2).unsqueeze(-1)
        return q @ (k.transpose(-2, -1) @ v) / total


class ReformerMixer(Mixer):
    """Reformer (arXiv 2001.04451, section 2): a channel attends to those that angular hashing puts in its bucket.

    Queries and keys stay apart, and a query always attends to the key of its own channel, so that none is without. A
    head has few channels: leaving pairs out is a mask, not a sort.
    """

    def __init__(self, buckets: int) -> None:
        super().__init__()
        self.hashes = PixelProjection(buckets // 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        pairs = self._bucket(q).unsqueeze(-1) == self._bucket(k).unsqueeze(-2)
        pairs = pairs | torch.eye(q.shape[-2], dtype=torch.bool, device=q.device)
        return self.similarity(q, k, temperature, pairs) @ v

    def _bucket(self, x: Tensor) -> Tensor:
        """[B, h, d, N] -> int64[B, h, d]."""
        rotated = self.hashes(x)
        return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


def mixer(attention: str, heads: int, channels: int, rho: float) -> nn.Module:
    """The products of an attention.

    Parameters
    ----------
    attention
        One of `ATTENTIONS`.
    heads, channels
        Heads, and channels of each.
    rho
        Share of the work that is saved: ``linformer`` keeps 1 - rho of the keys and values, ``performer`` has so many
        random features per channel, ``reformer`` 1 / (1 - rho) buckets, rounded to an even number.

    Returns
    -------
    nn.Module
        `forward` as that of `Mixer`.
    """
    kept = reduced_channels(channels, rho)
    if attention == "linformer":
        return LinformerMixer(heads, channels, kept)
    if attention == "performer":
        return PerformerMixer(kept)
    if attention == "reformer":
        return ReformerMixer(2 * max(1, round(0.5 / (1 - rho))))
    return Mixer()


class Guide(nn.Module):
    """Factors for the channels of the input of keys and values, from the queries (GLMHA, equations 3 to 5).

        P = adaptive max pool of Q to pool x pool
        A = tanh(GELU(depth-wise convolution of P) W^T)       W: [d, d], the same for all heads

    Parameters
    ----------
    channels, heads
        Of the queries.
    alpha
        Weight of A.
    pool
        Side of the pooled queries and of the kernel. The paper gives neither; 3 is ours.
    """

    def __init__(self, channels: int, heads: int, alpha: float, pool: int) -> None:
        super().__init__()
        self.heads = heads
        self.alpha = alpha
        self.pool = pool
        self.conv = nn.Conv2d(channels, channels, pool, groups=channels, bias=False)
        self.share = nn.Linear(channels // heads, channels // heads, bias=False)

    def forward(self, q: Tensor) -> Tensor:
        """Queries [B, C, H, W] -> 1 + alpha A, [B, C, 1, 1]."""
        pooled = pool_to(pool_to(q, self.pool, 2), self.pool, 3)
        v = functional.gelu(self.conv(pooled))
        a = torch.tanh(self.share(v.view(v.shape[0], self.heads, -1)))
        return 1 + self.alpha * a.view(v.shape)


def pool_to(x: Tensor, bins: int, axis: int) -> Tensor:
    """Adaptive max pooling along one axis, with the borders of `torch.nn.functional.adaptive_max_pool1d`.

    Slices and maxima, because ONNX has no adaptive pooling for sizes that are not known when the graph is made.
    """
    size = x.shape[axis]
    borders = ((i * size // bins, ((i + 1) * size + bins - 1) // bins) for i in range(bins))
    return torch.cat([x.narrow(axis, a, b - a).amax(axis, keepdim=True) for a, b in borders], axis)


def strongest(strength: Tensor, heads: int, kept: int) -> Tensor:
    """The channels that stay when a head keeps only some: those of the largest values, in their old order.

    Parameters
    ----------
    strength
        [C], for instance the norms of the rows that make the values.
    heads, kept
        Heads, and channels that each keeps.

    Returns
    -------
    Tensor
        int64[heads * kept], indices into the C channels.
    """
    rows = strength.view(heads, -1)
    order = rows.argsort(dim=1, descending=True, stable=True)[:, :kept].sort(dim=1).values
    return (order + torch.arange(heads, device=order.device)[:, None] * rows.shape[1]).flatten()
