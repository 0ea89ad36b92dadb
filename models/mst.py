"""MST, the Mask-guided Spectral-wise Transformer for snapshot compressive imaging (arXiv 2111.07910).

A coded aperture masks the scene, a prism shifts each band by two pixels more than the band before it, and the sensor
records the sum of all bands, the measurement. The network reconstructs the bands. Two variants are released:

* simulation: takes the measurement and the coded aperture, which guides the attention (`MaskGuide`).
* real data: takes the measurement only and starts with a 3x3 convolution (``fution`` in the released code).

State-dict keys are those of the released checkpoints:

    embedding          3x3 convolution, bands -> channels
    encoder_layers.i   0: blocks; 1: 4x4 convolution that halves the size; 2: the same for the mask (simulation only)
    bottleneck         blocks
    decoder_layers.i   0: 2x2 transposed convolution; 1: 1x1 convolution after the skip; 2: blocks
    mapping            3x3 convolution, channels -> bands, added to the input

`SpectralUNet` is also the body of MST++ (`models.mst_plus_plus`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..manifest import ExtraInput
from .architecture import DELICATE_OPERATORS, Architecture, Interface, Published, StateDict
from .channel_attention import (
    GLMHA_PAPER,
    Guide,
    check_attention,
    infer_attention,
    level_attention,
    mixer,
    reduced_channels,
    split_heads,
    strongest,
)
from .configuration import require

#: Shift of each band against the band before it in a measurement, in columns.
DISPERSION = 2

#: Centre wavelengths of the 28 bands in nm, of the CAVE and KAIST cubes that the released models were trained on.
WAVELENGTHS = (
    453.3, 457.6, 462.1, 466.8, 471.6, 476.5, 481.6, 486.9, 492.4, 498.0, 503.9, 509.9, 516.2, 522.7,
    529.5, 536.5, 543.8, 551.4, 558.6, 567.5, 575.3, 584.3, 594.4, 604.2, 614.4, 625.1, 636.3, 648.1,
)  # fmt: skip


@dataclass(frozen=True)
class MSTConfig:
    """Configuration of an MST.

    Attributes
    ----------
    bands
        Bands of the cube. A measurement is `DISPERSION` * (bands - 1) columns wider than the cube.
    channels
        Channels at full size, and of each head at every level; equal to `bands` in the mask-guided variant.
    blocks
        Attention blocks of each level, from full size to the bottleneck.
    mask_guided
        True for the simulation variant, false for the real-data variant.
    attention
        One of `channel_attention.ATTENTIONS`; ``"csa"`` is MST's own.
    reduction
        Fraction rho of keys and values that is saved at each level, 0 <= rho < 1; a level with 0 keeps CSA. Empty for
        ``"csa"``; for other attentions empty means 0.5 at every level.
    alpha, pool
        For ``"glmha"``: weight of the factors, and side of the pooled queries.
    task
        Free text for the manifest.

    Raises
    ------
    InputError
        A value is of the wrong type or out of range, or values contradict each other.
    """

    bands: int = 28
    channels: int = 28
    blocks: tuple[int, ...] = (2, 2, 2)
    mask_guided: bool = True
    attention: str = "csa"
    reduction: tuple[float, ...] = ()
    alpha: float = 0.6
    pool: int = 3
    task: str = "snapshot compressive imaging"

    def __post_init__(self) -> None:
        for name in ("bands", "channels"):
            value = getattr(self, name)
            require(self, name, type(value) is int and value >= 1, "an integer of at least 1")
        check_levels(self)
        require(self, "mask_guided", type(self.mask_guided) is bool, "true or false")
        if self.mask_guided:
            require(self, "channels", self.channels == self.bands, f"the number of bands ({self.bands}) with a mask")

    @property
    def reduced_heads(self) -> tuple[int | None, ...]:
        """Heads of every level, as `channel_attention.preset_reduction` takes them."""
        return tuple(2**level for level in range(len(self.blocks)))

    @property
    def size_multiple(self) -> int:
        """The number that height and width of a cube must be multiples of."""
        return 2 ** (len(self.blocks) - 1)

    @property
    def margin(self) -> int:
        """Columns by which a measurement is wider than its cube: `DISPERSION` * (bands - 1)."""
        return DISPERSION * (self.bands - 1)


class Levels(Protocol):
    """The fields of a configuration that determine the levels of a `SpectralUNet`; see `MSTConfig`."""

    @property
    def channels(self) -> int:
        """Channels at full size, and of each head."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Attention blocks of each level."""

    @property
    def attention(self) -> str:
        """One of `channel_attention.ATTENTIONS`."""

    @property
    def reduction(self) -> tuple[float, ...]:
        """Fraction of keys and values that is saved at each level."""


