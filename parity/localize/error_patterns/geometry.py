"""Error patterns that move pixels and leave their values: orientation and shift."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ....instrumentation.metrics import psnr_of
from ...metrics.image import Region
from ..tile_regions import TileRegion
from .pattern import ErrorPattern, Image, squared_error

Offset = tuple[int, int]

#: Orientations, by how they are described; those after `_ALWAYS` are possible for square images only.
_ORIENTATIONS: dict[str, Callable[[Image], Image]] = {
    "rotated by 180 degrees": lambda image: image[::-1, ::-1],
    "flipped upside down": lambda image: image[::-1],
    "mirrored left to right": lambda image: image[:, ::-1],
    "transposed": lambda image: image.swapaxes(0, 1),
    "rotated by 90 degrees counterclockwise": lambda image: np.rot90(image),
    "rotated by 90 degrees clockwise": lambda image: np.rot90(image, -1),
    "transposed across the other diagonal": lambda image: np.rot90(image, 2).swapaxes(0, 1),
}
_ALWAYS = 3
_UPRIGHT = ""

#: Side of the crop on which a movement is estimated, in pixels; it is then tried on the whole.
_CROP = 256

#: Offsets up to this many pixels are tried one by one; larger ones are estimated by phase correlation.
_NEAR = 2


def movements(
    candidate: Image, reference: Image, value_range: tuple[float, float], tiles: Sequence[TileRegion], unit: str
) -> Iterator[ErrorPattern]:
    """Yield the likeliest movement (orientation and shift) of the whole image, and that of every tile within itself.

    Parameters
    ----------
    candidate, reference
        float32[H, W, C], finite.
    value_range
        Values of black and white.
    tiles
        Regions of the tiles.
    unit
        What a tile is called.
    """
    height, width = reference.shape[:2]
    yield from _movement_of_regions(
        candidate, reference, value_range, [(slice(0, height), slice(0, width))], "the output"
    )
    regions = [tile.centre for tile in tiles if tile.centre is not None]
    if len(tiles) > 1 and regions:
        yield from _movement_of_regions(candidate, reference, value_range, regions, f"every {unit} of the output")


def _movement_of_regions(
    candidate: Image,
    reference: Image,
    value_range: tuple[float, float],
    regions: Sequence[Region],
    what: str,
) -> Iterator[ErrorPattern]:
    """Estimate the movement on the region that differs most, and yield it with what it gains on all regions."""
    worst = max(regions, key=lambda region: squared_error(candidate[region], reference[region]))
    square = all(reference[region].shape[0] == reference[region].shape[1] for region in regions)
    names = [_UPRIGHT, *itertools.islice(_ORIENTATIONS, None if square else _ALWAYS)]
    tried = {name: _estimate(candidate[worst], _oriented(reference[worst], name)) for name in names}
    name = min(tried, key=lambda one: tried[one][1])
    offset, _ = tried[name]
    if (name, offset) == (_UPRIGHT, (0, 0)):
        return
    still = _psnr([(candidate[region], reference[region]) for region in regions], value_range)
    moved = [overlapping(candidate[region], _oriented(reference[region], name), offset) for region in regions]
    undone = _psnr(moved, value_range)
    parts = [*([name] if name else []), *([f"shifted {describe_offset(offset)}"] if offset != (0, 0) else [])]
    details = {"orientation": name or None, "down": offset[0], "right": offset[1], "each": len(regions) > 1}
    yield ErrorPattern(
        "orientation" if name else "shift",
        f"{what} is the reference {' and '.join(parts)}",
        details,
        undone,
        undone - still,
    )


def _oriented(image: Image, name: str) -> Image:
    return _ORIENTATIONS[name](image) if name else image


def _psnr(pairs: Sequence[tuple[Image, Image]], value_range: tuple[float, float]) -> float:
    """Return the PSNR of many pairs taken together."""
    values = sum(one.size for one, _ in pairs)
    return psnr_of(sum(itertools.starmap(squared_error, pairs)) / max(1, values), value_range)


def find_offset(candidate: Image, reference: Image) -> Offset:
    """Estimate by how many pixels (down, right) the candidate is shifted against the reference."""
    return _estimate(candidate, reference)[0]


def _estimate(candidate: Image, reference: Image) -> tuple[Offset, float]:
    """Estimate the offset on the central crops in gray; return it with the remaining mean squared difference."""
    ours, theirs = (_gray(image) for image in (candidate, reference))
    near = range(-_NEAR, _NEAR + 1)
    offsets = {*itertools.product(near, near), _phase_correlation(ours, theirs)}
    possible = [(y, x) for y, x in offsets if abs(y) <= ours.shape[0] // 4 and abs(x) <= ours.shape[1] // 4]
    left = {offset: _mean_square(*overlapping(ours, theirs, offset)) for offset in possible}
    # Among equally good offsets, the smallest.
    best = min(possible, key=lambda offset: (left[offset], abs(offset[0]) + abs(offset[1]), offset))
    return best, left[best]


def overlapping(candidate: Image, reference: Image, offset: Offset) -> tuple[Image, Image]:
    """Crop both images to the part they have in common when the candidate is shifted by an offset.

    Parameters
    ----------
    candidate, reference
        [H, W, ...].
    offset
        Pixels (down, right).
    """
    (down, right), (height, width) = offset, candidate.shape[:2]
    return (
        candidate[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)],
        reference[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)],
    )


def describe_offset(offset: Offset) -> str:
    """Describe an offset: ``"1 pixel down and 2 pixels to the left"``."""
    parts = []
    for pixels, positive, negative in zip(offset, ("down", "to the right"), ("up", "to the left"), strict=True):
        if pixels:
            parts.append(f"{abs(pixels)} pixel{'s' * (abs(pixels) > 1)} {positive if pixels > 0 else negative}")
    return " and ".join(parts)


def _phase_correlation(ours: Image, theirs: Image) -> Offset:
    """Return the offset at the peak of the phase correlation of two gray images."""
    # Imported late: only images that failed get here.
    from skimage.registration import phase_cross_correlation

    height, width = ours.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    windowed = [(gray - gray.mean()) * window for gray in (ours, theirs)]
    if not all(image.any() for image in windowed):
        return 0, 0  # A constant image has no phase.
    (down, right), _, _ = phase_cross_correlation(*windowed)
    return int(down), int(right)


def _gray(image: Image) -> Image:
    """Return the central crop, at most `_CROP` pixels a side, in gray."""
    top, left = (max(0, (side - _CROP) // 2) for side in image.shape[:2])
    gray: Image = image[top : top + _CROP, left : left + _CROP].mean(axis=2)
    return gray


def _mean_square(a: Image, b: Image) -> float:
    return float(np.square(a - b).mean())
