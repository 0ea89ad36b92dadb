"""Feature maps to windows of nodes and back.

Channels move first and whole rows of windows after them: ONNX Runtime has fast paths for both, and none for one
transposition of six axes.

Written so that an exported graph holds few nodes: `torch.roll` and `pixel_unshuffle` would add shape arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor


def partition_windows(x: Tensor, window: int) -> Tensor:
    """Cut a feature map into windows.

    Parameters
    ----------
    x
        [B, C, H, W], H and W multiples of `window`.

    Returns
    -------
    Tensor
        [B * H/window * W/window, window^2, C]: the windows row by row, the nodes of each row by row.
    """
    batch, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def merge_windows(nodes: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo `partition_windows`: [B * H/window * W/window, window^2, C] -> [B, C, H, W]."""
    channels = nodes.shape[-1]
    x = nodes.view(-1, height // window, width // window, window, window, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def rotate(x: Tensor, shift: int) -> Tensor:
    """Move a feature map [B, C, H, W] up and left by `shift` pixels (down and right if negative), wrapped around."""
    x = torch.cat([x[:, :, shift:], x[:, :, :shift]], 2)
    return torch.cat([x[:, :, :, shift:], x[:, :, :, :shift]], 3)


def pixel_unshuffle(x: Tensor) -> Tensor:
    """[B, C, 2 H, 2 W] -> [B, 4 C, H, W], as `torch.nn.functional.pixel_unshuffle` with factor 2."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * 4, height // 2, width // 2)
