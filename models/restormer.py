"""Restormer (arXiv 2111.09881); modules and state-dict keys are those of the released checkpoints.

patch_embed                       3x3 convolution, in_channels -> channels
encoder_level1 .. 3, latent       transformer blocks; resolution halves and channels double from level to level
decoder_level3 .. 1, refinement   blocks after the skips; level 1 keeps both halves of its skip: twice the channels
output                            3x3 convolution to the image, added to the input
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from . import channel_attention
from .architecture import DELICATE_OPERATORS, Architecture, Interface, Published, StateDict
from .channel_attention import (
    GLMHA_PAPER,
    Guide,
    Mixer,
    check_attention,
    infer_attention,
    level_attention,
    mixer,
    reduced_channels,
    split_heads,
    strongest,
)
from .configuration import require, shortest_decimal
from .windows import pixel_unshuffle

NORMS = ("WithBias", "BiasFree")

#: Number of resolutions.
LEVELS = 4


@dataclass(frozen=True)
class RestormerConfig:
    """Configuration of a Restormer; the defaults are those of the released checkpoints.

    Attributes
    ----------
    in_channels, out_channels
        Channels of the images; equal, since the input is added to the result, except with `dual_pixel`.
    channels
        Channels at full resolution (`dim` in the released code); they double with every level.
    blocks
        Transformer blocks of levels 1 to 3 (each for encoder and decoder) and of the latent level.
    refinement_blocks
        Transformer blocks at full resolution after the decoder.
    heads
        Attention heads of each level.
    ffn_expansion
        Hidden channels of the gated feed-forward network divided by the channels; the product is rounded down.
    bias
        Whether the convolutions have a bias.
    norm
        Layer normalisation over channels: ``"WithBias"``, or ``"BiasFree"``, which does not subtract the mean.
    dual_pixel
        Whether the image is two views, left and right; features of the input are then added at the end instead of the
        input.
    attention
        One of `channel_attention.ATTENTIONS`; ``"csa"`` is Restormer's own.
    reduction
        Fraction rho of keys and values that is saved, 0 <= rho < 1, at levels 1 to 3 (encoder and decoder), the latent
        level and the refinement; a level with 0 keeps CSA. Empty for ``"csa"``; for other attentions empty means 0.5 at
        every level.
    alpha, pool
        For ``"glmha"``: weight of the factors, and side of the pooled queries.
    task
        Free text for the manifest, for instance ``"deraining"``.

    Raises
    ------
    InputError
        A value is of the wrong type or out of range, or values contradict each other.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 48
    blocks: tuple[int, ...] = (4, 6, 6, 8)
    refinement_blocks: int = 4
    heads: tuple[int, ...] = (1, 2, 4, 8)
    ffn_expansion: float = 2.66
    bias: bool = False
    norm: str = "WithBias"
    dual_pixel: bool = False
    attention: str = "csa"
    reduction: tuple[float, ...] = ()
    alpha: float = 0.6
    pool: int = 3
    task: str = ""

    def __post_init__(self) -> None:
        # From JSON, tuples come as lists.
        for name in ("blocks", "heads"):
            values = getattr(self, name)
            fits = isinstance(values, (tuple, list)) and len(values) == LEVELS
            fits = fits and all(type(n) is int and n >= 1 for n in values)
            require(self, name, fits, f"{LEVELS} integers of at least 1")
            object.__setattr__(self, name, tuple(values))
        for name in ("in_channels", "out_channels", "channels", "refinement_blocks"):
            value = getattr(self, name)
            require(self, name, type(value) is int and value >= 1, "an integer of at least 1")
        require(self, "channels", self.channels % 2 == 0, "even")
        divisible = all(self.channels * 2**i % heads == 0 for i, heads in enumerate(self.heads))
        require(self, "channels", divisible, f"a multiple of heads at every level, where it doubles ({self.heads})")
        number = type(self.ffn_expansion) in (int, float) and self.ffn_expansion * self.channels >= 1
        require(self, "ffn_expansion", number, "a number, at least 1 / channels")
        for name in ("bias", "dual_pixel"):
            require(self, name, type(getattr(self, name)) is bool, "true or false")
        require(self, "norm", self.norm in NORMS, f"one of {', '.join(NORMS)}")
        if self.dual_pixel:
            require(self, "in_channels", self.in_channels % 2 == 0, "even for dual_pixel: a left and a right view")
        else:
            same = self.in_channels == self.out_channels
            require(self, "in_channels", same, f"out_channels ({self.out_channels}), unless dual_pixel is true")
        per_head = [self.channels * 2**level // heads for level, heads in enumerate(self.heads)]
        check_attention(self, (*per_head, 2 * per_head[0]))

    @property
    def reduced_heads(self) -> tuple[int | None, ...]:
        """Heads for every entry of `reduction`, as `channel_attention.preset_reduction` takes them."""
        return (*self.heads, None)


PRESETS: dict[str, RestormerConfig] = {
    "restormer": RestormerConfig(),
    "restormer-dual-pixel": RestormerConfig(in_channels=6, dual_pixel=True, task="dual-pixel defocus deblurring"),
    "restormer-denoising": RestormerConfig(norm="BiasFree", task="denoising"),
    "restormer-gray-denoising": RestormerConfig(in_channels=1, out_channels=1, norm="BiasFree", task="denoising"),
}


class WithBiasNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y = functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-5)
        return y.permute(0, 3, 1, 2)


