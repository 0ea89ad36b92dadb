"""Metrics between two restored images."""

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
from .ssim import structural_similarity

#: Rows and columns of an image.
Region = tuple[slice, slice]

#: Values that are processed at once; bounds the size of temporary arrays, whatever the size of the image.
_STRIP = 1 << 22


@dataclass(frozen=True)
class Histogram:
    """Histogram of absolute differences in steps of the output's integer samples.

    Attributes
    ----------
    bits
        Of a sample: 8 or 16. Floating-point outputs are counted in steps of 16 bits.
    counts
        Number of values that are equal, 1, 2, 3 to 4, 5 to 8, ... steps apart, once rounded and clipped to samples;
        bits + 2 numbers. Values that are not finite are not counted.
    """

    bits: int
    counts: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the bins: ``("0", "1", "2", "3-4", "5-8", ...)``."""
        ranges = [(2 ** (i - 1) + 1, 2**i) for i in range(1, self.bits + 1)]
        return ("0", "1", *(f"{low}-{high}" if low < high else f"{high}" for low, high in ranges))


@dataclass(frozen=True)
class Difference:
    """Difference between the candidate's and the reference's output image.

    Attributes
    ----------
    psnr
        In dB, with the manifest's value range as the peak, on unrounded and unclipped values; infinite for equal
        images.
    ssim
        Structural similarity on the same values, see `metrics.ssim`; NaN where the image is smaller than the window.
    max_abs, mean_abs
        Absolute differences, in units of the value range.
    identical_8bit
        Fraction of pixels that are equal in every channel once rounded to 8 bits, 0 to 1.
    histogram
        Differences in steps of the output's bit depth.
    nonfinite_candidate, nonfinite_reference
        Number of NaN or infinite values. Where there are any, psnr, ssim, max_abs and mean_abs are NaN.
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
        float32[H, W, C], the models' outputs.
    manifest
        For the value range and `clamp`.
    dtype
        Of the output image: the histogram counts steps of its samples.
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
        with np.errstate(invalid="ignore"):  # Results with NaN or infinity are not reported.
            error = np.abs(ours.astype(np.float64) - theirs)
            rounded = [from_model(values, manifest, np.dtype(np.uint8)) for values in (ours, theirs)]
            samples = [from_model(values, manifest, white).astype(np.int32) for values in (ours, theirs)]
        squares += float((error**2).sum())
        absolute += float(error.sum())
        largest = max(largest, float(error.max()))
        identical += int(((rounded[0] == rounded[1]) & finite).all(axis=2).sum())
        counts += np.bincount(_histogram_bins(np.abs(samples[0] - samples[1])[finite]), minlength=bits + 2)
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


def median_tile_error(
    candidate: NDArray[np.float32],
    reference: NDArray[np.float32],
    value_range: tuple[float, float],
    regions: Sequence[Region],
) -> float:
    """Return the median absolute difference of the worst tile, in dB.

    Parameters
    ----------
    candidate, reference
        float32[H, W, C].
    value_range
        Values of black and white.
    regions
        Where the tiles are.

    Returns
    -------
    min over the tiles of -20 log10(median |candidate - reference| / (white - black)): the PSNR that the tile would have
    if all its differences were equal to the median. NaN where a median is not finite.
    """
    medians = [float(np.median(np.abs(candidate[region] - reference[region]))) for region in regions]
    return psnr_of(float(np.max(np.square(medians))), value_range)


def _histogram_bins(steps: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the bin of the histogram: 0 for 0, 1 for 1, 2 for 2, 3 for 3 and 4, ..."""
    # The exponent of d - 1/2 is the number of binary digits of d - 1.
    return np.where(steps == 0, 0, np.frexp(np.maximum(steps, 1) - 0.5)[1] + 1).astype(np.int64)


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _STRIP // (shape[1] * shape[2]))
    return (slice(start, start + step) for start in range(0, shape[0], step))
