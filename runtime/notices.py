"""Notices: messages to the user about something that is not an error."""

from __future__ import annotations

import warnings


class KeygraphWarning(UserWarning):
    """Something was done differently from what was asked, or a result needs care when it is interpreted."""


def warn(message: str) -> None:
    """Issue a `KeygraphWarning`; the default `notice` of every function that takes one."""
    warnings.warn(message, KeygraphWarning, stacklevel=3)
