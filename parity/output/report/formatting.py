"""Number formats of the tables in the report and on the terminal."""

from __future__ import annotations

import math


def decibels(value: float) -> str:
    """Format a PSNR: ``"108.61"``; ``"equal"`` for infinity."""
    return "equal" if math.isinf(value) else "–" if math.isnan(value) else f"{value:.2f}"


def change(value: float) -> str:
    """Format a change in dB: ``"+0.0012"``, with a minus sign as wide as a digit."""
    return "–" if math.isnan(value) else f"{value:+.4f}".replace("-", "−")


def similarity(value: float) -> str:
    """Format an SSIM: ``"0.999985"``; ``"1"`` only for exactly 1."""
    return "–" if math.isnan(value) else "1" if value == 1 else f"{min(value, 0.999999):.6f}"


def small(value: float) -> str:
    """Format a difference: ``"2.7e-07"``; ``"0"`` for exactly 0."""
    return "–" if math.isnan(value) else "0" if value == 0 else f"{value:.1e}".replace("e-", "e−")


def times(value: float) -> str:
    """Format a multiple: ``"0.84"``, ``"1,970"``."""
    return "–" if math.isnan(value) else f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def share(part: float) -> str:
    """Format a fraction as a percentage; ``"100 %"`` and ``"0 %"`` only for exactly 1 and 0."""
    if part in (0, 1):
        return f"{100 * part:g} %"
    return f"{min(max(100 * part, 0.001), 99.999):.3f} %"


def short(name: str) -> str:
    """Return a file's name without its folders."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


FILTERS = {function.__name__: function for function in (decibels, change, similarity, small, times, share, short)}
