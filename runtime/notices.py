"""Things that are said, not raised: what was done otherwise than a user might expect."""

from __future__ import annotations

import warnings


class KeygraphWarning(UserWarning):
    """Something was done otherwise than asked, or a result is not what it might be taken for."""


def warn(message: str) -> None:
    """Say one line as a Python warning; what the library does unless it is given another listener."""
    warnings.warn(message, KeygraphWarning, stacklevel=3)
