"""Cut an image into overlapping tiles, and blend the restored tiles. Pure functions on sizes and arrays.

The two axes are independent: the weight of a pixel is the product of a row weight and a column weight, so no array of
weights is needed. The result is produced in bands of rows from the top, each as soon as it is final.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..preprocess.padding import round_up


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis of an image.

    Attributes
    ----------
    length
        Padded size in pixels.
    tile
        Size of every tile; never more than `length`.
    origins
        Where the tiles begin, ascending; the first is 0, the last is ``length - tile``.
    """

    length: int
    tile: int
    origins: tuple[int, ...]

    def first_overlapping(self, index: int) -> int:
        """Return the first tile that shares pixels with the tile at `index`, or `index` itself."""
        return next(
            i for i, origin in enumerate(self.origins) if i == index or origin + self.tile > self.origins[index]
        )


@dataclass(frozen=True)
class Plan:
    """Tiles of one shape that cover a padded image.

    Attributes
    ----------
    rows, columns
        The tiles along the vertical and the horizontal axis.
    """

    rows: Axis
    columns: Axis

    @property
    def count(self) -> int:
        """Number of tiles; of a picture whose damaged header claims any size, their list would not fit in memory."""
        return len(self.rows.origins) * len(self.columns.origins)

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Top left corners (y, x) in the order that `blend` expects: row by row."""
        return [(y, x) for y in self.rows.origins for x in self.columns.origins]

    @cached_property
    def needed(self) -> int:
        """Most tiles that an unfinished row of tiles needs: its own, and those of the rows above that it overlaps."""
        rows = range(len(self.rows.origins))
        return (1 + max(row - self.rows.first_overlapping(row) for row in rows)) * len(self.columns.origins)


def cut(length: int, tile: int, overlap: int, multiple: int, least: int = 0) -> Axis:
    """Place tiles along one axis.

    The fewest tiles that overlap by at least `overlap` are spread evenly. Their origins are multiples of `multiple`, so
    that the windows of a tile are windows of the whole image; the last tile ends with the image.

    Parameters
    ----------
    length
        Size of the image along the axis, at least 1.
    tile
        A multiple of `multiple`.
    overlap
        A multiple of `multiple`, from 0 to ``tile // 2``.
    multiple
        The model's `size_multiple`.
    least
        The smallest tile that the model takes, at most `tile`. Smaller images are padded to it; others only to a
        multiple of `multiple`.
    """
    padded = max(round_up(length, multiple), least)
    if padded <= tile:
        return Axis(padded, padded, (0,))
    count = -(-(padded - overlap) // (tile - overlap))
    slack = (padded - tile) // multiple
    origins = tuple(index * slack // (count - 1) * multiple for index in range(count))
    return Axis(padded, tile, origins)


def weights(axis: Axis, scale: int = 1) -> NDArray[np.float32]:
    """Return the blending weights of every tile along one axis.

    Where two tiles overlap, each tile has weight 0 in the quarter of the overlap next to its own edge, where it has
    the least context, and its weight rises as a raised cosine over the half in the middle. A model whose receptive
    field reaches no further than a quarter of the overlap therefore gives the same result tiled as whole.

    Parameters
    ----------
    axis
        The tiles along the axis.
    scale
        Output pixels per input pixel.

    Returns
    -------
    float32[tiles, tile * scale]; at every pixel of the axis the weights of the tiles that cover it sum to 1.
    """
    size = axis.tile * scale
    centre = np.arange(size) + 0.5
    raw = np.ones((len(axis.origins), size))
    for index, (origin, following) in enumerate(zip(axis.origins, axis.origins[1:], strict=False)):
        overlap = (origin + axis.tile - following) * scale
        if overlap > 0:
            rise = 0.5 - 0.5 * np.cos(np.pi * np.clip((centre - overlap / 4) / (overlap / 2), 0, 1))
            raw[index] *= rise[::-1]
            raw[index + 1] *= rise
    total = np.zeros(axis.length * scale)
    for origin, row in zip(axis.origins, raw, strict=True):
        total[origin * scale : origin * scale + size] += row
    for origin, row in zip(axis.origins, raw, strict=True):
        row /= total[origin * scale : origin * scale + size]
    return raw.astype(np.float32)


def blend(
    plan: Plan, restored: Iterable[NDArray[np.float32]], scale: int = 1, first_row: int = 0
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Blend restored tiles.

    Parameters
    ----------
    plan
        Where the tiles lie.
    restored
        float32[..., tile height * scale, tile width * scale], one for each of `Plan.tiles`, in that order.
    scale
        Output pixels per input pixel.
    first_row
        Row of tiles to begin with; `restored` begins there, too. Bands are valid from the first row on that overlaps
        none of the rows that were left out: ``plan.rows.first_overlapping(row) >= first_row``.

    Yields
    ------
    top, band
        One for each row of tiles. `band` is float32[..., rows, padded width * scale], final, starting at output row
        `top`. Bands are contiguous.
        A band is valid until the next one is requested.
    """
    across, down = weights(plan.columns, scale), weights(plan.rows, scale)
    height, width = plan.rows.tile * scale, plan.columns.tile * scale
    ends = [*plan.rows.origins[1:], plan.rows.length]
    source = iter(restored)
    canvas: NDArray[np.float32] | None = None
    for row, top in list(enumerate(plan.rows.origins))[first_row:]:
        for column, left in enumerate(plan.columns.origins):
            tile = next(source)
            if canvas is None:
                canvas = np.zeros((*tile.shape[:-2], height, plan.columns.length * scale), dtype=np.float32)
            target = canvas[..., left * scale : left * scale + width]
            if len(plan.rows.origins) == len(plan.columns.origins) == 1:
                target[...] = tile
            else:
                target += tile * (down[row][:, None] * across[column])
        assert canvas is not None
        finished = (ends[row] - top) * scale
        yield top * scale, canvas[..., :finished, :]
        # The rows below overlap the next row of tiles: they move up, and the rest starts at zero.
        kept = height - finished
        canvas[..., :kept, :] = canvas[..., finished:, :].copy()
        canvas[..., kept:, :] = 0


def seam_ratio(image: NDArray[np.generic], plan: Plan, scale: int = 1) -> float:
    """Measure how visible tile borders are.

    Parameters
    ----------
    image
        [H, W] or [H, W, C]: the tiled result, or its difference from the whole image's result.
    plan, scale
        How it was tiled.

    Returns
    -------
    float
        Mean absolute difference of neighbouring pixels at tile borders, divided by that of all other neighbours; the
        larger of the two axes. About 1 without seams, and for a whole image. An image with few, strong edges has a
        different baseline: compare with the whole image's result for the same plan.
    """
    values = np.asarray(image, dtype=np.float64)
    worst = 1.0 if plan.count == 1 else 0.0
    for number, axis in enumerate((plan.rows, plan.columns)):
        borders = {edge * scale for origin in axis.origins for edge in (origin, origin + axis.tile)}
        # The difference across the border and one on either side, because a line along the border is a seam, too.
        last = values.shape[number] - 2
        inner = sorted(
            {
                step
                for edge in borders
                for step in range(edge - 2, edge + 1)
                if 0 < edge <= last + 1 and 0 <= step <= last
            }
        )
        if not inner:
            continue
        steps = np.abs(np.diff(values, axis=number)).mean(axis=tuple(i for i in range(values.ndim) if i != number))
        across, elsewhere = steps[inner].mean(), np.delete(steps, inner).mean()
        worst = max(worst, 1.0 if across == elsewhere else float(across / max(elsewhere, 1e-12)))
    return worst
