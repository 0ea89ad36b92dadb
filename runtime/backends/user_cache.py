"""The user's cache folder, for files that keygraph can create again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return keygraph's folder in the user's cache, ``$XDG_CACHE_HOME/keygraph`` or ``~/.cache/keygraph``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keygraph"
