"""Running images piece by piece or tile by tile, and joining the outputs."""

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

#: Side of a piece in pixels, rounded up to the size multiple. All sides run the same pieces, so no overlap is needed.
PIECE = 256

#: Side of the piece on which blocks are compared, in pixels, rounded up to the size multiple.
TRACED = 128

#: Restores a batch on several sides: (images, *extras) -> float32[sides, B, C, H, W].
RunBatch = Callable[..., NDArray[np.float32]]


def count_pieces(given: Input, needs: Demands) -> int:
    """Return how many times `in_pieces` calls `done`, for a progress bar."""
    rows, columns = _steps(needs)
    return math.ceil(given.request.height / rows) * math.ceil(given.request.width / columns)


def in_pieces(
    given: Input, needs: Demands, run_batch: RunBatch, done: Callable[[], None] = lambda: None
) -> NDArray[np.float32]:
    """Run an image in pieces that do not overlap, padded at the edges by reflection to the size multiple.

    Parameters
    ----------
    given
        The image with its extra inputs.
    needs
        Requirements of all sides.
    run_batch
        See `RunBatch`.
    done
        Called after each piece.

    Returns
    -------
    float32[sides, H', W', C']
    """
    scale = needs.manifest.scale
    result = None
    for inputs, (top, left) in pieces(given, needs):
        piece = _joined(given, needs, run_batch, inputs)
        if result is None:
            result = _canvas(given, scale, len(piece))
        target = result[:, top * scale :, left * scale :][:, : piece.shape[2], : piece.shape[3]]
        target[...] = np.moveaxis(piece, 1, 3)[:, : target.shape[1], : target.shape[2]]
        done()
    assert result is not None
    return result


def in_tiles(given: Input, needs: Demands, plan: Plan, run_batch: RunBatch) -> NDArray[np.float32]:
    """Run an image in overlapping tiles and blend them, as the runtime does.

    Parameters
    ----------
    given
        The image with its extra inputs.
    needs
        Requirements of all sides.
    plan
        The tiling plan.
    run_batch
        See `RunBatch`.

    Returns
    -------
    float32[sides, H', W', C']
    """
    scale, request = needs.manifest.scale, given.request
    cut = TileReader(request, plan.rows.length, plan.columns.length)
    count = 0

    def tiles() -> Iterator[NDArray[np.float32]]:
        nonlocal count
        for top, left in plan.tiles:
            tile = _joined(given, needs, run_batch, cut(top, left, plan.rows.tile, plan.columns.tile))
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
    """Cut an image and its extra inputs into pieces.

    Parameters
    ----------
    given
        The image with its extra inputs.
    needs
        Requirements of all sides.
    step
        Height and width of a piece in pixels; None for the default.

    Yields
    ------
    inputs, corner
        What a session takes except k; and (top, left) in pixels.
    """
    height, width = given.request.height, given.request.width
    unit = needs.shape[1:] if needs.shape else (needs.multiple, needs.multiple)
    padded = round_up(height, unit[0]), round_up(width, unit[1])
    cut, step = TileReader(given.request, *padded), step or _steps(needs)
    for top in range(0, height, step[0]):
        for left in range(0, width, step[1]):
            yield cut(top, left, min(step[0], padded[0] - top), min(step[1], padded[1] - left)), (top, left)


def plan_of_pieces(given: Input, needs: Demands) -> Plan:
    """Return the plan of `in_pieces`, as if the image were padded to whole pieces."""
    steps = _steps(needs)
    rows, columns = (
        Axis(round_up(length, step), step, tuple(range(0, length, step)))
        for length, step in zip((given.request.height, given.request.width), steps, strict=True)
    )
    return Plan(rows, columns)


def distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the absolute difference of two images, value by value; infinite where one is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance: NDArray[np.float32] = np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf)
        return distance


def worst_piece(
    given: Input, needs: Demands, error: NDArray[Any], side: int
) -> tuple[Inputs, tuple[int, int, int, int]]:
    """Find the piece of an image with the largest sum of squared errors.

    Parameters
    ----------
    given
        The image with its extra inputs.
    needs
        Requirements of all sides.
    error
        [H', W', C']: error of each value of the output; infinite values count most.
    side
        Of the piece in pixels, rounded up to the size multiple.

    Returns
    -------
    inputs, place
        What a session takes except k, repeated to its batch size; and (top, left, height, width) in the input image.
    """
    step = needs.shape[1:] if needs.shape else (round_up(side, needs.multiple),) * 2
    scale = needs.manifest.scale

    def squared_error(place: tuple[int, int]) -> float:
        top, left = (start * scale for start in place)
        piece = error[top : top + step[0] * scale, left : left + step[1] * scale].astype(np.float64)
        return float(np.sum(piece**2))

    inputs, (top, left) = max(pieces(given, needs, step), key=lambda piece: squared_error(piece[1]))
    if needs.shape is not None:
        batch = needs.shape[0]
        inputs = tuple(np.repeat(one[:1], batch, axis=0) for one in inputs)
    height, width = (min(length, end - at) for length, end, at in zip(step, error.shape, (top, left), strict=False))
    return inputs, (top, left, height, width)


def _joined(given: Input, needs: Demands, run_batch: RunBatch, inputs: Inputs) -> NDArray[np.float32]:
    """Restore one piece, whatever batch size the models take; return float32[sides, channels, h, w]."""
    images, *extras = inputs
    if needs.shape is None:
        restored = run_batch(images, *extras)
    else:
        batch = needs.shape[0]
        planes = [run_batch(*(np.repeat(one, batch, axis=0) for one in (plane[None], *extras))) for plane in images]
        restored = np.concatenate([of_plane[:, :1] for of_plane in planes], axis=1)
    return np.stack([given.request.channels.join(planes) for planes in restored])


def _canvas(given: Input, scale: int, sides: int) -> NDArray[Any]:
    request = given.request
    return np.empty((sides, request.height * scale, request.width * scale, request.channels.channels), np.float32)


def _steps(needs: Demands) -> tuple[int, int]:
    if needs.shape is not None:
        return needs.shape[1:]
    side = round_up(PIECE, needs.multiple)
    return side, side
