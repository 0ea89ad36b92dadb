"""Attention between channels: channels are the tokens, pixels their features.

The form of Restormer (arXiv 2111.09881, equation 1: MDTA) and of MST (arXiv 2111.07910: S-MSA), here called CSA:

    softmax(norm(Q) norm(K)^T * temperature) V        Q: [d, HW], K and V: [e, HW] per head

Sums over pixels run over the whole image, so cutting it into tiles changes the result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Least norm of a channel, as in `torch.nn.functional.normalize`.
EPSILON = 1e-12


class ChannelSimilarity(nn.Module):
    """Attention weights between the channels of a head.

    Norms are divided out of the Gram matrix, so that normalised queries and keys are never stored. A module of its own
    without parameters: what it holds are the sums over pixels, which half-precision files keep in FP32 by its name.
    """

    def forward(self, q: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
        """Compare channels.

        Parameters
        ----------
        q, k
            [B, h, d, N] and [B, h, e, N] of N pixels.
        temperature
            [h, 1, 1].

        Returns
        -------
        Tensor
            [B, h, d, e]: softmax over e of q k^T / (|q| |k|^T) * temperature.
        """
        norms = torch.linalg.vector_norm(q, dim=-1, keepdim=True).clamp(min=EPSILON)
        norms = norms * torch.linalg.vector_norm(k, dim=-1).clamp(min=EPSILON).unsqueeze(-2)
        return (q @ k.transpose(-2, -1) / norms * temperature).softmax(dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, C, H, W] -> [B, heads, C / heads, H W]."""
    return x.flatten(2).unflatten(1, (heads, x.shape[1] // heads))
