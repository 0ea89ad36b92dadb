"""Run exported models and engines: sessions, tiling, preprocessing, image files. Needs no PyTorch by itself."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

#: Modules that the documentation named before they moved -> where they are, below this package.
_MOVED = {"cubes": "io.cubes"}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    moved = f"{__name__}.{_MOVED[name]}"
    warnings.warn(f"{__name__}.{name} is now {moved}", DeprecationWarning, stacklevel=2)
    return import_module(moved)
