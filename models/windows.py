"""Feature maps to windows of nodes and back, in forms that export to few and fast ONNX nodes.

Channels are moved first, then rows of windows: ONNX Runtime has fast kernels for both, and none for one transposition
of six axes. `torch.roll` and PyTorch's `pixel_unshuffle` would export with additional arithmetic on shapes.
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
    window
        Side of a window in pixels.

    Returns
    -------
    Tensor
        [B * H/window * W/window, window^2, C]: windows, and nodes in a window, in row-major order.
    """
    batch, channels, height, width = x.shape
    x = x.permute(0, 2, 3, 1).reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def merge_windows(nodes: Tensor, window: int, height: int, width: int) -> Tensor:
    """Join windows to a feature map: the inverse of `partition_windows`.

    Parameters
    ----------
    nodes
        [B * H/window * W/window, window^2, C].
    window
        Side of a window in pixels.
    height, width
        H and W, multiples of `window`.

    Returns
    -------
    Tensor
        [B, C, H, W].
    """
    channels = nodes.shape[-1]
    x = nodes.view(-1, height // window, width // window, window, window, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def rotate(x: Tensor, shift: int) -> Tensor:
    """Shift a feature map [B, C, H, W] up and left by `shift` pixels, wrapped around; if negative, down and right."""
    x = torch.cat([x[:, :, shift:], x[:, :, :shift]], 2)
    return torch.cat([x[:, :, :, shift:], x[:, :, :, :shift]], 3)


def pixel_unshuffle(x: Tensor) -> Tensor:
    """Apply `torch.nn.functional.pixel_unshuffle` with factor 2: [B, C, 2 H, 2 W] -> [B, 4 C, H, W]."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * 4, height // 2, width // 2)
