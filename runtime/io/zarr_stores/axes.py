"""Regions of arrays with named axes, of which only rows, columns and channels may be longer than 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rows, columns and channels: the order of regions.
_REGION = ("y", "x", "c")


def read_region(array: Any, axes: tuple[str, ...], top: int, left: int, height: int, width: int) -> NDArray[Any]:
    """Return the rectangle at (`top`, `left`) of an array, [height, width, C].

    Parameters
    ----------
    array
        A `zarr.Array`.
    axes
        Names of its axes.
    top, left, height, width
        The rectangle in pixels.
    """
    parts = {"y": slice(top, top + height), "x": slice(left, left + width), "c": slice(None)}
    values: NDArray[Any] = np.asarray(array[tuple(parts.get(name, 0) for name in axes)])
    kept = [name for name in axes if name in _REGION]
    if "c" not in kept:
        values, kept = values[..., None], [*kept, "c"]
    region: NDArray[Any] = values.transpose([kept.index(name) for name in _REGION])
    return region


def write_region(array: Any, axes: tuple[str, ...], top: int, left: int, values: NDArray[Any]) -> None:
    """Write a rectangle into an array.

    Parameters
    ----------
    array, axes
        As for `read_region`.
    top, left
        Where it goes, in pixels.
    values
        [height, width, C]; C is 1 for an array without channels.
    """
    height, width, _ = values.shape
    kept = [name for name in axes if name in _REGION]
    if "c" not in kept:
        values = values[:, :, 0]
    ordered = values.transpose([_REGION.index(name) for name in kept])
    parts = {"y": slice(top, top + height), "x": slice(left, left + width)}
    single = [place for place, name in enumerate(axes) if name not in _REGION]
    array[tuple(parts.get(name, slice(None)) for name in axes)] = np.expand_dims(ordered, single)
