"""MST++, the Multi-stage Spectral-wise Transformer: a cube of 31 bands from an RGB picture (arXiv 2204.07908).

State-dict keys are those of the released checkpoints:

    conv_in     3x3 convolution, in_channels -> channels
    body.i      stages, each a `models.mst.SpectralUNet` without mask
    conv_out    3x3 convolution, channels -> out_channels, added to the result of `conv_in`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .architecture import DELICATE_OPERATORS, Architecture, Interface, Published, StateDict
from .channel_attention import GLMHA_PAPER
from .configuration import require
from .mst import BODY_BLOCKS, MSTConfig, SpectralUNet, carry_over, check_levels, infer_levels

#: Centre wavelengths of the 31 bands in nm (NTIRE 2022 spectral reconstruction challenge, ARAD_1K).
WAVELENGTHS = tuple(400.0 + 10 * band for band in range(31))


@dataclass(frozen=True)
class MSTPlusPlusConfig:
    """Configuration of an MST++; the defaults are those of the released model.

    Attributes
    ----------
    in_channels
        Channels of the picture.
    out_channels
        Bands of the cube; equal to `channels`, because of the sum at the end.
    channels
        Channels of the stages at full size, and of each head at every level.
    stages
        Number of consecutive U-shaped stages.
    blocks
        Attention blocks of each level of every stage, from full size to the bottleneck.
    attention, reduction, alpha, pool
        As in `models.mst.MSTConfig`, the same for every stage.
    task
        Free text for the manifest.

    Raises
    ------
    InputError
        A value is of the wrong type or out of range, or values contradict each other.
    """

    in_channels: int = 3
    out_channels: int = 31
    channels: int = 31
    stages: int = 3
    blocks: tuple[int, ...] = (1, 1, 1)
    attention: str = "csa"
    reduction: tuple[float, ...] = ()
    alpha: float = 0.6
    pool: int = 3
    task: str = "spectral reconstruction"

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "channels", "stages"):
            value = getattr(self, name)
            require(self, name, type(value) is int and value >= 1, "an integer of at least 1")
        require(self, "out_channels", self.out_channels == self.channels, f"the same as channels ({self.channels})")
        check_levels(self)

    @property
    def stage(self) -> MSTConfig:
        """Configuration of a stage."""
        same = ("channels", "blocks", "attention", "reduction", "alpha", "pool")
        return MSTConfig(bands=self.channels, mask_guided=False, **{name: getattr(self, name) for name in same})

    @property
    def reduced_heads(self) -> tuple[int | None, ...]:
        """Heads of every level, as `channel_attention.preset_reduction` takes them."""
        return self.stage.reduced_heads

    @property
    def size_multiple(self) -> int:
        """The number that height and width must be multiples of: at least 8, to which the released code pads."""
        return max(8, self.stage.size_multiple)


class Stage(SpectralUNet):
    """One stage: a `SpectralUNet` without mask and without an activation after the embedding."""

    def __init__(self, config: MSTConfig) -> None:
        super().__init__(config, slope=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, channels, H, W]."""
        return self.reconstruct(x)


class MSTPlusPlus(nn.Module):
    """A Multi-stage Spectral-wise Transformer.

    Parameters
    ----------
    config
        Its configuration.
    """

    def __init__(self, config: MSTPlusPlusConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_in = nn.Conv2d(config.in_channels, config.channels, 3, padding=1, bias=False)
        self.body = nn.Sequential(*(Stage(config.stage) for _ in range(config.stages)))
        self.conv_out = nn.Conv2d(config.channels, config.out_channels, 3, padding=1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct the cubes of a batch of pictures.

        Parameters
        ----------
        image
            [B, in_channels, H, W], each image scaled so that its smallest sample is 0 and its largest 1; H and W
            multiples of `config.size_multiple`.

        Returns
        -------
        Tensor
            [B, out_channels, H, W], not clamped.
        """
        x = self.conv_in(image)
        return self.conv_out(self.body(x)) + x


def infer_config(state: StateDict, given: Mapping[str, Any]) -> MSTPlusPlusConfig:
    """Infer the configuration from the tensors' shapes; values given by the user take precedence.

    Raises
    ------
    InputError
        A value is invalid.
    """
    channels, in_channels = state["conv_in.weight"].shape[:2]
    known = {
        "in_channels": in_channels,
        "out_channels": state["conv_out.weight"].shape[0],
        "channels": channels,
        "stages": len({match[1] for key in state if (match := re.match(r"body\.(\d+)\.", key))}),
        **infer_levels(state, "body.0."),
    }
    return MSTPlusPlusConfig(**{**known, **given})


def is_mst_plus_plus(state: StateDict) -> bool:
    """Detect by keys."""
    return {"conv_in.weight", "conv_out.weight", "body.0.embedding.weight"} <= state.keys()


def interface(config: MSTPlusPlusConfig) -> Interface:
    """Return the interface: a picture, normalised to its own range, to a cube."""
    return Interface(
        task=config.task,
        scale=1,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        value_range=(0.0, 1.0),
        size_multiple=config.size_multiple,
        global_statistics=True,
        normalisation="range",
        clamp=(0.0, 1.0),
        wavelengths=WAVELENGTHS if config.out_channels == len(WAVELENGTHS) else (),
    )


#: FP32 patterns: the attention weights, which are sums over all pixels, and the last convolution and sum.
KEEP_FP32 = (*DELICATE_OPERATORS, "*.similarity", "conv_out", "Add")

_PUBLISHED_SHAPE = {"stages": 3, "blocks": (1, 1, 1), "channels": 31}

PUBLISHED = (
    Published("1.62 M, 23.05 G", "caiyuanhao1998/MST-plus-plus, README", {**_PUBLISHED_SHAPE, "attention": "csa"}),
    Published("20k and 0.92 G less than csa", GLMHA_PAPER, {**_PUBLISHED_SHAPE, "attention": "glmha"}),
)

ARCHITECTURE = Architecture(
    "mst_plus_plus",
    MSTPlusPlusConfig,
    MSTPlusPlus,
    is_mst_plus_plus,
    infer_config,
    interface,
    KEEP_FP32,
    carry_over,
    rf"conv_in|body\.\d+(\.({BODY_BLOCKS}))?|conv_out",
    PUBLISHED,
)
