"""Calls that the operators must refuse, as data, with the message that every host gives after its own prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class BadCall:
    """Inputs of one call: their shapes by name, in the operator's order.

    `k`: the value of KeyGraph's and TopKGraph's input. `heads`: the attention's attribute.
    """

    name: str
    shapes: dict[str, Shape]
    message: str
    k: int = 1
    heads: int | None = None

    @property
    def op(self) -> str:
        if "mask" in self.shapes:
            return "PackGraph"
        if "scores" in self.shapes:
            return "TopKGraph"
        return "KeyGraph" if "query" in self.shapes else "KeyGraphAttention"

    @property
    def optional_input(self) -> bool:
        """Whether there is a bias or a threshold."""
        return not {"bias", "threshold"}.isdisjoint(self.shapes)

    @property
    def value_is_bad(self) -> bool:
        """Whether the shapes are good and k is not, which hosts that keep k on a GPU cannot see."""
        return self.k < 1

    def inputs(self) -> dict[str, np.ndarray]:
        def array(name: str, shape: Shape) -> np.ndarray:
            if self.op in ("KeyGraph", "TopKGraph") and name == "k":
                return np.full(shape, self.k, np.int64)
            return np.ones(shape, np.int32 if name == "graph" else np.float32)

        return {name: array(name, shape) for name, shape in self.shapes.items()}


def _graph(**changes: Any) -> dict[str, Shape]:
    return {"query": (2, 3, 4, 8), "key": (2, 3, 40, 8), "k": (1,)} | changes


def _pack(**changes: Any) -> dict[str, Shape]:
    return {"mask": (2, 3, 4, 40)} | changes


def _top_k(**changes: Any) -> dict[str, Shape]:
    return {"scores": (2, 3, 4, 40), "k": (1,)} | changes


def _attention(**changes: Any) -> dict[str, Shape]:
    return {"q": (2, 3, 4, 8), "k": (2, 3, 40, 8), "v": (2, 3, 40, 6), "graph": (2, 1, 4, 2)} | changes


def _heads_last(**changes: Any) -> dict[str, Shape]:
    return {"q": (2, 4, 24), "k": (2, 40, 24), "v": (2, 40, 18), "graph": (2, 1, 4, 2)} | changes


_KEY = "expected [B, G, N, C] = [2, 3, N, 8] to match query [2, 3, 4, 8]"
_THRESHOLD = "expected [B, G, M, 1] = [2, 3, 4, 1] to match mask [2, 3, 4, 40]"
_K = "expected [B, H, N, D] = [2, 3, N, 8] to match q [2, 3, 4, 8]"
_V = "expected [B, H, N, Dv] = [2, 3, 40, Dv] to match k [2, 3, 40, 8]"
_BIAS = "expected [H, M, N] = [3, 4, 40], or [W, H, M, N] with W a divisor of B = 2"
_GRAPH = "expected [B, 1 or H, M, ceil(N/32)] = [2, 1 or 3, 4, 2]"

BAD_CALLS = [
    BadCall("query's rank", _graph(query=(3, 4, 8)), "query has shape [3, 4, 8], expected [B, G, M, C]"),
    BadCall("key's rank", _graph(key=(8,)), f"key has shape [8], {_KEY}"),
    BadCall("key's batch", _graph(key=(1, 3, 40, 8)), f"key has shape [1, 3, 40, 8], {_KEY}"),
    BadCall("key's groups", _graph(key=(2, 1, 40, 8)), f"key has shape [2, 1, 40, 8], {_KEY}"),
    BadCall("key's channels", _graph(key=(2, 3, 40, 7)), f"key has shape [2, 3, 40, 7], {_KEY}"),
    BadCall("two k", _graph(k=(2,)), "k has shape [2], expected one element"),
    BadCall("no k", _graph(k=(1, 0)), "k has shape [1, 0], expected one element"),
    BadCall("k is 0", _graph(), "k is 0; it must be at least 1", k=0),
    BadCall("k is negative", _graph(), "k is -3; it must be at least 1", k=-3),
    BadCall("mask's rank", _pack(mask=(3, 4, 40)), "mask has shape [3, 4, 40], expected [B, G, M, N]"),
    BadCall("threshold's rank", _pack(threshold=(2, 3, 4)), f"threshold has shape [2, 3, 4], {_THRESHOLD}"),
    BadCall("threshold's batch", _pack(threshold=(1, 3, 4, 1)), f"threshold has shape [1, 3, 4, 1], {_THRESHOLD}"),
    BadCall("threshold's nodes", _pack(threshold=(2, 3, 4, 40)), f"threshold has shape [2, 3, 4, 40], {_THRESHOLD}"),
    BadCall("scores' rank", _top_k(scores=(3, 4, 40)), "scores has shape [3, 4, 40], expected [B, G, M, N]"),
    BadCall("two k of scores", _top_k(k=(2,)), "k has shape [2], expected one element"),
    BadCall("k of scores is 0", _top_k(), "k is 0; it must be at least 1", k=0),
    BadCall("q's rank", _attention(q=(4, 8)), "q has shape [4, 8], expected [B, H, M, D], or [B, M, H*D] with heads"),
    BadCall("k's rank", _attention(k=(8,)), f"k has shape [8], {_K}"),
    BadCall("k's batch", _attention(k=(1, 3, 40, 8)), f"k has shape [1, 3, 40, 8], {_K}"),
    BadCall("k's heads", _attention(k=(2, 1, 40, 8)), f"k has shape [2, 1, 40, 8], {_K}"),
    BadCall("k's channels", _attention(k=(2, 3, 40, 7)), f"k has shape [2, 3, 40, 7], {_K}"),
    BadCall("v's rank", _attention(v=(2, 3, 40)), f"v has shape [2, 3, 40], {_V}"),
    BadCall("v's heads", _attention(v=(2, 1, 40, 6)), f"v has shape [2, 1, 40, 6], {_V}"),
    BadCall("v's nodes", _attention(v=(2, 3, 39, 6)), f"v has shape [2, 3, 39, 6], {_V}"),
    BadCall("graph's rank", _attention(graph=(2,)), f"graph has shape [2], {_GRAPH}"),
    BadCall("graph's batch", _attention(graph=(1, 1, 4, 2)), f"graph has shape [1, 1, 4, 2], {_GRAPH}"),
    BadCall("graph's groups", _attention(graph=(2, 2, 4, 2)), f"graph has shape [2, 2, 4, 2], {_GRAPH}"),
    BadCall("graph's rows", _attention(graph=(2, 1, 5, 2)), f"graph has shape [2, 1, 5, 2], {_GRAPH}"),
    BadCall("graph's words", _attention(graph=(2, 1, 4, 1)), f"graph has shape [2, 1, 4, 1], {_GRAPH}"),
    BadCall("bias's heads", _attention(bias=(1, 4, 40)), f"bias has shape [1, 4, 40], {_BIAS}"),
    BadCall("bias's rank", _attention(bias=(4, 40)), f"bias has shape [4, 40], {_BIAS}"),
    BadCall("B is not a multiple of W", _attention(bias=(3, 3, 4, 40)), f"bias has shape [3, 3, 4, 40], {_BIAS}"),
    BadCall("W is larger than B", _attention(bias=(4, 3, 4, 40)), f"bias has shape [4, 3, 4, 40], {_BIAS}"),
    BadCall("no window", _attention(bias=(0, 3, 4, 40)), f"bias has shape [0, 3, 4, 40], {_BIAS}"),
    BadCall("a window's heads", _attention(bias=(2, 1, 4, 40)), f"bias has shape [2, 1, 4, 40], {_BIAS}"),
    BadCall("a window's nodes", _attention(bias=(2, 3, 4, 39)), f"bias has shape [2, 3, 4, 39], {_BIAS}"),
    BadCall("heads missing", _heads_last(), "q has shape [2, 4, 24], which is [B, M, H*D], so heads must be given"),
    BadCall("no heads", _heads_last(), "heads is 0; it must be at least 1", heads=0),
    BadCall(
        "k's width",
        _heads_last(k=(2, 40, 23)),
        "k has shape [2, 40, 23], expected [B, N, H*D] = [2, N, 24] to match q [2, 4, 24]",
        heads=3,
    ),
    BadCall(
        "k's rank, heads last",
        _heads_last(k=(2, 3, 40, 8)),
        "k has shape [2, 3, 40, 8], expected [B, N, H*D] = [2, N, 24] to match q [2, 4, 24]",
        heads=3,
    ),
    BadCall(
        "v's nodes, heads last",
        _heads_last(v=(2, 39, 18)),
        "v has shape [2, 39, 18], expected [B, N, H*Dv] = [2, 40, H*Dv] to match k [2, 40, 24]",
        heads=3,
    ),
    BadCall(
        "heads that do not divide the width",
        _heads_last(),
        "the last dimensions of q [2, 4, 24] and v [2, 40, 18] must be multiples of heads, which is 4",
        heads=4,
    ),
    BadCall(
        "graph's groups, heads last",
        _heads_last(graph=(2, 2, 4, 2)),
        f"graph has shape [2, 2, 4, 2], {_GRAPH}",
        heads=3,
    ),
]
