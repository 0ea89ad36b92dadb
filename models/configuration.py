"""Helpers for configurations: checks of values, and settings that shapes determine only within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import InputError


def require(config: object, name: str, holds: bool, expected: str) -> None:
    """Check a field of a configuration.

    Parameters
    ----------
    config
        The configuration.
    name
        The field.
    holds
        Whether its value is valid.
    expected
        What the value must be, for the message.

    Raises
    ------
    InputError
        `holds` is false. The message has the field, its value, and `expected`.
    """
    if not holds:
        raise InputError(f"{type(config).__name__}.{name} is {getattr(config, name)!r}; it must be {expected}")


def shortest_decimal(low: float, fits: Callable[[float], bool]) -> float | None:
    """Find the decimal with the fewest digits that fits, and of those the smallest that is at least `low`.

    For settings that shapes determine only within bounds: a released 2.66 must be inferred as 2.66.

    Parameters
    ----------
    low
        Lower bound.
    fits
        Whether a value gives the shapes.

    Returns
    -------
    float or None
        None when no decimal of up to 15 digits fits.
    """
    for digits in range(16):
        value: float = math.ceil(low * 10**digits) / 10**digits
        if fits(value):
            return value
    return None