def check_levels(config: Levels) -> None:
    """Check the fields `blocks`, `attention`, `reduction`, `alpha` and `pool`, and set the default of `reduction`.

    Raises
    ------
    InputError
        A value is of the wrong type or out of range.
    """
    if isinstance(config.blocks, list):  # as configurations come back from JSON
        object.__setattr__(config, "blocks", tuple(config.blocks))
    fits = isinstance(config.blocks, tuple) and all(type(n) is int and n >= 1 for n in config.blocks)
    require(config, "blocks", fits and len(config.blocks) >= 2, "at least two integers of at least 1")
    check_attention(config, [config.channels] * len(config.blocks))


PRESETS: dict[str, MSTConfig] = {
    "mst-s": MSTConfig(blocks=(2, 2, 2)),
    "mst-m": MSTConfig(blocks=(2, 4, 4)),
    "mst-l": MSTConfig(blocks=(4, 7, 5)),
    "mst-s-real": MSTConfig(blocks=(2, 2, 2), mask_guided=False),
    "mst-m-real": MSTConfig(blocks=(2, 4, 4), mask_guided=False),
    "mst-l-real": MSTConfig(blocks=(4, 7, 5), mask_guided=False),
}


def pointwise(x: Tensor, linear: nn.Linear) -> Tensor:
    """Apply a linear layer to the channels of [B, C, H, W], as a 1x1 convolution, which needs no transposition."""
    return functional.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def columns(x: Tensor, first: int, margin: int) -> Tensor:
    """Return W columns of x.

    The end of the slice is counted from the right: it is then a constant for any W, and an exported graph needs no
    arithmetic on sizes.

    Parameters
    ----------
    x
        [..., W + margin].
    first
        The first column, at most `margin`.
    margin
        Columns that are left out.

    Returns
    -------
    Tensor
        [..., W].
    """
    return x[..., first : first - margin or None]


