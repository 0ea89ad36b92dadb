"""How the page's tables write numbers."""

from __future__ import annotations

import math


def decibels(value: float) -> str:
    """``"108.61"``; ``"equal"`` for infinity."""
    return "equal" if math.isinf(value) else "–" if math.isnan(value) else f"{value:.2f}"


def change(value: float) -> str:
    """``"+0.0012"``, with a minus sign of a digit's width."""
    return "–" if math.isnan(value) else f"{value:+.4f}".replace("-", "−")


def similarity(value: float) -> str:
    """``"0.999985"``; never 1 for what is less."""
    return "–" if math.isnan(value) else "1" if value == 1 else f"{min(value, 0.999999):.6f}"


def small(value: float) -> str:
    """``"2.7e-07"``, and ``"0"`` for nothing."""
    return "–" if math.isnan(value) else "0" if value == 0 else f"{value:.1e}".replace("e-", "e−")


def share(part: float) -> str:
    """A percentage that says 100 only when it is, and 0 likewise."""
    if part in (0, 1):
        return f"{100 * part:g} %"
    return f"{min(max(100 * part, 0.001), 99.999):.3f} %"


def short(name: str) -> str:
    """A file's name without its folders."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


FILTERS = {function.__name__: function for function in (decibels, change, similarity, small, share, short)}
