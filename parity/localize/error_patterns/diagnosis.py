"""Diagnosis of a failed image: which known error pattern explains the difference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....runtime.tiling.blend import Plan
from ..tile_regions import TileRegion, tile_regions
from . import geometry
from .pattern import Image, psnr
from .tiles import psnr_at_borders, psnr_by_tile
from .values import value_changes

#: In dB: what undoing a pattern must gain before it is named. 20 dB means that it explains 99 % of the squared error,
#: which the few parameters of a pattern cannot do for noise.
GAIN = 20.0

#: In dB: among patterns that explain the difference equally well up to this, the simplest is named, which comes first.
EQUIVALENT = 3.0

#: Least number of pixels: a few parameters explain any smaller image.
LEAST_PIXELS = 64

#: Most tiles that are named one by one.
NAMED_TILES = 3


@dataclass(frozen=True)
class Cause:
    """What is wrong with a candidate's image.

    Attributes
    ----------
    kind
        ``"nonfinite"``, ``"constant"``, ``"channels"``, ``"orientation"``, ``"shift"``, ``"gain"``, ``"clipped"``,
        ``"rounded"``, ``"tile"`` or ``"seams"``.
    text
        A sentence without its full stop.
    undone
        PSNR in dB after undoing it (for a tile: of the tile); None where it cannot be undone.
    details
        The numbers in `text` by name, as plain values.
    """

    kind: str
    text: str
    undone: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


def diagnose(
    candidate: Image,
    reference: Image,
    value_range: tuple[float, float],
    plan: Plan,
    scale: int = 1,
    *,
    threshold: float,
    unit: str = "tile",
) -> tuple[Cause, ...]:
    """Name the error pattern of an image, where one explains at least 99 % of the squared error (`GAIN`).

    Meant for images that failed: it tries many patterns, in time proportional to the size of the image.

    Parameters
    ----------
    candidate, reference
        float32[H', W', C'], the models' outputs.
    value_range
        Values of black and white.
    plan
        How the image was cut.
    scale
        Output pixels per input pixel.
    threshold
        Lowest PSNR in dB that passes.
    unit
        What the parts of the plan are called: ``"tile"`` or ``"piece"``.

    Returns
    -------
    Empty where no pattern explains the difference; several causes only for several tiles.
    """
    tiles = tile_regions(plan, scale, reference.shape[:2])
    if not np.isfinite(reference).all():
        return ()
    if not np.isfinite(candidate).all():
        return (_nonfinite(candidate, tiles, unit),)
    before = psnr(candidate, reference, value_range)
    if before >= threshold or math.prod(reference.shape[:2]) < LEAST_PIXELS:
        return ()
    lowest, highest = float(candidate.min()), float(candidate.max())
    if lowest == highest and float(np.ptp(reference)) > 0:
        return (Cause("constant", f"every value of the output is {lowest:g}", None, {"value": lowest}),)
    whole = list(_whole_image_causes(candidate, reference, value_range, tiles, unit))
    if whole:
        best = max(map(_undone, whole))
        return (next(cause for cause in whole if _undone(cause) >= best - EQUIVALENT),)
    return _tile_causes(candidate, reference, value_range, plan, scale, tiles, threshold, unit)


def _undone(cause: Cause) -> float:
    assert cause.undone is not None
    return cause.undone


def _whole_image_causes(
    candidate: Image, reference: Image, value_range: tuple[float, float], tiles: list[TileRegion], unit: str
) -> Iterator[Cause]:
    """Yield the patterns that explain the whole image."""
    for found in (
        *value_changes(candidate, reference, value_range),
        *geometry.movements(candidate, reference, value_range, tiles, unit),
    ):
        if found.gained >= GAIN:
            yield Cause(found.kind, f"{found.text} (undone: {_decibels(found.undone)})", found.undone, found.details)


def _tile_causes(
    candidate: Image,
    reference: Image,
    value_range: tuple[float, float],
    plan: Plan,
    scale: int,
    tiles: list[TileRegion],
    threshold: float,
    unit: str,
) -> tuple[Cause, ...]:
    """Name what is wrong in a few tiles only, or at the borders between them."""
    if len(tiles) == 1:
        return ()
    psnrs = psnr_by_tile(candidate, reference, value_range, tiles)
    if all(value >= threshold for value in psnrs.values()):
        found = psnr_at_borders(candidate, reference, value_range, plan, scale)
        if found is None or found.elsewhere < found.borders + GAIN:
            return ()
        numbers = f"{_decibels(found.borders)} there, {_decibels(found.elsewhere)} elsewhere"
        details = {"borders": found.borders, "elsewhere": found.elsewhere}
        return (Cause("seams", f"the difference lies where {unit}s meet ({numbers})", None, details),)
    wrong = sorted((tile for tile in psnrs if psnrs[tile] < threshold), key=lambda tile: psnrs[tile])
    shifted = [_shifted_tile(candidate, reference, value_range, tile, unit) for tile in wrong[:NAMED_TILES]]
    if any(shifted):
        return tuple(cause for cause in shifted if cause is not None)
    # Errors vary within an image, so a tile is named only when the others have no comparable error.
    least = min((value for value in psnrs.values() if value >= threshold), default=-math.inf)
    if len(wrong) > NAMED_TILES or psnrs[wrong[-1]] > least - GAIN:
        return ()
    others = "the others are equal" if math.isinf(least) else f"at least {least:.1f} dB in the others"
    return tuple(
        Cause("tile", f"{tile.named(unit)} differs: {psnrs[tile]:.1f} dB there, {others}", None, tile.as_json())
        for tile in tiles
        if tile in wrong
    )


def _shifted_tile(
    candidate: Image, reference: Image, value_range: tuple[float, float], tile: TileRegion, unit: str
) -> Cause | None:
    """Return the cause for a tile that was placed at an offset; None where it was not."""
    pair = candidate[tile.exclusive], reference[tile.exclusive]
    offset = geometry.find_offset(*pair)
    moved, still = psnr(*geometry.overlapping(*pair, offset), value_range), psnr(*pair, value_range)
    if offset == (0, 0) or moved < still + GAIN:
        return None
    text = f"{tile.named(unit)} is shifted {geometry.describe_offset(offset)} (undone: {_decibels(moved)} there)"
    return Cause("tile", text, moved, {**tile.as_json(), "down": offset[0], "right": offset[1]})


def _nonfinite(candidate: Image, tiles: list[TileRegion], unit: str) -> Cause:
    """Describe where values are NaN or infinite."""
    bad = ~np.isfinite(candidate)
    pixels: NDArray[np.bool_] = np.any(bad, axis=2)
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    count, share = int(bad.sum()), pixels.mean()
    box = {"top": int(rows[0]), "bottom": int(rows[-1]), "left": int(columns[0]), "right": int(columns[-1])}
    details: dict[str, Any] = {"values": count, **box}
    if share == 1:
        return Cause("nonfinite", "every pixel has NaN or infinite values", None, details)
    where = f"between the output's rows {box['top']} and {box['bottom']}, columns {box['left']} and {box['right']}"
    within = [tile for tile in tiles if not pixels.sum() - pixels[tile.full].sum()]
    if len(tiles) == 1 or not within:
        return Cause("nonfinite", f"the {count} NaN or infinite values lie {where}", None, details)
    # Where tiles overlap, several may contain them all: the runtime stops at the first of these.
    tile, *others = within
    shared = f" and {len(others)} that overlap it" if others else ""
    text = f"the {count} NaN or infinite values all lie in {tile.named(unit)}{shared}, {where}"
    return Cause("nonfinite", text, None, {**details, f"{unit}s": [one.as_json() for one in within]})


def _decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f} dB"