def shear(x: Tensor, group: int, step: int) -> Tensor:
    """Shift groups of channels to the left: group g by g * step columns.

    Pad, flatten, then view with rows of L + step numbers, where a group has L: each group then starts `step` later than
    the one before. Slicing each channel gives the same result, but takes minutes to export.

    Parameters
    ----------
    x
        [B, C, H, W + margin]; the margin is the shift of the last group.
    group
        Channels in a group; the last group may have fewer.
    step
        Shift from one group to the next, in columns.

    Returns
    -------
    Tensor
        [B, C, H, W].
    """
    batch, channels, height, width = x.shape
    groups = -(-channels // group)
    margin = step * (groups - 1)
    if margin == 0:
        return x
    length = group * height * width
    missing = (groups * group - channels) * height * width
    rows = functional.pad(x.flatten(1), (0, missing + groups * step)).view(batch, groups, length + step)
    moved = rows[..., :-step].reshape(batch, groups * group, height, width)
    return moved[:, :channels, :, :-margin]


class MaskGuide(nn.Module):
    """Mask-guided mechanism (section 3.3): weights for the values, from the coded aperture.

    M' = shift(M (1 + sigmoid(DWConv5x5(Conv1x1(M))))), where M is a 1x1 convolution of the dispersed mask.

    Parameters
    ----------
    channels
        Channels of the dispersed mask's features.
    level
        Halvings of the size. The dispersion per channel is `DISPERSION` / 4^level columns, rounded down.
    """

    def __init__(self, channels: int, level: int) -> None:
        super().__init__()
        # Channels with the same shift, and the shift from one such group to the next.
        self.group, self.step = max(1, 4**level // DISPERSION), max(1, DISPERSION // 4**level)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.depth_conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)

    def forward(self, mask: Tensor) -> Tensor:
        """Dispersed mask [B, C, H, W + margin] -> weights [B, C, H, W], with the channels shifted back."""
        features = self.conv1(mask)
        features = features * torch.sigmoid(self.depth_conv(self.conv2(features))) + features
        return shear(features, self.group, self.step)


class Attention(nn.Module):
    """Spectral-wise multi-head self-attention (MS-MSA, section 3.2): the tokens are channels.

    Parameters
    ----------
    config
        The network's configuration.
    level
        Halvings of the size.
    """

    def __init__(self, config: MSTConfig, level: int) -> None:
        super().__init__()
        self.heads = 2**level
        channels, rho = config.channels * self.heads, config.reduction[level] if config.reduction else 0.0
        attention = level_attention(config.attention, rho)
        kept = self.heads * reduced_channels(config.channels, rho) if attention == "glmha" else channels
        self.rescale = nn.Parameter(torch.ones(self.heads, 1, 1))
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, kept, bias=False)
        self.to_v = nn.Linear(channels, kept, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.pos_emb = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        )
        self.mm = MaskGuide(channels, level) if config.mask_guided else None
        self.guide = Guide(channels, self.heads, config.alpha, config.pool) if attention == "glmha" else None
        self.mixer = mixer(attention, self.heads, config.channels, rho)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, C, H, W] and the dispersed mask [B, C, H, W + margin] -> [B, C, H, W]."""
        q = pointwise(x, self.to_q)
        weights = None if self.mm is None else self.mm(mask)
        if self.guide is None:
            v = pointwise(x, self.to_v)
            guided = v if weights is None else v * weights
            # MST computes softmax(k q^T): keys are the rows. A mixer that reduces the columns here reduces queries.
            rows, columns, position = pointwise(x, self.to_k), q, v
        else:
            scaled = x * self.guide(q)
            guided = pointwise(scaled if weights is None else scaled * weights, self.to_v)
            rows, columns, position = q, pointwise(scaled, self.to_k), scaled
        rows, columns, guided = (split_heads(t, self.heads) for t in (rows, columns, guided))
        attended = self.mixer(rows, columns, guided, self.rescale).reshape(x.shape)
        return pointwise(attended, self.proj) + self.pos_emb(position)


class FeedForward(nn.Module):
    """1x1 convolution to four times the channels, depth-wise 3x3 convolution, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.net = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.net(x)


