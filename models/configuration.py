"""Checks of configuration values, with one message form for every architecture."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import InputError


def require(config: object, name: str, holds: bool, expected: str) -> None:
    """Raise an `InputError` that names the field, its value and what it must be, unless `holds`."""
    if not holds:
        raise InputError(f"{type(config).__name__}.{name} is {getattr(config, name)!r}; it must be {expected}")


def shortest_decimal(low: float, fits: Callable[[float], bool]) -> float | None:
    """The least decimal of fewest digits, at least `low`, that fits; None if none of up to 15 digits does.

    For settings that shapes only bound: a released 2.66 is to be read back as 2.66.
    """
    for digits in range(16):
        value = math.ceil(low * 10**digits) / 10**digits
        if fits(value):
            return value
    return None
