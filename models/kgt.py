"""KGT, the Key-Graph Transformer (arXiv 2402.02634; also published as SemanIR, arXiv 2405.20008).

The authors' model code is not public, so this module defines the layout of modules and state-dict keys:

    head          3x3 convolution, in_channels -> channels
    body.i        stages: windows, one key graph, layers that share it, 3x3 convolution; residual
    downs, ups    U-shaped body only: changes of resolution, with 1x1 convolutions `fuses` after the skips
    tail          3x3 convolution to the image, added to the input; for super-resolution the pixel-shuffle upsampler

What the papers leave open is a field of `KGTConfig`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..manifest import Neighbours
from ..plugins.torch import key_graph, key_graph_attention
from .architecture import DELICATE_OPERATORS, Architecture, Interface, StateDict
from .configuration import require
from .heads import pad_heads, padded_size
from .windows import merge_windows, partition_windows, pixel_unshuffle, rotate

BODIES = ("columnar", "unet")
SIMILARITIES = ("dot", "cosine")


@dataclass(frozen=True)
class KGTConfig:
    """Configuration of a KGT.

    Attributes
    ----------
    body
        ``"columnar"`` (V1: every stage at full resolution, for super-resolution) or ``"unet"`` (V2: down stages,
        bottleneck, up stages with skips, a final stage; for restoration at the same size).
    layers
        Transformer layers of each stage. Columnar: any number of stages. U-shaped with L down stages: 2 L + 2 entries,
        down 1..L, bottleneck, up L..1, final.
    channels, heads
        Channels and heads at full resolution; both double with every down stage, so the head size is constant.
    window
        Side of the square windows at every level; a window has N = window^2 nodes.
    k
        Default number of neighbours that each node keeps.
    k_trained
        The values that training drew k from; empty when unknown.
    in_channels, out_channels, scale
        Channels of the images, and the scale, 1 to 4 (only 1 for the U-shaped body).
    shift
        Whether every second stage uses windows shifted by half a window, wrapped around the image's edge.
    position_bias
        Whether a learned relative-position bias is added to the scores. Off by default: it takes H x N x N numbers per
        layer, more than anything else in a sparse layer.
    ffn_ratio
        Hidden size of the FFN divided by the channels.
    similarity
        ``"dot"`` (S = X X^T, the papers') or ``"cosine"``.
    task
        Free text for the manifest, for instance ``"denoising"``.

    Raises
    ------
    InputError
        A value is of the wrong type or out of range, or values contradict each other.
    """

    body: str = "columnar"
    layers: tuple[int, ...] = (4, 4, 4, 4)
    channels: int = 60
    heads: int = 6
    window: int = 16
    k: int = 128
    k_trained: tuple[int, ...] = ()
    in_channels: int = 3
    out_channels: int = 3
    scale: int = 1
    shift: bool = True
    position_bias: bool = False
    ffn_ratio: float = 2.0
    similarity: str = "dot"
    task: str = ""

    def __post_init__(self) -> None:
        # From JSON, tuples come as lists.
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "k_trained", tuple(self.k_trained))
        require(self, "body", self.body in BODIES, f"one of {', '.join(BODIES)}")
        require(self, "similarity", self.similarity in SIMILARITIES, f"one of {', '.join(SIMILARITIES)}")
        for name in ("channels", "heads", "window", "k", "in_channels", "out_channels"):
            value = getattr(self, name)
            require(self, name, type(value) is int and value >= 1, "an integer of at least 1")
        require(self, "window", self.window <= 64, "at most 64")
        positive = all(type(n) is int and n >= 1 for n in self.layers + self.k_trained)
        require(self, "layers", positive and len(self.layers) >= 1, "integers of at least 1 (like k_trained)")
        require(self, "channels", self.channels % self.heads == 0, f"a multiple of heads ({self.heads})")
        require(self, "scale", self.scale in (1, 2, 3, 4), "1, 2, 3 or 4")
        require(self, "ffn_ratio", self.ffn_ratio > 0, "positive")
        if self.body == "unet":
            even = len(self.layers) >= 4 and len(self.layers) % 2 == 0
            require(self, "layers", even, "2 L + 2 entries for a U-shaped body: down 1..L, bottleneck, up L..1, final")
            require(self, "scale", self.scale == 1, "1 for a U-shaped body")
            require(self, "channels", self.channels % 2 == 0, "even for a U-shaped body")

    @property
    def levels(self) -> int:
        """Halvings of the resolution."""
        return (len(self.layers) - 2) // 2 if self.body == "unet" else 0

    @property
    def nodes(self) -> int:
        """Nodes in a window, N."""
        return self.window**2

    @property
    def size_multiple(self) -> int:
        """The number that height and width of an input must be multiples of."""
        return self.window * 2**self.levels


PAPER_K = (64, 128, 192, 256, 384, 512)

PRESETS: dict[str, KGTConfig] = {
    "kgt-small-sr": KGTConfig(
        body="columnar",
        layers=(6,) * 4,
        channels=60,
        heads=6,
        window=32,
        k=256,
        k_trained=PAPER_K,
        scale=4,
        task="super-resolution",
    ),
    "kgt-base-sr": KGTConfig(
        body="columnar",
        layers=(6,) * 6,
        channels=180,
        heads=6,
        window=32,
        k=256,
        k_trained=PAPER_K,
        scale=4,
        task="super-resolution",
    ),
    "kgt-small": KGTConfig(
        body="unet",
        layers=(2, 4, 4, 6, 4, 4, 2, 2),
        channels=32,
        heads=2,
        window=16,
        k=128,
        k_trained=PAPER_K[:4],
        task="restoration",
    ),
    "kgt-base": KGTConfig(
        body="unet",
        layers=(4, 6, 6, 8, 6, 6, 4, 4),
        channels=48,
        heads=2,
        window=16,
        k=128,
        k_trained=PAPER_K[:4],
        task="restoration",
    ),
}


class Attention(nn.Module):
    """Multi-head attention of each node i to its neighbours j in the key graph: softmax(q_i k_j^T / sqrt(D)) v_j."""

    def __init__(self, channels: int, heads: int, window: int, position_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.head_size = channels // heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.position_bias = PositionBias(heads, window) if position_bias else None

    def forward(self, tokens: Tensor, graph: Tensor) -> Tensor:
        """[W N, C] and int32[W, 1, N, ceil(N/32)] -> [W N, C]."""
        nodes, size = graph.shape[2], run_size(self.head_size, tokens)
        width = self.heads * size
        weight, bias = (pad_heads(each, 3 * self.heads, size) for each in (self.qkv.weight, self.qkv.bias))
        # Three products with the thirds of the weight: their results are contiguous, slices of one product are not.
        thirds = [slice(i * width, (i + 1) * width) for i in range(3)]
        q, k, v = (nn.functional.linear(tokens, weight[t], bias[t]).view(-1, nodes, width) for t in thirds)
        position_bias = self.position_bias() if self.position_bias is not None else None
        scale = self.head_size**-0.5
        attended = key_graph_attention(q, k, v, graph, position_bias, scale, heads=self.heads).view(-1, width)
        if size == self.head_size:
            return self.project(attended)  # Called as a module, after which the exported node is named.
        return nn.functional.linear(attended, pad_heads(self.project.weight, self.heads, size, 1), self.project.bias)


def run_size(size: int, tokens: Tensor) -> int:
    """Return the channels of a head to compute with: `size`, padded on a GPU in half precision."""
    return padded_size(size) if tokens.is_cuda and tokens.element_size() == 2 else size


class PositionBias(nn.Module):
    """Relative-position bias as in the Swin Transformer (arXiv 2103.14030, section 3.2)."""

    index: Tensor

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(heads, (2 * window - 1) ** 2))
        nn.init.trunc_normal_(self.table, std=0.02)
        place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        offset = place[:, :, None] - place[:, None, :] + window - 1
        self.register_buffer("index", offset[0] * (2 * window - 1) + offset[1], persistent=False)

    def forward(self) -> Tensor:
        """Return the bias [H, N, N]."""
        return self.table[:, self.index]


class FeedForward(nn.Module):
    """Linear, GELU, Linear, on each token."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.activation = nn.GELU()
        self.reduce = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[W N, C] -> [W N, C]."""
        return self.reduce(self.activation(self.expand(tokens)))


class Layer(nn.Module):
    """x + Attention(LN(x)), then x + FFN(LN(x)), on tokens: the nodes of all windows in sequence.

    Tokens have two dimensions, so that engines compute a linear layer with its bias as one matrix product.
    """

    def __init__(self, config: KGTConfig, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads, config.window, config.position_bias)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, round(channels * config.ffn_ratio))

    def forward(self, tokens: Tensor, graph: Tensor) -> Tensor:
        """[W N, C] and int32[W, 1, N, ceil(N/32)] -> [W N, C], for W windows of N nodes."""
        tokens = tokens + self.attention(self.norm1(tokens), graph)
        return tokens + self.ffn(self.norm2(tokens))


class Stage(nn.Module):
    """Windows, one key graph that all layers share, and a 3x3 convolution across window borders; residual."""

    def __init__(self, config: KGTConfig, layers: int, level: int, shifted: bool) -> None:
        super().__init__()
        channels, heads = config.channels * 2**level, config.heads * 2**level
        self.window = config.window
        self.shift = config.window // 2 if shifted else 0
        self.similarity = config.similarity
        self.layers = nn.ModuleList(Layer(config, channels, heads) for _ in range(layers))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """[B, C, H, W] and int64[1] -> [B, C, H, W]."""
        nodes = partition_windows(rotate(x, self.shift) if self.shift else x, self.window)
        graph = self.graph(nodes, k)
        tokens = nodes.flatten(0, 1)
        for layer in self.layers:
            tokens = layer(tokens, graph)
        y = merge_windows(tokens, self.window, x.shape[2], x.shape[3])
        return x + self.conv(rotate(y, -self.shift) if self.shift else y)

    def graph(self, nodes: Tensor, k: Tensor) -> Tensor:
        """Compute the key graph: the k largest of S = X X^T for each node.

        Windows [W, N, C] and int64[1] -> int32[W, 1, N, ceil(N/32)].
        """
        if self.similarity == "cosine":
            nodes = nn.functional.normalize(nodes, dim=-1)
        nodes = nodes.unsqueeze(1)
        return key_graph(nodes, nodes, k)


class Down(nn.Module):
    """Half the resolution, twice the channels: 3x3 convolution, pixel-unshuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 2 C, H / 2, W / 2]."""
        return pixel_unshuffle(self.conv(x))


class Up(nn.Module):
    """Twice the resolution, half the channels: 3x3 convolution, pixel-shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C / 2, 2 H, 2 W]."""
        return nn.functional.pixel_shuffle(self.conv(x), 2)


class Upsampler(nn.Module):
    """Features to the super-resolved image: 3x3 convolution, pixel-shuffle by the whole scale, 3x3 convolution."""

    def __init__(self, channels: int, out_channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Conv2d(channels, channels * scale**2, 3, padding=1)
        self.image = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out_channels, scale * H, scale * W]."""
        return self.image(nn.functional.pixel_shuffle(self.expand(x), self.scale))


