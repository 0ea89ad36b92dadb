"""The number by which causes are held against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....instrumentation.metrics import psnr_of

Image = NDArray[np.float32]

#: Values that are taken at once.
_STRIP = 1 << 20


@dataclass(frozen=True)
class Finding:
    """A cause that is possible.

    Attributes
    ----------
    kind, text, details
        See `Cause`.
    undone
        PSNR in dB with the cause undone.
    gained
        How much that is more than of the same values as they are, in dB.
    """

    kind: str
    text: str
    details: dict[str, Any]
    undone: float
    gained: float


def squares(a: Image, b: Image, undo: Callable[[Image], Image] = lambda values: values) -> float:
    """The sum of squared differences between `undo(a)` and `b`, [H, W, C], a few rows at a time."""
    step = max(1, _STRIP // max(1, a[0].size)) if len(a) else 1
    total = 0.0
    for start in range(0, len(a), step):
        difference = undo(a[start : start + step]).astype(np.float64) - b[start : start + step]
        total += float(np.vdot(difference, difference))
    return total


def psnr(
    a: Image, b: Image, value_range: tuple[float, float], undo: Callable[[Image], Image] = lambda values: values
) -> float:
    """PSNR of `undo(a)` and `b` in dB."""
    return psnr_of(squares(a, b, undo) / max(1, b.size), value_range)
