"""The numbers between two restored images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...instrumentation.metrics import psnr_of
from ...manifest import Manifest
from ...runtime.preprocess.normalization import from_model
from ..localize.tile_regions import Place
from .ssim import structural_similarity

#: Values that are taken at once: temporary arrays are of this size, whatever the image's.
_STRIP = 1 << 22


@dataclass(frozen=True)
class Histogram:
    """Absolute differences in steps of the output's samples: how many last places the two are apart.

    Attributes
    ----------
    bits
        Of a sample: 8 or 16. Results that are stored in floating point are counted in steps of 16 bits.
    counts
        Values that are equal, 1, 2, 3 to 4, 5 to 8, ... steps apart, once rounded and clipped to samples; bits + 2
        numbers. Values that are not finite are in none of them.
    """

    bits: int
    counts: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """``("0", "1", "2", "3-4", "5-8", ...)``."""
        ranges = [(2 ** (i - 1) + 1, 2**i) for i in range(1, self.bits + 1)]
        return ("0", "1", *(f"{low}-{high}" if low < high else f"{high}" for low, high in ranges))


@dataclass(frozen=True)
class Difference:
    """How far the candidate's images are from the reference's.

    Attributes
    ----------
    psnr
        dB, with the manifest's value range as the peak, on unrounded and unclipped values; infinite when all are equal.
    ssim
        Structural similarity on the same values, see `parity.similarity`; NaN where the image is smaller than its
        window.
    max_abs, mean_abs
        Absolute differences, in units of the value range's values.
    identical_8bit
        Share of pixels that are equal in every channel once rounded to 8 bits.
    histogram
        Differences in steps of the output's bit depth.
    nonfinite_candidate, nonfinite_reference
        Values that are NaN or infinite. Where there are any, psnr, ssim, max_abs and mean_abs are NaN.
    """

    psnr: float
    ssim: float
    max_abs: float
    mean_abs: float
    identical_8bit: float
    histogram: Histogram
    nonfinite_candidate: int
    nonfinite_reference: int

    @property
    def finite(self) -> bool:
        """True when no value is NaN or infinite."""
        return self.nonfinite_candidate == self.nonfinite_reference == 0


def difference(
    candidate: NDArray[np.float32],
    reference: NDArray[np.float32],
    manifest: Manifest,
    dtype: np.dtype[Any] = np.dtype(np.uint8),  # noqa: B008 - frozen
) -> Difference:
    """Compare two images.

    Parameters
    ----------
    candidate, reference
        float32[H, W, C], as the models give them.
    manifest
        Tells the value range, and its `clamp`.
    dtype
        Of the samples that are made of them.
    """
    bits = 8 if dtype == np.uint8 else 16
    white = np.dtype(np.uint8 if bits == 8 else np.uint16)
    squares = absolute = largest = 0.0
    identical, nonfinite = 0, [0, 0]
    counts = np.zeros(bits + 2, np.int64)
    for rows in _strips(reference.shape):
        ours, theirs = candidate[rows], reference[rows]
        finite = np.isfinite(ours) & np.isfinite(theirs)
        for side, values in enumerate((ours, theirs)):
            nonfinite[side] += int(values.size - np.isfinite(values).sum())
        with np.errstate(invalid="ignore"):  # What NaN and infinity make of these numbers, is not reported.
            error = np.abs(ours.astype(np.float64) - theirs)
            rounded = [from_model(values, manifest, np.dtype(np.uint8)) for values in (ours, theirs)]
            samples = [from_model(values, manifest, white).astype(np.int32) for values in (ours, theirs)]
        squares += float((error**2).sum())
        absolute += float(error.sum())
        largest = max(largest, float(error.max()))
        identical += int(((rounded[0] == rounded[1]) & finite).all(axis=2).sum())
        counts += np.bincount(_places(np.abs(samples[0] - samples[1])[finite]), minlength=bits + 2)
    clean, size = not any(nonfinite), reference.size
    return Difference(
        psnr=psnr_of(squares / size, manifest.value_range) if clean else math.nan,
        ssim=structural_similarity(candidate, reference, manifest.value_range) if clean else math.nan,
        max_abs=largest if clean else math.nan,
        mean_abs=absolute / size if clean else math.nan,
        identical_8bit=identical / (reference.shape[0] * reference.shape[1]),
        histogram=Histogram(bits, tuple(counts.tolist())),
        nonfinite_candidate=nonfinite[0],
        nonfinite_reference=nonfinite[1],
    )


def typical(
    candidate: NDArray[np.float32],
    reference: NDArray[np.float32],
    value_range: tuple[float, float],
    places: Sequence[Place],
) -> float:
    """Measure how close a half of every tile's values is.

    Parameters
    ----------
    candidate, reference
        float32[H, W, C].
    value_range
        What black and white are.
    places
        The tiles.

    Returns
    -------
    -20 log10 of the median of the absolute differences over the length of the value range, in dB, of the tile where
    that is least: what the PSNR would be if all values were as far apart. NaN where a median is not finite.
    """
    medians = [float(np.median(np.abs(candidate[place.own] - reference[place.own]))) for place in places]
    return psnr_of(float(np.max(np.square(medians))), value_range)


def _places(steps: NDArray[np.int32]) -> NDArray[np.int64]:
    """The place in a histogram: 0 for 0, 1 for 1, 2 for 2, 3 for 3 and 4, ..."""
    # The exponent of d - 1/2 is the number of binary digits of d - 1.
    return np.where(steps == 0, 0, np.frexp(np.maximum(steps, 1) - 0.5)[1] + 1).astype(np.int64)


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _STRIP // (shape[1] * shape[2]))
    return (slice(start, start + step) for start in range(0, shape[0], step))