class BiasFreeNorm(nn.Module):
    """Division by the standard deviation over the channels of each pixel, without subtracting the mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        centred = x - x.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        return x / torch.sqrt(variance + 1e-5) * self.weight[:, None, None]


class LayerNorm(nn.Module):
    """`WithBiasNorm` or `BiasFreeNorm`, under the released key `body`."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.body = WithBiasNorm(channels) if norm == "WithBias" else BiasFreeNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.body(x)


class Attention(nn.Module):
    """Attention between channels (MDTA, equation 1): q, k and v by 1x1 and depth-wise 3x3 convolutions."""

    def __init__(self, config: RestormerConfig, channels: int, heads: int, rho: float) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=config.bias)
        self.qkv_dwconv = depthwise(3 * channels, config.bias)
        self.mixer = mixer(level_attention(config.attention, rho), heads, channels // heads, rho)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        q, k, v = (split_heads(y, self.heads) for y in self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1))
        return self.project_out(self.mixer(q, k, v, self.temperature).reshape(x.shape))


class GuidedAttention(nn.Module):
    """GLMHA: factors from the queries (`Guide`) scale the input, from which fewer keys and values are computed."""

    def __init__(self, config: RestormerConfig, channels: int, heads: int, rho: float) -> None:
        super().__init__()
        self.heads = heads
        kept = heads * reduced_channels(channels // heads, rho)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.q = nn.Conv2d(channels, channels, 1, bias=config.bias)
        self.q_dwconv = depthwise(channels, config.bias)
        self.guide = Guide(channels, heads, config.alpha, config.pool)
        self.kv = nn.Conv2d(channels, 2 * kept, 1, bias=config.bias)
        self.kv_dwconv = depthwise(2 * kept, config.bias)
        self.mixer = Mixer()
        self.project_out = nn.Conv2d(channels, channels, 1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        q = self.q_dwconv(self.q(x))
        k, v = self.kv_dwconv(self.kv(x * self.guide(q))).chunk(2, dim=1)
        q, k, v = (split_heads(y, self.heads) for y in (q, k, v))
        return self.project_out(self.mixer(q, k, v, self.temperature).reshape(x.shape))


def depthwise(channels: int, bias: bool) -> nn.Conv2d:
    """Return a depth-wise 3x3 convolution."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


class FeedForward(nn.Module):
    """Gated feed-forward network with a depth-wise 3x3 convolution (GDFN, equation 2)."""

    def __init__(self, channels: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=bias)
        self.dwconv = depthwise(2 * hidden, bias)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        gate, y = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(functional.gelu(gate) * y)


class Block(nn.Module):
    """x + Attention(LN(x)), then x + FFN(LN(x))."""

    def __init__(self, config: RestormerConfig, channels: int, heads: int, rho: float) -> None:
        super().__init__()
        attention = GuidedAttention if level_attention(config.attention, rho) == "glmha" else Attention
        self.norm1 = LayerNorm(channels, config.norm)
        self.attn = attention(config, channels, heads, rho)
        self.norm2 = LayerNorm(channels, config.norm)
        self.ffn = FeedForward(channels, config.ffn_expansion, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class PatchEmbed(nn.Module):
    """3x3 convolution, under the released key `proj`."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, H, W] -> [B, channels, H, W]."""
        return self.proj(x)


class PixelUnshuffle(nn.Module):
    """`windows.pixel_unshuffle` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 2 H, 2 W] -> [B, 4 C, H, W]."""
        return pixel_unshuffle(x)


class Down(nn.Module):
    """Half the resolution, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), PixelUnshuffle())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 2 C, H / 2, W / 2]."""
        return self.body(x)


class Up(nn.Module):
    """Twice the resolution, half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels * 2, 3, padding=1, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C / 2, 2 H, 2 W]."""
        return self.body(x)


class Restormer(nn.Module):
    """A Restormer.

    Parameters
    ----------
    config
        Its configuration.
    """

    def __init__(self, config: RestormerConfig) -> None:
        super().__init__()
        self.config = config
        c1, c2, c3, c4 = (config.channels * 2**level for level in range(LEVELS))
        b1, b2, b3, b4 = config.blocks
        h1, h2, h3, h4 = config.heads
        r1, r2, r3, r4, refined = config.reduction or (0.0,) * (LEVELS + 1)

        def blocks(count: int, channels: int, heads: int, rho: float) -> nn.Sequential:
            return nn.Sequential(*(Block(config, channels, heads, rho) for _ in range(count)))

        self.patch_embed = PatchEmbed(config.in_channels, c1)
        self.encoder_level1 = blocks(b1, c1, h1, r1)
        self.down1_2 = Down(c1)
        self.encoder_level2 = blocks(b2, c2, h2, r2)
        self.down2_3 = Down(c2)
        self.encoder_level3 = blocks(b3, c3, h3, r3)
        self.down3_4 = Down(c3)
        self.latent = blocks(b4, c4, h4, r4)
        self.up4_3 = Up(c4)
        self.reduce_chan_level3 = nn.Conv2d(c4, c3, 1, bias=config.bias)
        self.decoder_level3 = blocks(b3, c3, h3, r3)
        self.up3_2 = Up(c3)
        self.reduce_chan_level2 = nn.Conv2d(c3, c2, 1, bias=config.bias)
        self.decoder_level2 = blocks(b2, c2, h2, r2)
        self.up2_1 = Up(c2)
        self.decoder_level1 = blocks(b1, c2, h1, r1)
        self.refinement = blocks(config.refinement_blocks, c2, h1, refined)
        if config.dual_pixel:
            self.skip_conv = nn.Conv2d(c1, c2, 1, bias=config.bias)
        self.output = nn.Conv2d(c2, config.out_channels, 3, padding=1, bias=config.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Restore a batch of images.

        Parameters
        ----------
        image
            float [B, in_channels, H, W], nominally in [0, 1]; H and W multiples of 8. For dual pixels the channels of
            the left view, then those of the right.

        Returns
        -------
        Tensor
            [B, out_channels, H, W], not clamped.
        """
        embedded = self.patch_embed(image)
        skip1 = self.encoder_level1(embedded)
        skip2 = self.encoder_level2(self.down1_2(skip1))
        skip3 = self.encoder_level3(self.down2_3(skip2))
        x = self.latent(self.down3_4(skip3))
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(x), skip3], 1)))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([self.up3_2(x), skip2], 1)))
        x = self.decoder_level1(torch.cat([self.up2_1(x), skip1], 1))
        x = self.refinement(x)
        if self.config.dual_pixel:
            return self.output(x + self.skip_conv(embedded))
        return self.output(x) + image


def infer_config(state: StateDict, given: Mapping[str, Any]) -> RestormerConfig:
    """Infer the configuration from the tensors' shapes; values given by the user take precedence.

    The task comes from the preset with the same configuration, if there is one.

    Raises
    ------
    InputError
        No configuration has these shapes.
    """
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    channels, in_channels = state["patch_embed.proj.weight"].shape[:2]
    hidden = [state[f"{level}.0.ffn.project_out.weight"].shape[1] for level in levels]
    attention = infer_attention(
        state,
        # The decoder has twice the encoder's channels at level 1.
        [(f"{levels[0]}.0.attn", "decoder_level1.0.attn"), *((f"{i}.0.attn",) for i in (*levels[1:], "refinement"))],
        lambda layer: state[f"{layer}.project_out.weight"].shape[0] // state[f"{layer}.temperature"].shape[0],
        lambda layer: state[f"{layer}.kv.weight"].shape[0] // 2 // state[f"{layer}.temperature"].shape[0],
    )
    known: dict[str, Any] = {
        "in_channels": in_channels,
        "out_channels": state["output.weight"].shape[0],
        "channels": channels,
        "blocks": tuple(_count(state, level) for level in levels),
        "refinement_blocks": _count(state, "refinement"),
        "heads": tuple(state[f"{level}.0.attn.temperature"].shape[0] for level in levels),
        "ffn_expansion": _expansion([channels * 2**level for level in range(LEVELS)], hidden),
        "bias": "output.bias" in state,
        "norm": "WithBias" if "encoder_level1.0.norm1.body.bias" in state else "BiasFree",
        "dual_pixel": "skip_conv.weight" in state,
        **attention,
    }
    config = RestormerConfig(**known)
    task = next((preset.task for preset in PRESETS.values() if replace(preset, task="") == config), "")
    return replace(config, **{"task": task, **given})


def carry_over(state: StateDict, config: RestormerConfig) -> dict[str, Tensor]:
    """Make the q and kv convolutions of a GLMHA network from those of the same network with CSA.

    All queries are kept. Each head keeps keys and values of the channels with the strongest values: the largest norm of
    the row of the 1x1 convolution times the norm of the 3x3 kernel.
    """
    levels = {"encoder_level1": 0, "encoder_level2": 1, "encoder_level3": 2, "latent": 3}
    levels |= {"decoder_level3": 2, "decoder_level2": 1, "decoder_level1": 0, "refinement": LEVELS}
    carried = {}
    for name in (key.removesuffix(".qkv.weight") for key in state if key.endswith(".qkv.weight")):
        rho = config.reduction[levels[name.partition(".")[0]]]
        if level_attention(config.attention, rho) == "csa":
            continue
        heads = state[f"{name}.temperature"].shape[0]
        pointwise, kernel = (state[f"{name}.{layer}.weight"].flatten(1).norm(dim=1) for layer in ("qkv", "qkv_dwconv"))
        channels = pointwise.shape[0] // 3
        values = (pointwise * kernel)[2 * channels :]
        kept = strongest(values, heads, reduced_channels(channels // heads, rho))
        rows = torch.cat([kept + channels, kept + 2 * channels])
        for layer, suffix in ((layer, suffix) for layer in ("", "_dwconv") for suffix in ("weight", "bias")):
            tensor = state.get(f"{name}.qkv{layer}.{suffix}")
            if tensor is not None:
                carried[f"{name}.q{layer}.{suffix}"] = tensor[:channels]
                carried[f"{name}.kv{layer}.{suffix}"] = tensor[rows]
    return carried


def _count(state: StateDict, level: str) -> int:
    """Count the blocks of a level."""
    found = (re.match(rf"{level}\.(\d+)\.", key) for key in state)
    return 1 + max(int(match[1]) for match in found if match)


def _expansion(channels: list[int], hidden: list[int]) -> float:
    """Return the shortest decimal that gives all these hidden sizes."""
    value = shortest_decimal(
        max(h / c for h, c in zip(hidden, channels, strict=True)),
        lambda value: all(int(c * value) == h for h, c in zip(hidden, channels, strict=True)),
    )
    if value is None:
        raise InputError(f"no ffn_expansion gives hidden sizes {hidden} for {channels} channels")
    return value


def is_restormer(state: StateDict) -> bool:
    """Detect by keys."""
    return "patch_embed.proj.weight" in state and "encoder_level1.0.attn.temperature" in state


def interface(config: RestormerConfig) -> Interface:
    """Return the interface: images in [0, 1], with attention that sums over all pixels."""
    return Interface(
        task=config.task,
        scale=1,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        value_range=(0.0, 1.0),
        size_multiple=2 ** (LEVELS - 1),
        global_statistics=True,
        views=("left", "right") if config.dual_pixel else (),
        clamp=(0.0, 1.0),
    )


#: FP32 patterns: norms; sums over pixels in the attention (`channel_attention.KEEP_FP32`); the last convolution and the
#: sum with the image.
KEEP_FP32 = (*DELICATE_OPERATORS, *channel_attention.KEEP_FP32, "*.norm1", "*.norm2", "output", "Add")

BLOCKS = (
    r"patch_embed|(encoder_level\d|latent|decoder_level\d|refinement)\.\d+(\.\w+)?|"
    r"(down|up)\d_\d|reduce_chan_\w+|skip_conv|output"
)

_PUBLISHED_SHAPE = {
    "in_channels": 3,
    "channels": 48,
    "blocks": (4, 6, 6, 8),
    "refinement_blocks": 4,
    "dual_pixel": False,
}
_CSA, _GLMHA = {**_PUBLISHED_SHAPE, "attention": "csa"}, {**_PUBLISHED_SHAPE, "attention": "glmha"}

PUBLISHED = (
    Published("140.99 G, without attention products", GLMHA_PAPER, _CSA),
    Published("motion deblurring: 370k and 7.72 G less than csa", GLMHA_PAPER, _GLMHA),
    Published("deraining: 350k and 6.46 G less than csa", GLMHA_PAPER, _GLMHA),
)

ARCHITECTURE = Architecture(
    "restormer",
    RestormerConfig,
    Restormer,
    is_restormer,
    infer_config,
    interface,
    KEEP_FP32,
    carry_over,
    BLOCKS,
    PUBLISHED,
)
