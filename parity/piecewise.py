"""Running images piece by piece, or tile by tile, and joining what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.backends.base import Inputs
from ..runtime.preprocess.padding import round_up
from ..runtime.preprocess.request import TileReader
from ..runtime.tiling.blend import Axis, Plan, blend
from .inputs import Demands, Input

#: The side of a piece in pixels, rounded up to the size rule. All sides see the same pieces, so no overlap is needed.
PIECE = 256

#: The side in pixels of the piece on which blocks are compared, rounded up to the size rule.
TRACED = 128

#: Restores a batch in any number of ways: (images, *extras) -> float32[ways, B, C, H, W].
Ways = Callable[..., NDArray[np.float32]]


def count_pieces(given: Input, needs: Demands) -> int:
    """How many times `in_pieces` calls `done`, for a progress bar."""
    rows, columns = _steps(needs)
    return math.ceil(given.request.height / rows) * math.ceil(given.request.width / columns)


def in_pieces(given: Input, needs: Demands, ways: Ways, done: Callable[[], None] = lambda: None) -> NDArray[np.float32]:
    """Run an image in pieces that do not overlap, reflected at the edges up to the size rule.

    Parameters
    ----------
    given
        The image and what goes with it.
    needs
        What all sides take.
    ways
        See `Ways`.
    done
        Called after each piece.

    Returns
    -------
    float32[ways, H', W', C']
    """
    scale = needs.manifest.scale
    result = None
    for inputs, (top, left) in pieces(given, needs):
        piece = _joined(given, needs, ways, inputs)
        if result is None:
            result = _canvas(given, scale, len(piece))
        target = result[:, top * scale :, left * scale :][:, : piece.shape[2], : piece.shape[3]]
        target[...] = np.moveaxis(piece, 1, 3)[:, : target.shape[1], : target.shape[2]]
        done()
    assert result is not None
    return result


def in_tiles(given: Input, needs: Demands, plan: Plan, ways: Ways) -> NDArray[np.float32]:
    """Run an image in overlapping tiles that are blended, as the runtime does; else as `in_pieces`."""
    scale, request = needs.manifest.scale, given.request
    cut = TileReader(request, plan.rows.length, plan.columns.length)
    count = 0

    def tiles() -> Iterator[NDArray[np.float32]]:
        nonlocal count
        for top, left in plan.tiles:
            tile = _joined(given, needs, ways, cut(top, left, plan.rows.tile, plan.columns.tile))
            count = len(tile)
            yield tile

    result = None
    for top, band in blend(plan, tiles(), scale):
        if result is None:
            result = _canvas(given, scale, count)
        target = result[:, top : top + band.shape[2]]
        target[...] = np.moveaxis(band, 1, 3)[:, : target.shape[1], : target.shape[2]]
    assert result is not None
    return result


def pieces(
    given: Input, needs: Demands, step: tuple[int, int] | None = None
) -> Iterator[tuple[Inputs, tuple[int, int]]]:
    """Cut an image and what goes with it: what a session takes but k, and the corner (top, left)."""
    height, width = given.request.height, given.request.width
    unit = needs.shape[1:] if needs.shape else (needs.multiple, needs.multiple)
    padded = round_up(height, unit[0]), round_up(width, unit[1])
    cut, step = TileReader(given.request, *padded), step or _steps(needs)
    for top in range(0, height, step[0]):
        for left in range(0, width, step[1]):
            yield cut(top, left, min(step[0], padded[0] - top), min(step[1], padded[1] - left)), (top, left)


def plan_of_pieces(given: Input, needs: Demands) -> Plan:
    """Where `in_pieces` cuts an image, as if it were padded to whole pieces."""
    steps = _steps(needs)
    rows, columns = (
        Axis(round_up(length, step), step, tuple(range(0, length, step)))
        for length, step in zip((given.request.height, given.request.width), steps, strict=True)
    )
    return Plan(rows, columns)


def distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far two images are apart, value by value; infinite where one is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf)


def worst_piece(given: Input, needs: Demands, off: NDArray[Any], side: int) -> tuple[Inputs, tuple[int, int, int, int]]:
    """The piece of an image where it is off the most.

    Parameters
    ----------
    given
        The image and what goes with it.
    needs
        What all sides take.
    off
        [H', W', C'] of the restored image: by how much each value is off; infinite counts more than any number.
    side
        Of the piece in pixels, rounded up to the size rule.

    Returns
    -------
    inputs, place
        What a session takes but k, of the batch that it takes; and top, left, height and width in the image.
    """
    step = needs.shape[1:] if needs.shape else (round_up(side, needs.multiple),) * 2
    scale = needs.manifest.scale

    def badness(place: tuple[int, int]) -> float:
        top, left = (start * scale for start in place)
        piece = off[top : top + step[0] * scale, left : left + step[1] * scale].astype(np.float64)
        return float(np.sum(piece**2))

    inputs, (top, left) = max(pieces(given, needs, step), key=lambda piece: badness(piece[1]))
    if needs.shape is not None:
        together = needs.shape[0]
        inputs = tuple(np.repeat(one[:1], together, axis=0) for one in inputs)
    height, width = (min(length, end - at) for length, end, at in zip(step, off.shape, (top, left), strict=False))
    return inputs, (top, left, height, width)


def _joined(given: Input, needs: Demands, ways: Ways, inputs: Inputs) -> NDArray[np.float32]:
    """Restore one place of an image, whatever batch the model takes; float32[ways, channels, h, w]."""
    images, *extras = inputs
    if needs.shape is None:
        restored = ways(images, *extras)
    else:
        together = needs.shape[0]
        planes = [ways(*(np.repeat(one, together, axis=0) for one in (plane[None], *extras))) for plane in images]
        restored = np.concatenate([of_plane[:, :1] for of_plane in planes], axis=1)
    return np.stack([given.request.channels.join(planes) for planes in restored])


def _canvas(given: Input, scale: int, ways: int) -> NDArray[Any]:
    request = given.request
    return np.empty((ways, request.height * scale, request.width * scale, request.channels.channels), np.float32)


def _steps(needs: Demands) -> tuple[int, int]:
    if needs.shape is not None:
        return needs.shape[1:]
    side = round_up(PIECE, needs.multiple)
    return side, side
