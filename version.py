"""The version of the installed package."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


@functools.cache
def version() -> str:
    """Return keygraph's version; ``"0+unknown"`` when it is not installed but imported from a folder."""
    try:
        return installed("keygraph")
    except PackageNotFoundError:
        return "0+unknown"
