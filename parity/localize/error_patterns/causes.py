"""Which cause explains the difference between two images, of those that are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....runtime.tiling.blend import Plan
from ..tile_regions import Place, places
from . import geometry, values
from .numbers import Image, psnr
from .tiles import between_tiles, levels_of_tiles

#: In dB: what undoing a cause must gain before it is named. That much means that it explains 99 % of the squared error:
#: no noise is explained so well by the few numbers that a cause has.
GAIN = 20.0

#: In dB: causes that explain so nearly the same are alike, and the simplest is named; they are tried in that order.
ALIKE = 3.0

#: Pixels that an image must have: of less, a few numbers explain anything.
PIXELS = 64

#: Tiles that are named one by one.
NAMED = 3


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
        PSNR in dB once it is undone, where it was (for a tile: there); None where there is nothing to undo.
    details
        The numbers in it, by name: plain values.
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
    """Name what is wrong with an image, where that is beyond doubt.

    Takes time in proportion to the image; meant for images that failed.

    Parameters
    ----------
    candidate, reference
        float32[H', W', C'], as the models give them.
    value_range
        What black and white are.
    plan, scale
        How the image was cut, and output pixels per input pixel.
    threshold
        The least PSNR in dB that passes: what is above it is no error.
    unit
        What the parts of the plan are called.

    Returns
    -------
    Nothing where no cause explains at least 99 % of the squared error (`GAIN`); more than one cause only for several
    tiles.
    """
    cut = places(plan, scale, reference.shape[:2])
    if not np.isfinite(reference).all():
        return ()
    if not np.isfinite(candidate).all():
        return (_nonfinite(candidate, cut, unit),)
    before = psnr(candidate, reference, value_range)
    if before >= threshold or math.prod(reference.shape[:2]) < PIXELS:
        return ()
    lowest, highest = float(candidate.min()), float(candidate.max())
    if lowest == highest and float(np.ptp(reference)) > 0:
        return (Cause("constant", f"every value of the output is {lowest:g}", None, {"value": lowest}),)
    whole = list(_of_the_whole(candidate, reference, value_range, cut, unit))
    if whole:
        best = max(map(_undone, whole))
        return (next(cause for cause in whole if _undone(cause) >= best - ALIKE),)
    return _of_tiles(candidate, reference, value_range, plan, scale, cut, threshold, unit)


def _undone(cause: Cause) -> float:
    assert cause.undone is not None
    return cause.undone


def _of_the_whole(
    candidate: Image, reference: Image, value_range: tuple[float, float], cut: list[Place], unit: str
) -> Iterator[Cause]:
    """Whatever explains the whole image."""
    for found in (
        *values.changes(candidate, reference, value_range),
        *geometry.movements(candidate, reference, value_range, cut, unit),
    ):
        if found.gained >= GAIN:
            yield Cause(found.kind, f"{found.text} (undone: {_decibels(found.undone)})", found.undone, found.details)


def _of_tiles(
    candidate: Image,
    reference: Image,
    value_range: tuple[float, float],
    plan: Plan,
    scale: int,
    cut: list[Place],
    threshold: float,
    unit: str,
) -> tuple[Cause, ...]:
    """Whatever is wrong in a few tiles only, or between them."""
    if len(cut) == 1:
        return ()
    levels = levels_of_tiles(candidate, reference, value_range, cut)
    if all(level >= threshold for level in levels.values()):
        found = between_tiles(candidate, reference, value_range, plan, scale)
        if found is None or found.elsewhere < found.there + GAIN:
            return ()
        said = f"{_decibels(found.there)} there, {_decibels(found.elsewhere)} elsewhere"
        details = {"borders": found.there, "elsewhere": found.elsewhere}
        return (Cause("seams", f"the difference lies where {unit}s meet ({said})", None, details),)
    wrong = sorted((place for place in levels if levels[place] < threshold), key=lambda place: levels[place])
    moved = [_moved(candidate, reference, value_range, place, unit) for place in wrong[:NAMED]]
    if any(moved):
        return tuple(cause for cause in moved if cause is not None)
    # Images are not the same everywhere, and neither are errors: only what the other tiles do not have at all.
    least = min((level for level in levels.values() if level >= threshold), default=-math.inf)
    if len(wrong) > NAMED or levels[wrong[-1]] > least - GAIN:
        return ()
    others = "the others are equal" if math.isinf(least) else f"at least {least:.1f} dB in the others"
    return tuple(
        Cause("tile", f"{place.named(unit)} differs: {levels[place]:.1f} dB there, {others}", None, place.as_json())
        for place in cut
        if place in wrong
    )


def _moved(
    candidate: Image, reference: Image, value_range: tuple[float, float], place: Place, unit: str
) -> Cause | None:
    """A tile that lies beside its place."""
    inside = candidate[place.inside], reference[place.inside]
    offset = geometry.find_offset(*inside)
    moved, still = psnr(*geometry.overlapping(*inside, offset), value_range), psnr(*inside, value_range)
    if offset == (0, 0) or moved < still + GAIN:
        return None
    text = f"{place.named(unit)} is pasted {geometry.words(offset)} (undone: {_decibels(moved)} there)"
    return Cause("tile", text, moved, {**place.as_json(), "down": offset[0], "right": offset[1]})


def _nonfinite(candidate: Image, cut: list[Place], unit: str) -> Cause:
    """Where values are NaN or infinite."""
    bad = ~np.isfinite(candidate)
    pixels: NDArray[np.bool_] = np.any(bad, axis=2)
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    count, share = int(bad.sum()), pixels.mean()
    box = {"top": int(rows[0]), "bottom": int(rows[-1]), "left": int(columns[0]), "right": int(columns[-1])}
    details: dict[str, Any] = {"values": count, **box}
    if share == 1:
        return Cause("nonfinite", "no pixel is without NaN or infinite values", None, details)
    where = f"between the output's rows {box['top']} and {box['bottom']}, columns {box['left']} and {box['right']}"
    within = [place for place in cut if not pixels.sum() - pixels[place.all].sum()]
    if len(cut) == 1 or not within:
        return Cause("nonfinite", f"the {count} NaN or infinite values lie {where}", None, details)
    # Where tiles overlap, several may have them all: the first is the one that the runtime stops at.
    place, *others = within
    shared = f" and {len(others)} that overlap it" if others else ""
    text = f"the {count} NaN or infinite values all lie in {place.named(unit)}{shared}, {where}"
    return Cause("nonfinite", text, None, {**details, f"{unit}s": [one.as_json() for one in within]})


def _decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f} dB"
