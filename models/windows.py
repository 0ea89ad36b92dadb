"""Feature maps to windows of nodes and back."""

from __future__ import annotations

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
    x = x.view(batch, channels, height // window, window, width // window, window)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, window * window, channels)


def merge_windows(nodes: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo `partition_windows`: [B * H/window * W/window, window^2, C] -> [B, C, H, W]."""
    channels = nodes.shape[-1]
    x = nodes.view(-1, height // window, width // window, window, window, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, height, width)
