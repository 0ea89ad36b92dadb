"""Attention between channels: the tokens are channels, their features are pixels.

``csa`` is the attention of Restormer (arXiv 2111.09881, equation 1: MDTA) and of MST (arXiv 2111.07910: MS-MSA):

    softmax(norm(Q) norm(K)^T * temperature) V        Q: [d, HW], K and V: [e, HW] per head; e = d

``glmha`` (arXiv 2410.00380, equations 3 to 7) computes a factor for every channel of the input from Q (`Guide`), scales
the input by it, and computes fewer keys and values, e < d, from the result.

``linformer``, ``performer`` and ``reformer`` are the alternatives in the GLMHA paper's comparison (`mixer`): they
compute all of Q, K and V and save work in the products only.

Sums over pixels run over the whole image, so that tiling changes the result.
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

#: Attention -> a state-dict key, below the layer's name, that only layers with this attention have.
_MARKS = {
    "glmha": "guide.conv.weight",
    "linformer": "mixer.values",
    "performer": "mixer.features.directions",
    "reformer": "mixer.hashes.directions",
}

#: FP32 patterns of the sums over pixels: norms, Gram products, the softmax, and random projections.
KEEP_FP32 = ("*.mixer.similarity", "*.mixer.features", "*.mixer.hashes")

#: Smallest norm of a channel, as in `torch.nn.functional.normalize`.
EPSILON = 1e-12

#: Presets for the fraction rho of keys and values that is saved at each level, with their default rho.
REDUCTION_PRESETS = {"uniform": 0.5, "table": 0.7}


def preset_reduction(preset: str, heads: Sequence[int | None], rho: float | None = None) -> tuple[float, ...]:
    """Return the reduction of every level.

    Parameters
    ----------
    preset
        ``"uniform"``: rho at every level, as in the paper's text. ``"table"``: rho / heads, which agrees better with
        the paper's tables.
    heads
        Heads of every level; None for levels at which ``"table"`` saves nothing.
    rho
        Fraction of keys and values that is saved, 0 <= rho < 1; None for the preset's default.

    Returns
    -------
    tuple of float

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
    """Return the attention of a level: CSA where rho is 0."""
    return attention if rho > 0 else "csa"


def reduced_channels(channels: int, rho: float) -> int:
    """Return the number of keys and values of a head with `channels` queries."""
    return round(channels * (1 - rho))


def check_attention(config: Any, head_channels: Sequence[int]) -> None:
    """Check the fields `attention`, `reduction`, `alpha` and `pool` of a configuration.

    Parameters
    ----------
    config
        The configuration. An empty `reduction` is set to the uniform preset, except with ``csa``.
    head_channels
        Channels of a head at every level.

    Raises
    ------
    InputError
        A value is of the wrong type or out of range.
    """
    attention, alpha, pool = config.attention, config.alpha, config.pool
    require(config, "attention", attention in ATTENTIONS, f"one of {', '.join(ATTENTIONS)}")
    levels = f"{len(head_channels)} numbers, at least 0 and below 1, one for each level"
    require(config, "reduction", isinstance(config.reduction, (tuple, list)), levels)
    reduction = tuple(config.reduction)  # A list when it comes from JSON.
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
    """Infer the fields `attention`, `reduction` and `pool` from the tensors' shapes.

    Parameters
    ----------
    state
        A checkpoint's tensors.
    levels
        For every entry of `reduction`, the names of attention layers that it applies to: one of each size.
    channels
        Name of an attention layer -> queries of each of its heads.
    kept
        Name of a GLMHA layer -> values of each of its heads.

    Returns
    -------
    dict
        Field -> value; empty for ``csa``. Of several reductions that give these shapes, the one with fewest decimals.

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
    """Return the reduction that gives heads of (channels, kept channels)."""
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
    """Return the L2 norm of each channel, at least `EPSILON`: [..., d, N] -> [..., d, 1]."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=EPSILON)


class ChannelSimilarity(nn.Module):
    """Attention weights between the channels of a head.

    The Gram matrix is divided by the norms, so that normalised queries and keys are never stored. The module has no
    parameters; it gives the sums over pixels a name, by which half-precision files keep them in FP32.
    """

    def forward(self, q: Tensor, k: Tensor, temperature: Tensor, pairs: Tensor | None = None) -> Tensor:
        """Compute the weights.

        Parameters
        ----------
        q, k
            [B, h, d, N] and [B, h, e, N] of N pixels.
        temperature
            [h, 1, 1].
        pairs
            Optional bool[B, h, d, e]: false where the weight must be 0; true at least once in every row.

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
    """CSA: each channel becomes a weighted mean of its head's values."""

    def __init__(self) -> None:
        super().__init__()
        self.similarity = ChannelSimilarity()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        """Apply the attention.

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
    """Linformer (arXiv 2006.04768, equation 7): learned matrices for each head reduce keys and values to fewer ones."""

    def __init__(self, heads: int, channels: int, kept: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(heads, kept, channels) / math.sqrt(channels))
        self.values = nn.Parameter(torch.randn(heads, kept, channels) / math.sqrt(channels))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        """Apply the attention.

        Parameters
        ----------
        q, k, v, temperature
            As for `Mixer.forward`.
        """
        return super().forward(q, self.keys @ k, self.values @ v, temperature)


class PixelProjection(nn.Module):
    """Project channels, as vectors of N pixels, on random orthogonal directions, for any N.

    The directions are drawn for `PIXELS` pixels, with components of unit variance. They are repeated for every block of
    pixels, with random signs: the Kronecker product of signs and directions, whose rows are orthogonal, too.

    Parameters
    ----------
    directions
        The number of directions, at most `PIXELS`.
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
        """Project the channels, normalised to unit length: [B, h, d, N] -> [B, h, d, directions]."""
        blocks = functional.pad(x, (0, -x.shape[-1] % self.PIXELS)).unflatten(-1, (-1, self.PIXELS))
        signs = self.signs[torch.arange(blocks.shape[-2], device=x.device) % self.SIGNS]
        return (signs[None] @ blocks).squeeze(-2) @ self.directions.T / norm(x)


