"""How tiled inference reports its progress."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (tiles done, tiles in all), over all sweeps.
Progress = Callable[[int, int], None]
