"""Where images are read from and results go to, rectangle by rectangle: arrays, or files (`exact.features`)."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray


class Source(Protocol):
    """Something to read rectangles of."""

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Return [height, width, C]."""


class Sink(Protocol):
    """Something to write rectangles to, in any order."""

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """Put [height, width, C] at a place."""


class ArraySink:
    """Writes into an array, [H, W, C]."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """See `Sink.write`."""
        self._values[top : top + values.shape[0], left : left + values.shape[1]] = values
