"""Regions of the tiles in the output image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.tiling.blend import Axis, Plan, weights
from ..metrics.image import Region


@dataclass(frozen=True, eq=False)
class TileRegion:
    """One tile and its regions of the output.

    Attributes
    ----------
    row, column
        Index in the tiling plan, from 0.
    top, left
        Corner in the input image, in pixels.
    full
        All rows and columns of the output that the tile covers.
    dominant
        Where the tile has the largest blending weight. These regions cover each output pixel exactly once.
    exclusive
        Where no other tile contributes.
    centre
        Largest centred part of `exclusive`, invariant under tile rotation; None where there is none, or where the tile
        extends past the image.
    """

    row: int
    column: int
    top: int
    left: int
    full: Region
    dominant: Region
    exclusive: Region
    centre: Region | None

    def named(self, unit: str) -> str:
        """Name the tile as the runtime's messages do; `unit` is ``"tile"`` or ``"piece"``."""
        return f"the {unit} at row {self.top}, column {self.left} ({unit} {self.column + 1} of row {self.row + 1})"

    def as_json(self) -> dict[str, int]:
        """Return plain values for JSON."""
        return {"row": self.row, "column": self.column, "top": self.top, "left": self.left}


def tile_regions(plan: Plan, scale: int, size: tuple[int, int]) -> list[TileRegion]:
    """Return the regions of all tiles of a plan, in its order.

    Parameters
    ----------
    plan
        The tiling plan.
    scale
        Output pixels per input pixel.
    size
        Height and width of the output, without padding.
    """
    rows, columns = (
        [_span(axis, index, share, scale, length) for index, share in enumerate(weights(axis, scale))]
        for axis, length in ((plan.rows, size[0]), (plan.columns, size[1]))
    )
    return [
        TileRegion(
            row,
            column,
            top,
            left,
            (down.full, across.full),
            (down.dominant, across.dominant),
            (down.exclusive, across.exclusive),
            None if down.centre is None or across.centre is None else (down.centre, across.centre),
        )
        for ((row, top), down), ((column, left), across) in itertools.product(
            zip(enumerate(plan.rows.origins), rows, strict=True),
            zip(enumerate(plan.columns.origins), columns, strict=True),
        )
    ]


@dataclass(frozen=True)
class _Span:
    """Regions of a tile along one axis; see `TileRegion`."""

    full: slice
    dominant: slice
    exclusive: slice
    centre: slice | None


def _span(axis: Axis, index: int, share: NDArray[np.float32], scale: int, length: int) -> _Span:
    start, size = axis.origins[index] * scale, axis.tile * scale
    alone = np.flatnonzero(share > 1 - 1e-6)
    first, last = (int(alone[0]), int(alone[-1]) + 1) if alone.size else (0, 0)
    margin = max(first, size - last)
    centred = margin < size - margin and start + size <= length and alone.size
    return _Span(
        slice(start, min(start + size, length)),
        slice(min(_boundary(axis, index - 1, scale), length), min(_boundary(axis, index, scale), length)),
        slice(min(start + first, length), min(start + last, length)),
        slice(start + margin, start + size - margin) if centred else None,
    )


def _boundary(axis: Axis, index: int, scale: int) -> int:
    """Return where a tile and the next have equal weights: the middle of their overlap."""
    if index < 0:
        return 0
    if index + 1 == len(axis.origins):
        return axis.length * scale
    return (axis.origins[index] + axis.tile + axis.origins[index + 1]) * scale // 2
