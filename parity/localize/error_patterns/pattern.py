"""A possible error pattern, and the PSNR by which patterns are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....instrumentation.metrics import psnr_of

Image = NDArray[np.float32]

#: Values that are processed at once; bounds the size of temporary arrays.
_STRIP = 1 << 20


@dataclass(frozen=True)
class ErrorPattern:
    """An error pattern that may explain a difference.

    Attributes
    ----------
    kind, text, details
        See `Cause`.
    undone
        PSNR in dB after undoing the pattern.
    gained
        `undone` minus the PSNR in dB of the same values as they are.
    """

    kind: str
    text: str
    details: dict[str, Any]
    undone: float
    gained: float


def squared_error(a: Image, b: Image, undo: Callable[[Image], Image] = lambda values: values) -> float:
    """Return the sum of squared differences between ``undo(a)`` and ``b``, computed in strips.

    Parameters
    ----------
    a, b
        float32[H, W, C].
    undo
        Takes and returns some rows of an image.
    """
    step = max(1, _STRIP // max(1, a[0].size)) if len(a) else 1
    total = 0.0
    for start in range(0, len(a), step):
        difference = undo(a[start : start + step]).astype(np.float64) - b[start : start + step]
        total += float(np.vdot(difference, difference))
    return total


def psnr(
    a: Image, b: Image, value_range: tuple[float, float], undo: Callable[[Image], Image] = lambda values: values
) -> float:
    """Return the PSNR of ``undo(a)`` and ``b`` in dB.

    Parameters
    ----------
    a, b, undo
        As for `squared_error`.
    value_range
        Values of black and white.
    """
    return psnr_of(squared_error(a, b, undo) / max(1, b.size), value_range)
