"""Run exported models and engines: sessions, tiling, preprocessing, image files. Needs no PyTorch by itself."""

from __future__ import annotations

from typing import Any

#: Modules that the documentation named before they moved -> where they are, below this package.
_MOVED = {"cubes": "io.cubes"}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .former_names import former_name

    return former_name(__name__, name, f"{__name__}.{_MOVED[name]}", "")
