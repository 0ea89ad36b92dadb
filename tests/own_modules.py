"""Networks as users write them, in plain PyTorch: some that can be exported, and one for each reason why not."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    """One convolution, which every other class here changes."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


class Upscaling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 4, 4), nn.ConvTranspose2d(4, 3, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        restored: Tensor = x + self.up(self.down(x).relu())
        return restored


class Padding(Conv):
    """Pads by reflection to windows of 8, so that it takes any size from 5."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 8, 0, -height % 8), mode="reflect")
        x = F.pixel_shuffle(F.pixel_unshuffle(self.conv(x), 8).flip(1), 8)
        return x[..., :height, :width]


class BranchingPadding(Padding):
    """The same, with a branch."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % 8 or width % 8:
            return super().forward(x)
        return F.pixel_shuffle(F.pixel_unshuffle(self.conv(x), 8).flip(1), 8)


class WindowOf7(Conv):
    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        restored: Tensor = self.conv(x.view(b, c, h // 7, 7, w // 7, 7).flip(3).reshape(b, c, h, w))
        return restored


class ShiftedWindows(Conv):
    """Shifts its windows as Swin does, so that the left edge sees the right one."""

    def forward(self, x: Tensor) -> Any:
        b, c, h, w = x.shape
        windows = self.conv(x).roll((-4, -4), (2, 3)).view(b, c, h // 8, 8, w // 8, 8)
        return (windows - windows.mean((3, 5), keepdim=True)).reshape(b, c, h, w).roll((4, 4), (2, 3))


class SqueezeExcitation(Conv):
    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = torch.sigmoid(5 * x.mean((2, 3), keepdim=True))
        restored: Tensor = self.conv(x) * weights
        return restored


class KeepsMask(Conv):
    """Keeps what it made for the last size, as some code does with the masks of shifted windows."""

    size: tuple[int, ...] = ()
    mask: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        if self.size != tuple(x.shape[-2:]):
            self.size = tuple(x.shape[-2:])
            self.mask = (torch.arange(x.shape[-1]) / x.shape[-1]).expand(self.size)
        return self.conv(x) * self.mask


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 3, 24, 40))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position


class FixedWidth(Conv):
    """torch.export takes the number of steps for a constant."""

    def forward(self, x: Tensor) -> Any:
        return self.conv(x) * torch.linspace(0, 1, x.shape[-1])


class LargeBranch(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x) * 2 if x.shape[-1] > 300 else self.conv(x)


class MultiplesOf4Differ(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x) * 2 if x.shape[-1] % 4 else self.conv(x)


class BatchInShape(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x).reshape(1, *x.shape[1:])


class FirstOfBatch(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x[:1]).expand(len(x), -1, -1, -1)


class MeanOfBatch(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x) - x.mean()


class TwoResults(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x), x


class Dictionary(Conv):
    def forward(self, x: Tensor) -> Any:
        return {"out": self.conv(x)}


class DependsOnValues(Conv):
    def forward(self, x: Tensor) -> Any:
        if x.mean() > 0.3:
            return self.conv(x)
        return x


class InPlace(Conv):
    def forward(self, x: Tensor) -> Any:
        x -= 0.5
        return self.conv(x)


class RandomNoise(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x) + torch.rand_like(x)


class MaskToo(Conv):
    def forward(self, x: Tensor, mask: Tensor | None) -> Any:  # type: ignore[override]
        return self.conv(x)


class Downscaling(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x)[..., ::2, ::2]


class Vector(Conv):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x).mean((2, 3))


class Untranslatable(Conv):
    """Attention without heads, which torch.onnx does not translate."""

    def forward(self, x: Tensor) -> Any:
        flat = x.flatten(2)
        return F.scaled_dot_product_attention(flat, flat, flat).view_as(x)


class TopKAttention(nn.Module):
    """Attention over the k most similar nodes of a window, by a mask or by a threshold.

    With `biased`, nodes are selected by scores with their biases, which is no top-k of a product.
    """

    def __init__(
        self, form: str = "mask", window: int = 4, k: int = 5, channels: int = 8, biased: bool = False
    ) -> None:
        super().__init__()
        self.form, self.window, self.k, self.biased = form, window, k, biased
        self.head, self.tail = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 3, 3, padding=1)
        self.qkv = nn.ModuleList(nn.Linear(channels, 3 * channels) for _ in range(2))
        self.bias = nn.Parameter(torch.randn(window**2, window**2))

    def forward(self, x: Tensor) -> Tensor:
        p = self.window
        f = self.head(x)
        b, c, h, w = f.shape
        nodes = f.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(-1, p * p, c)
        for layer in self.qkv:
            q, k, v = layer(nodes).chunk(3, -1)
            scores = q @ k.mT
            kept = self.keep(scores + self.bias if self.biased else scores)
            nodes = nodes + torch.where(kept, scores + self.bias, -torch.inf).softmax(-1) @ v
        f = nodes.view(b, h // p, w // p, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        restored: Tensor = x + self.tail(f)
        return restored

    def keep(self, scores: Tensor) -> Tensor:
        if self.form == "threshold":
            return scores >= scores.topk(self.k).values[..., -1:]
        chosen = scores.topk(self.k).indices if self.form == "mask" else scores.argsort(descending=True)[..., : self.k]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)