class PerformerMixer(nn.Module):
    """Performer (arXiv 2009.14794, lemma 1): exp(q k^T) from positive orthogonal random features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = PixelProjection(features)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        """Apply the attention.

        Parameters
        ----------
        q, k, v, temperature
            As for `Mixer.forward`.
        """
        q, k = self.features(q) * temperature, self.features(k)
        # exp(x w - |x|^2 / 2): the norms (1 and the temperature) and the maxima subtracted cancel in the quotient.
        q = (q - q.amax(-1, keepdim=True)).exp()
        k = (k - k.amax((-2, -1), keepdim=True)).exp()
        total = q @ k.sum(-2).unsqueeze(-1)
        return q @ (k.transpose(-2, -1) @ v) / total


class ReformerMixer(Mixer):
    """Reformer (arXiv 2001.04451, section 2): a channel attends to the channels in its bucket of an angular hash.

    Queries and keys are different here. A query always attends to the key of its own channel, so that no row is empty.
    Because a head has few channels, pairs are left out by a mask instead of sorting.
    """

    def __init__(self, buckets: int) -> None:
        super().__init__()
        self.hashes = PixelProjection(buckets // 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
        """Apply the attention.

        Parameters
        ----------
        q, k, v, temperature
            As for `Mixer.forward`.
        """
        pairs = self._bucket(q).unsqueeze(-1) == self._bucket(k).unsqueeze(-2)
        pairs = pairs | torch.eye(q.shape[-2], dtype=torch.bool, device=q.device)
        return self.similarity(q, k, temperature, pairs) @ v

    def _bucket(self, x: Tensor) -> Tensor:
        """[B, h, d, N] -> int64[B, h, d]."""
        rotated = self.hashes(x)
        return torch.cat([rotated, -rotated], dim=-1).argmax(dim=-1)


def mixer(attention: str, heads: int, channels: int, rho: float) -> nn.Module:
    """Return the module that computes the products of an attention.

    Parameters
    ----------
    attention
        One of `ATTENTIONS`.
    heads, channels
        Heads, and channels of each.
    rho
        Fraction of the work that is saved, 0 <= rho < 1: ``linformer`` keeps (1 - rho) * channels keys and values,
        ``performer`` has as many random features, ``reformer`` has 1 / (1 - rho) buckets, rounded to an even number.

    Returns
    -------
    nn.Module
        With the `forward` of `Mixer`.
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
        A = tanh(GELU(depth-wise convolution of P) W^T)       W: [d, d], shared by all heads
        factors = 1 + alpha A

    Parameters
    ----------
    channels, heads
        Channels and heads of the queries.
    alpha
        Weight of A.
    pool
        Side of the pooled queries and of the kernel. The paper does not state it; keygraph's default is 3.
    """

    def __init__(self, channels: int, heads: int, alpha: float, pool: int) -> None:
        super().__init__()
        self.heads = heads
        self.alpha = alpha
        self.pool = pool
        self.conv = nn.Conv2d(channels, channels, pool, groups=channels, bias=False)
        self.share = nn.Linear(channels // heads, channels // heads, bias=False)

    def forward(self, q: Tensor) -> Tensor:
        """Compute the factors: queries [B, C, H, W] -> [B, C, 1, 1]."""
        pooled = pool_to(pool_to(q, self.pool, 2), self.pool, 3)
        v = functional.gelu(self.conv(pooled))
        a = torch.tanh(self.share(v.view(v.shape[0], self.heads, -1)))
        return 1 + self.alpha * a.view(v.shape)


def pool_to(x: Tensor, bins: int, axis: int) -> Tensor:
    """Apply adaptive max pooling along one axis, as `torch.nn.functional.adaptive_max_pool1d` does.

    Written with slices and maxima, because ONNX has no adaptive pooling for dynamic sizes.

    Parameters
    ----------
    x
        Tensor of any rank.
    bins
        Size of the axis afterwards.
    axis
        The axis to pool.

    Returns
    -------
    Tensor
    """
    size = x.shape[axis]
    borders = ((i * size // bins, ((i + 1) * size + bins - 1) // bins) for i in range(bins))
    return torch.cat([x.narrow(axis, a, b - a).amax(axis, keepdim=True) for a, b in borders], axis)


def strongest(strength: Tensor, heads: int, kept: int) -> Tensor:
    """Return, of each head, the channels of largest strength, in their old order.

    Parameters
    ----------
    strength
        [C], for instance the norms of the weights that compute the values.
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