class PreNorm(nn.Module):
    """fn(LN(x)), normalised over the channels."""

    def __init__(self, channels: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.fn(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Blocks(nn.Module):
    """The blocks of a level, each x + Attention(x), then x + FFN(LN(x))."""

    def __init__(self, config: MSTConfig, level: int) -> None:
        super().__init__()
        channels = config.channels * 2**level
        self.blocks = nn.ModuleList(
            nn.ModuleList([Attention(config, level), PreNorm(channels, FeedForward(channels))])
            for _ in range(config.blocks[level])
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, C, H, W] and the level's mask -> [B, C, H, W]."""
        for block in self.blocks:
            attention, feed_forward = block.children()
            x = x + attention(x, mask)
            x = x + feed_forward(x)
        return x


class SpectralUNet(nn.Module):
    """The U-shaped body: bands -> bands at the same size, added to its input.

    Parameters
    ----------
    config
        Its configuration.
    slope
        Negative slope of the leaky ReLU after the embedding; 1 for none.
    """

    def __init__(self, config: MSTConfig, slope: float) -> None:
        super().__init__()
        channels, depth = config.channels, len(config.blocks) - 1
        self.slope = slope
        self.embedding = nn.Conv2d(config.bands, channels, 3, padding=1, bias=False)
        self.encoder_layers = nn.ModuleList()
        self.decoder_layers = nn.ModuleList()
        for level in range(depth):
            fine, coarse = channels * 2**level, channels * 2 ** (level + 1)
            downs = [nn.Conv2d(fine, coarse, 4, 2, 1, bias=False) for _ in range(2 if config.mask_guided else 1)]
            self.encoder_layers.append(nn.ModuleList([Blocks(config, level), *downs]))
        self.bottleneck = Blocks(config, depth)
        for level in reversed(range(depth)):
            fine, coarse = channels * 2**level, channels * 2 ** (level + 1)
            up, fuse = nn.ConvTranspose2d(coarse, fine, 2, 2), nn.Conv2d(coarse, fine, 1, bias=False)
            self.decoder_layers.append(nn.ModuleList([up, fuse, Blocks(config, level)]))
        self.mapping = nn.Conv2d(channels, config.bands, 3, padding=1, bias=False)

    def reconstruct(self, x: Tensor, shifted_mask: Tensor | None = None) -> Tensor:
        """Reconstruct cubes.

        Parameters
        ----------
        x
            Initial estimate of the cube, [B, bands, H, W]; H and W multiples of 2^levels.
        shifted_mask
            The dispersed coded aperture [B or 1, bands, H, W + margin], for mask-guided networks. (The released code
            uses the first mask for the whole batch; here every image has its own.)

        Returns
        -------
        Tensor
            [B, bands, H, W].
        """
        features, mask = self.embedding(x), shifted_mask
        if self.slope != 1:
            features = functional.leaky_relu(features, self.slope)
        skips: list[tuple[Tensor, Tensor | None]] = []
        for layers in self.encoder_layers:
            blocks, down, *mask_down = layers.children()
            features = blocks(features, mask)
            skips.append((features, mask))
            features = down(features)
            if mask is not None:
                mask = mask_down[0](mask)
        features = self.bottleneck(features, mask)
        for layers in self.decoder_layers:
            up, fuse, blocks = layers.children()
            skip, mask = skips.pop()
            features = blocks(fuse(torch.cat([up(features), skip], dim=1)), mask)
        return self.mapping(features) + x


class MST(SpectralUNet):
    """A Mask-guided Spectral-wise Transformer.

    Parameters
    ----------
    config
        Its configuration.
    """

    def __init__(self, config: MSTConfig) -> None:
        super().__init__(config, slope=0.1)
        self.config = config
        if not config.mask_guided:
            self.fution = nn.Conv2d(config.bands, config.bands, 3, padding=1, bias=False)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reconstruct the cubes of a batch of measurements.

        Parameters
        ----------
        image
            Measurements [B, 1, H, W + margin]. Simulation: the sum over the bands. Real data: negative samples set to
            0, then divided by the largest and multiplied by 0.8.
        mask
            The coded aperture [B, 1, H, W] in [0, 1], for the simulation variant only.

        Returns
        -------
        Tensor
            [B, bands, H, W], not clamped.
        """
        if mask is None:
            return self.reconstruct(self.fution(self._undisperse(image)))
        return self.reconstruct(self._undisperse(image / self.config.bands * 2), self._disperse(mask))

    def _undisperse(self, measurement: Tensor) -> Tensor:
        """[B, 1, H, W + margin] -> [B, bands, H, W]: for each band the columns that recorded it."""
        margin = self.config.margin
        return torch.cat([columns(measurement, first, margin) for first in range(0, margin + 1, DISPERSION)], dim=1)

    def _disperse(self, mask: Tensor) -> Tensor:
        """[B, 1, H, W] -> [B, bands, H, W + margin]: the aperture, shifted for each band as the prism shifts it."""
        margin = self.config.margin
        padded = functional.pad(mask, (margin, margin))
        return torch.cat([columns(padded, first, margin) for first in range(margin, -1, -DISPERSION)], dim=1)


def infer_levels(state: StateDict, prefix: str = "") -> dict[str, Any]:
    """Infer the fields `blocks`, `attention`, `reduction` and `pool` of a `SpectralUNet` from its tensors.

    Parameters
    ----------
    state
        A checkpoint's tensors.
    prefix
        Prefix of its keys.

    Raises
    ------
    InputError
        No reduction gives these shapes.
    """
    counts: dict[str, int] = {}
    for key in state:
        match = re.match(rf"({re.escape(prefix)}(?:encoder_layers\.\d+\.0|bottleneck))\.blocks\.(\d+)\.", key)
        if match:
            counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
    levels = [*(f"{prefix}encoder_layers.{level}.0" for level in range(len(counts) - 1)), f"{prefix}bottleneck"]

    def of_head(layer: str, linear: str) -> int:
        return state[f"{layer}.{linear}.weight"].shape[0] // state[f"{layer}.rescale"].shape[0]

    attention = infer_attention(
        state,
        [(f"{level}.blocks.0.0",) for level in levels],
        lambda layer: of_head(layer, "to_q"),
        lambda layer: of_head(layer, "to_v"),
    )
    return {"blocks": tuple(counts[level] for level in levels), **attention}


def infer_config(state: StateDict, given: Mapping[str, Any]) -> MSTConfig:
    """Infer the configuration from the tensors' shapes; values given by the user take precedence.

    Raises
    ------
    InputError
        A value is invalid.
    """
    channels, bands = state["embedding.weight"].shape[:2]
    known = {
        "bands": bands,
        "channels": channels,
        "mask_guided": "fution.weight" not in state,
        **infer_levels(state),
    }
    return MSTConfig(**{**known, **given})


def carry_over(state: StateDict, config: Levels) -> dict[str, Tensor]:
    """Make the linear layers of a GLMHA network from those of the same network with CSA.

    The rows of MST's attention are keys, those of GLMHA are queries, so `to_q` and `to_k` are exchanged. Each head
    keeps the channels with the strongest values: the largest norm of their row in `to_v`.
    """
    carried: dict[str, Tensor] = {}
    for name in (key.removesuffix(".rescale") for key in state if key.endswith(".rescale")):
        heads = state[f"{name}.rescale"].shape[0]
        rho = config.reduction[heads.bit_length() - 1]
        if level_attention(config.attention, rho) == "csa":
            continue
        q, k, v = (state[f"{name}.to_{letter}.weight"] for letter in "qkv")
        kept = strongest(v.norm(dim=1), heads, reduced_channels(config.channels, rho))
        carried |= {f"{name}.to_q.weight": k, f"{name}.to_k.weight": q[kept], f"{name}.to_v.weight": v[kept]}
    return carried


def is_mst(state: StateDict) -> bool:
    """Detect by keys: those of the body, and one that only one of the two variants has."""
    body = "embedding.weight" in state and "mapping.weight" in state
    return body and ("fution.weight" in state or "bottleneck.blocks.0.0.mm.conv1.weight" in state)


def interface(config: MSTConfig) -> Interface:
    """Return the interface: a measurement (and the coded aperture in the simulation variant) to a cube."""
    return Interface(
        task=config.task,
        scale=1,
        in_channels=1,
        out_channels=config.bands,
        value_range=(0.0, 1.0),
        size_multiple=config.size_multiple,
        global_statistics=True,
        normalisation="none" if config.mask_guided else "peak",
        gain=1.0 if config.mask_guided else 0.8,
        margin=(0, config.margin),
        extra_inputs=(ExtraInput("mask", 1),) if config.mask_guided else (),
        clamp=None if config.mask_guided else (0.0, 1.0),
        wavelengths=WAVELENGTHS if config.bands == len(WAVELENGTHS) else (),
    )


#: FP32 patterns: the attention weights, which are sums over all pixels, and the last convolution and sum.
KEEP_FP32 = (*DELICATE_OPERATORS, "*.similarity", "mapping", "Add")

#: Blocks of the body: attentions, feed-forward networks and the norms before them; the layers of a level; what lies
#: between levels.
BODY_BLOCKS = r"embedding|((en|de)coder_layers\.\d+\.\d|bottleneck)(\.blocks\.\d+\.(0|1\.norm|1\.fn))?|mapping"

_README = "caiyuanhao1998/MST, README"

PUBLISHED = (
    Published("0.93 M, 12.96 G", _README, {"blocks": (2, 2, 2), "mask_guided": True, "attention": "csa"}),
    Published("1.50 M, 18.07 G", _README, {"blocks": (2, 4, 4), "mask_guided": True, "attention": "csa"}),
    Published("2.03 M, 28.15 G", _README, {"blocks": (4, 7, 5), "mask_guided": True, "attention": "csa"}),
    Published("MST-L: 27k and 1.14 G less than csa", GLMHA_PAPER, {"blocks": (4, 7, 5), "attention": "glmha"}),
)

ARCHITECTURE = Architecture(
    "mst",
    MSTConfig,
    MST,
    is_mst,
    infer_config,
    interface,
    KEEP_FP32,
    carry_over,
    rf"fution|{BODY_BLOCKS}",
    PUBLISHED,
)
