"""Where the tiles of an image lie in what was made of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.tiling.blend import Axis, Plan, weights

Region = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Place:
    """One tile in the output.

    Attributes
    ----------
    row, column
        Which one of the plan's, from 0.
    top, left
        Its corner in the image that was restored, in pixels.
    all
        Its rows and columns of the output.
    own
        The part in which it has the largest share: these cover the output, each pixel once.
    inside
        The part in which no other tile has a share.
    middle
        The largest part of that which lies in the middle of the tile, so that turning the tile turns this; None where
        there is none, or the image ends before the tile does.
    """

    row: int
    column: int
    top: int
    left: int
    all: Region
    own: Region
    inside: Region
    middle: Region | None

    def named(self, unit: str) -> str:
        """As the runtime names tiles."""
        return f"the {unit} at row {self.top}, column {self.left} ({unit} {self.column + 1} of row {self.row + 1})"

    def as_json(self) -> dict[str, int]:
        """Plain values."""
        return {"row": self.row, "column": self.column, "top": self.top, "left": self.left}


def places(plan: Plan, scale: int, size: tuple[int, int]) -> list[Place]:
    """All tiles of a plan, in its order.

    Parameters
    ----------
    plan, scale
        How the image was cut, and output pixels per input pixel.
    size
        Height and width of the output, without what was padded.
    """
    rows, columns = (
        [_span(axis, index, share, scale, length) for index, share in enumerate(weights(axis, scale))]
        for axis, length in ((plan.rows, size[0]), (plan.columns, size[1]))
    )
    return [
        Place(
            row,
            column,
            top,
            left,
            (down.all, across.all),
            (down.own, across.own),
            (down.inside, across.inside),
            None if down.middle is None or across.middle is None else (down.middle, across.middle),
        )
        for ((row, top), down), ((column, left), across) in itertools.product(
            zip(enumerate(plan.rows.origins), rows, strict=True),
            zip(enumerate(plan.columns.origins), columns, strict=True),
        )
    ]


@dataclass(frozen=True)
class _Span:
    """A tile along one axis."""

    all: slice
    own: slice
    inside: slice
    middle: slice | None


def _span(axis: Axis, index: int, share: NDArray[np.float32], scale: int, length: int) -> _Span:
    start, size = axis.origins[index] * scale, axis.tile * scale
    alone = np.flatnonzero(share > 1 - 1e-6)
    first, last = (int(alone[0]), int(alone[-1]) + 1) if alone.size else (0, 0)
    margin = max(first, size - last)
    middle = margin < size - margin and start + size <= length and alone.size
    return _Span(
        slice(start, min(start + size, length)),
        slice(min(_meeting(axis, index - 1, scale), length), min(_meeting(axis, index, scale), length)),
        slice(min(start + first, length), min(start + last, length)),
        slice(start + margin, start + size - margin) if middle else None,
    )


def _meeting(axis: Axis, index: int, scale: int) -> int:
    """Where a tile and the next one have equal shares: the middle of what both cover."""
    if index < 0:
        return 0
    if index + 1 == len(axis.origins):
        return axis.length * scale
    return (axis.origins[index] + axis.tile + axis.origins[index + 1]) * scale // 2
