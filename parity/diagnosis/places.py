"""Where in an image a difference lies, by the tiles that the image was cut into."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.metrics import psnr_of
from ...runtime.tiling import Axis, Plan, weights
from .numbers import Image, psnr

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
        slice(min(start + first, length), min(start + last, length)),
        slice(start + margin, start + size - margin) if middle else None,
    )


def levels_of_tiles(
    candidate: Image, reference: Image, value_range: tuple[float, float], cut: Sequence[Place]
) -> dict[Place, float]:
    """PSNR in dB of every tile where it has no share with others; without those that have no such part."""
    return {
        place: psnr(candidate[place.inside], reference[place.inside], value_range)
        for place in cut
        if reference[place.inside].size
    }


@dataclass(frozen=True)
class Borders:
    """PSNR in dB where tiles meet, and elsewhere."""

    there: float
    elsewhere: float


def between_tiles(
    candidate: Image, reference: Image, value_range: tuple[float, float], plan: Plan, scale: int
) -> Borders | None:
    """Measure the borders apart from the rest; None where there is no rest."""
    off_rows, off_columns = (
        _off_borders(axis, scale, length)
        for axis, length in zip((plan.rows, plan.columns), reference.shape[:2], strict=True)
    )
    total = rest = 0.0
    for row, (ours, theirs) in enumerate(zip(candidate, reference, strict=True)):
        errors = np.square(ours.astype(np.float64) - theirs).sum(axis=1)
        total += float(errors.sum())
        rest += float(errors[off_columns].sum()) if off_rows[row] else 0.0
    everything = reference.size
    apart = int(off_rows.sum()) * int(off_columns.sum()) * reference.shape[2]
    if apart in (0, everything):
        return None
    there = psnr_of((total - rest) / (everything - apart), value_range)
    return Borders(there, psnr_of(rest / apart, value_range) if rest else math.inf)


def _off_borders(axis: Axis, scale: int, length: int) -> NDArray[np.bool_]:
    """True for the output pixels that are at least one input pixel away from all that two tiles share."""
    off = np.ones(length, np.bool_)
    for origin, following in itertools.pairwise(axis.origins):
        off[(following - 1) * scale : (origin + axis.tile + 1) * scale] = False
    return off
