"""Images that are read and written region by region: arrays, or scratch files (`io.scratch_file`)."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray


class RegionReader(Protocol):
    """An image of which rectangles can be read."""

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Return the rectangle at (`top`, `left`), [height, width, C].

        Parameters
        ----------
        top, left, height, width
            The rectangle in pixels.
        """


class RegionWriter(Protocol):
    """An image to which rectangles are written, in any order."""

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """Write a rectangle; a later one replaces what it overlaps.

        Parameters
        ----------
        top, left
            Where it goes, in pixels.
        values
            [height, width, C]
        """


class ArrayReader:
    """A `RegionReader` of an array.

    Parameters
    ----------
    values
        [H, W, C]
    """

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Return a view of a rectangle; see `RegionReader.read`.

        Parameters
        ----------
        top, left, height, width
            The rectangle in pixels.
        """
        return self.values[top : top + height, left : left + width]


class ArrayWriter:
    """A `RegionWriter` that writes into an array.

    Parameters
    ----------
    values
        [H, W, C]
    """

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """Write a rectangle; see `RegionWriter.write`.

        Parameters
        ----------
        top, left
            Where it goes, in pixels.
        values
            [height, width, C]
        """
        self.values[top : top + values.shape[0], left : left + values.shape[1]] = values
