"""Attentions to the k most similar nodes whose code torch.export cannot trace, or torch.onnx not translate.

Each as its owner would write it: a Triton kernel that is launched, or wrapped as an operator, an operator without a
translation, one that PyTorch cannot infer the shape of, and NumPy behind `autograd.Function`.
"""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor, nn

# Not for Triton's interpreter, in which other tests run kernels: users run theirs as they are.
with mock.patch.dict(os.environ):
    os.environ.pop("TRITON_INTERPRET", None)

    @triton.jit  # type: ignore[untyped-decorator]
    def keep_largest(scores, kept, k, n: tl.constexpr):  # type: ignore[no-untyped-def]
        """Keep the k largest of a row of n scores, lower indices first; the others become -inf."""
        row = tl.program_id(0) * n
        own, other = tl.arange(0, n)[:, None], tl.arange(0, n)[None, :]
        mine, theirs = tl.load(scores + row + own), tl.load(scores + row + other)
        rank = tl.sum(((theirs > mine) | ((theirs == mine) & (other < own))).to(tl.int32), 1)
        value = tl.load(scores + row + tl.arange(0, n))
        tl.store(kept + row + tl.arange(0, n), tl.where(rank < k, value, float("-inf")))


def masked(scores: Tensor, k: int) -> Tensor:
    """The same in PyTorch."""
    return torch.full_like(scores, -torch.inf).scatter(-1, *reversed(scores.topk(k)))


def launched(scores: Tensor, k: int) -> Tensor:
    kept = torch.empty_like(scores)
    keep_largest[(scores.numel() // scores.shape[-1],)](scores.contiguous(), kept, k, n=scores.shape[-1])
    return kept


@torch.library.triton_op("keygraph_tests::wrapped", mutates_args=())
def wrapped(scores: Tensor, k: int) -> Tensor:
    kept = torch.empty_like(scores)
    rows = scores.numel() // scores.shape[-1]
    torch.library.wrap_triton(keep_largest)[(rows,)](scores.contiguous(), kept, k, n=scores.shape[-1])
    return kept


@wrapped.register_kernel("cpu")  # type: ignore[untyped-decorator]
def _(scores: Tensor, k: int) -> Tensor:
    return masked(scores, k)


@torch.library.custom_op("keygraph_tests::untranslated", mutates_args=())
def untranslated(scores: Tensor, k: int) -> Tensor:
    return masked(scores, k)


@untranslated.register_fake
def _(scores: Tensor, k: int) -> Tensor:
    return torch.empty_like(scores)


@torch.library.custom_op("keygraph_tests::without_fake", mutates_args=())
def without_fake(scores: Tensor, k: int) -> Tensor:
    return masked(scores, k)


@torch.library.custom_op("keygraph_tests::for_gpus", mutates_args=(), device_types="cuda")
def for_gpus(scores: Tensor, k: int) -> Tensor:
    return masked(scores, k)


#: As an extension in C++ registers its operators.
library = torch.library.Library("keygraph_tests", "FRAGMENT")
library.define("in_a_library(Tensor scores, int k) -> Tensor")
library.impl("in_a_library", masked, "CPU")


def in_a_library(scores: Tensor, k: int) -> Tensor:
    kept: Tensor = torch.ops.keygraph_tests.in_a_library(scores, k)
    return kept


def by_address(scores: Tensor, k: int) -> Tensor:
    kept = masked(scores, k)
    return kept if scores.data_ptr() else scores


class ByNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        kept = np.full(scores.shape, -np.inf, np.float32)
        values = scores.detach().numpy()
        chosen = np.argsort(-values, -1, kind="stable")[..., :k]
        np.put_along_axis(kept, chosen, np.take_along_axis(values, chosen, -1), -1)
        return torch.from_numpy(kept)


def by_numpy(scores: Tensor, k: int) -> Tensor:
    kept: Tensor = ByNumpy.apply(scores, k)  # type: ignore[no-untyped-call]
    return kept


def checked_for_gpus(scores: Tensor, k: int) -> Tensor:
    assert scores.is_cuda, "only on a GPU"
    return launched(scores, k)


class Attention(nn.Module):
    """Selects by one of the functions above."""

    def __init__(self, select: Any, channels: int = 8, k: int = 5) -> None:
        super().__init__()
        self.select, self.k = select, k
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        attended: Tensor = self.select(q @ k.mT * q.shape[-1] ** -0.5, self.k).softmax(-1) @ v
        return x + attended


class Windows(nn.Module):
    """Two attentions within windows of 4 x 4 pixels."""

    def __init__(self, select: Any = masked, channels: int = 8) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 3, 3, padding=1)
        self.layers = nn.Sequential(Attention(select, channels), Attention(select, channels))

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        b, c, h, w = x.shape
        nodes = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        nodes = self.layers(nodes)
        x = nodes.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        restored: Tensor = image + self.tail(x)
        return restored
