"""Causes that move pixels and leave their values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ....instrumentation.metrics import psnr_of
from ..tile_regions import Place, Region
from .numbers import Finding, Image, squares

Offset = tuple[int, int]

#: What may become of an image, and how it is called; the ones after the third only of a square.
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
_AS_IT_IS = ""

#: The side of what a movement is estimated from; it is then tried on the whole.
_CROP = 256

#: Offsets up to this are tried one by one; larger ones are estimated by phase correlation.
_NEAR = 2


def movements(
    candidate: Image, reference: Image, value_range: tuple[float, float], cut: Sequence[Place], unit: str
) -> Iterator[Finding]:
    """Every orientation and shift that is possible: of the whole image, and of every tile by itself."""
    height, width = reference.shape[:2]
    yield from _of_regions(candidate, reference, value_range, [(slice(0, height), slice(0, width))], "the output")
    regions = [place.middle for place in cut if place.middle is not None]
    if len(cut) > 1 and regions:
        yield from _of_regions(candidate, reference, value_range, regions, f"every {unit} of the output")


def _of_regions(
    candidate: Image,
    reference: Image,
    value_range: tuple[float, float],
    regions: Sequence[Region],
    what: str,
) -> Iterator[Finding]:
    """The movement that is likeliest by the region that differs most, tried on all."""
    worst = max(regions, key=lambda region: squares(candidate[region], reference[region]))
    square = all(reference[region].shape[0] == reference[region].shape[1] for region in regions)
    names = [_AS_IT_IS, *itertools.islice(_ORIENTATIONS, None if square else _ALWAYS)]
    tried = {name: _estimate(candidate[worst], _turned(reference[worst], name)) for name in names}
    name = min(tried, key=lambda one: tried[one][1])
    offset, _ = tried[name]
    if (name, offset) == (_AS_IT_IS, (0, 0)):
        return
    still = _psnr([(candidate[region], reference[region]) for region in regions], value_range)
    moved = [overlapping(candidate[region], _turned(reference[region], name), offset) for region in regions]
    undone = _psnr(moved, value_range)
    said = [*([name] if name else []), *([f"shifted {words(offset)}"] if offset != (0, 0) else [])]
    details = {"orientation": name or None, "down": offset[0], "right": offset[1], "each": len(regions) > 1}
    yield Finding(
        "orientation" if name else "shift",
        f"{what} is the reference {' and '.join(said)}",
        details,
        undone,
        undone - still,
    )


def _turned(image: Image, name: str) -> Image:
    return _ORIENTATIONS[name](image) if name else image


def _psnr(pairs: Sequence[tuple[Image, Image]], value_range: tuple[float, float]) -> float:
    """Of many pairs taken together."""
    values = sum(one.size for one, _ in pairs)
    return psnr_of(sum(itertools.starmap(squares, pairs)) / max(1, values), value_range)


def find_offset(candidate: Image, reference: Image) -> Offset:
    """How many pixels (down, right) the candidate is moved against the reference, as far as that can be told."""
    return _estimate(candidate, reference)[0]


def _estimate(candidate: Image, reference: Image) -> tuple[Offset, float]:
    """The likeliest offset, from the middle of both in gray, and the mean squared difference that it leaves there."""
    ours, theirs = (_gray(image) for image in (candidate, reference))
    near = range(-_NEAR, _NEAR + 1)
    offsets = {*itertools.product(near, near), _correlated(ours, theirs)}
    possible = [(y, x) for y, x in offsets if abs(y) <= ours.shape[0] // 4 and abs(x) <= ours.shape[1] // 4]
    left = {offset: _mean_square(*overlapping(ours, theirs, offset)) for offset in possible}
    # Of equals, the smallest.
    best = min(possible, key=lambda offset: (left[offset], abs(offset[0]) + abs(offset[1]), offset))
    return best, left[best]


def overlapping(candidate: Image, reference: Image, offset: Offset) -> tuple[Image, Image]:
    """What both show, where the candidate is moved by this offset."""
    (down, right), (height, width) = offset, candidate.shape[:2]
    return (
        candidate[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)],
        reference[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)],
    )


def words(offset: Offset) -> str:
    """``"1 pixel down and 2 pixels to the left"``."""
    parts = []
    for pixels, positive, negative in zip(offset, ("down", "to the right"), ("up", "to the left"), strict=True):
        if pixels:
            parts.append(f"{abs(pixels)} pixel{'s' * (abs(pixels) > 1)} {positive if pixels > 0 else negative}")
    return " and ".join(parts)


def _correlated(ours: Image, theirs: Image) -> Offset:
    """The peak of the phase correlation of two gray images."""
    height, width = ours.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    spectra = [np.fft.rfft2((gray - gray.mean()) * window) for gray in (ours, theirs)]
    cross = spectra[0] * spectra[1].conj()
    surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-12), s=(height, width))
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    return int((row + height // 2) % height - height // 2), int((column + width // 2) % width - width // 2)


def _gray(image: Image) -> Image:
    """The middle, at most `_CROP` in size, in gray."""
    top, left = (max(0, (side - _CROP) // 2) for side in image.shape[:2])
    gray: Image = image[top : top + _CROP, left : left + _CROP].mean(axis=2)
    return gray


def _mean_square(a: Image, b: Image) -> float:
    return float(np.square(a - b).mean())