class KGT(nn.Module):
    """A Key-Graph Transformer.

    Parameters
    ----------
    config
        Its configuration.
    """

    def __init__(self, config: KGTConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.head = nn.Conv2d(config.in_channels, channels, 3, padding=1)
        self.body = nn.ModuleList(
            Stage(config, layers, level, config.shift and i % 2 == 1)
            for i, (layers, level) in enumerate(zip(config.layers, stage_levels(config), strict=True))
        )
        self.downs = nn.ModuleList(Down(channels * 2**level) for level in range(config.levels))
        self.ups = nn.ModuleList(Up(channels * 2**level) for level in range(config.levels, 0, -1))
        self.fuses = nn.ModuleList(
            nn.Conv2d(channels * 2 ** (level + 1), channels * 2**level, 1) for level in reversed(range(config.levels))
        )
        if config.scale == 1:
            self.tail: nn.Module = nn.Conv2d(channels, config.out_channels, 3, padding=1)
        else:
            self.tail = Upsampler(channels, config.out_channels, config.scale)

    def forward(self, image: Tensor, k: Tensor | int | None = None) -> Tensor:
        """Restore a batch of images.

        Parameters
        ----------
        image
            float [B, in_channels, H, W], nominally in [0, 1]; H and W multiples of `config.size_multiple`.
        k
            Neighbours that each node keeps, an integer or int64[1], at least 1; `config.k` by default.

        Returns
        -------
        Tensor
            [B, out_channels, scale * H, scale * W], not clamped.
        """
        if k is None:
            k = self.config.k
        if not isinstance(k, Tensor):
            k = torch.tensor([k], dtype=torch.int64)
        x = self.head(image)
        features = self._unet(x, k) if self.config.body == "unet" else self._columnar(x, k)
        if self.config.scale == 1 and self.config.in_channels == self.config.out_channels:
            return image + self.tail(features)
        return self.tail(features)

    def _columnar(self, x: Tensor, k: Tensor) -> Tensor:
        y = x
        for stage in self.body:
            y = stage(y, k)
        return x + y

    def _unet(self, x: Tensor, k: Tensor) -> Tensor:
        stages = iter(self.body)
        skips = []
        for down in self.downs:
            x = next(stages)(x, k)
            skips.append(x)
            x = down(x)
        x = next(stages)(x, k)
        for up, fuse in zip(self.ups, self.fuses, strict=True):
            x = fuse(torch.cat([up(x), skips.pop()], dim=1))
            x = next(stages)(x, k)
        return next(stages)(x, k)


def stage_levels(config: KGTConfig) -> list[int]:
    """Return the level of each stage: 0, 1, ..., L, ..., 1, 0, 0 for a U-shaped body, 0 for all of a columnar one."""
    down = list(range(config.levels))
    return [*down, config.levels, *reversed(down), 0] if config.body == "unet" else [0] * len(config.layers)


def infer_config(state: StateDict, given: Mapping[str, Any]) -> KGTConfig:
    """Infer the configuration from the tensors' shapes; values given by the user take precedence.

    Shapes do not determine heads and window (except with a position bias), nor k, shift and similarity. These come from
    the user, else from the preset with the same shapes.

    Raises
    ------
    InputError
        Heads, window or k come from neither.
    """
    counts: dict[int, int] = {}
    for key in state:
        match = re.fullmatch(r"body\.(\d+)\.layers\.(\d+)\.norm1\.weight", key)
        if match:
            stage, layer = int(match[1]), int(match[2])
            counts[stage] = max(counts.get(stage, 0), layer + 1)
    channels, in_channels = state["head.weight"].shape[:2]
    known: dict[str, Any] = {
        "body": "unet" if any(key.startswith("downs.") for key in state) else "columnar",
        "layers": tuple(counts[stage] for stage in sorted(counts)),
        "channels": channels,
        "in_channels": in_channels,
        "ffn_ratio": state["body.0.layers.0.ffn.expand.weight"].shape[0] / channels,
    }
    if "tail.expand.weight" in state:
        known["scale"] = math.isqrt(state["tail.expand.weight"].shape[0] // channels)
        known["out_channels"] = state["tail.image.weight"].shape[0]
    elif "tail.weight" in state:
        known["out_channels"] = state["tail.weight"].shape[0]
    table = state.get("body.0.layers.0.attention.position_bias.table")
    if table is not None:
        side = (math.isqrt(table.shape[1]) + 1) // 2
        known |= {"position_bias": True, "heads": table.shape[0], "window": side, "k": min(KGTConfig.k, side**2)}
    same = ("body", "layers", "channels")
    preset = next((p for p in PRESETS.values() if all(getattr(p, name) == known[name] for name in same)), None)
    if preset is not None:
        return replace(preset, **{**known, **given})
    missing = [name for name in ("heads", "window", "k") if name not in known and name not in given]
    if missing:
        raise InputError(
            "the checkpoint stores no configuration, and the tensors' shapes do not determine "
            f"{', '.join(missing)}; give them with --config FILE.json, for instance "
            '{"heads": 6, "window": 16, "k": 128}'
        )
    return KGTConfig(**{**known, **given})


def is_kgt(state: StateDict) -> bool:
    """Detect by keys."""
    return "head.weight" in state and "body.0.layers.0.attention.qkv.weight" in state


def interface(config: KGTConfig) -> Interface:
    """Return the interface: images in [0, 1]."""
    return Interface(
        task=config.task,
        scale=config.scale,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        value_range=(0.0, 1.0),
        size_multiple=config.size_multiple,
        global_statistics=False,
        neighbours=Neighbours(default=config.k, maximum=max(config.nodes, config.k), trained=config.k_trained),
    )


#: FP32 patterns: norms; the L2 norm of cosine similarity, whose epsilon of 1e-12 is 0 in fp16; the last convolution;
#: and the sums outside the stages (of the columnar body, and with the image). KeyGraph and KeyGraphAttention accumulate
#: in FP32 in any case; the residual stream within the stages may be half precision.
KEEP_FP32 = (*DELICATE_OPERATORS, "body.*/Clip", "body.*/Div", "tail", "Add")

BLOCKS = r"head|body\.\d+(\.conv|\.layers\.\d+(\.\w+)?)?|(downs|ups|fuses)\.\d+|tail"

ARCHITECTURE = Architecture("kgt", KGTConfig, KGT, is_kgt, infer_config, interface, KEEP_FP32, blocks=BLOCKS)
