"""Checks of configuration values, with one message form for every architecture."""

from __future__ import annotations

from ..errors import InputError


def require(config: object, name: str, holds: bool, expected: str) -> None:
    """Raise an `InputError` that names the field, its value and what it must be, unless `holds`."""
    if not holds:
        raise InputError(f"{type(config).__name__}.{name} is {getattr(config, name)!r}; it must be {expected}")
