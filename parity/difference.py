"""The numbers between two restored images, summed over any number of pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..manifest import Manifest
from ..runtime.metrics import psnr_of
from ..runtime.restorer import from_model


@dataclass(frozen=True)
class Difference:
    """How far the candidate's images are from the reference's.

    Attributes
    ----------
    psnr
        dB, with the manifest's value range as the peak, on unrounded and unclipped values; infinite when all are equal.
    max_abs, mean_abs
        Absolute differences, in units of the value range's values.
    identical_8bit
        Share of pixels that are equal in every channel once rounded to 8 bits.
    nonfinite_candidate, nonfinite_reference
        Values that are NaN or infinite. Where there are any, psnr, max_abs and mean_abs are NaN.
    """

    psnr: float
    max_abs: float
    mean_abs: float
    identical_8bit: float
    nonfinite_candidate: int
    nonfinite_reference: int

    @property
    def finite(self) -> bool:
        """True when no value is NaN or infinite."""
        return self.nonfinite_candidate == self.nonfinite_reference == 0


class DifferenceSum:
    """Adds up the differences of pieces of one image.

    Parameters
    ----------
    manifest
        Tells the value range.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._squares = self._absolute = self._largest = 0.0
        self._values = self._pixels = self._identical = 0
        self._nonfinite = [0, 0]

    def add(
        self, candidate: NDArray[np.float32], reference: NDArray[np.float32], shown: tuple[int, int] | None = None
    ) -> None:
        """Add a piece, [B, C, H, W] of both; of these only the first (height, width) where `shown` says so."""
        if shown is not None:
            candidate, reference = (values[:, :, : shown[0], : shown[1]] for values in (candidate, reference))
        finite = np.isfinite(candidate) & np.isfinite(reference)
        with np.errstate(invalid="ignore"):  # What NaN and infinity make of these numbers, `result` does not report.
            error = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
            rounded = [from_model(values, self._manifest, np.dtype(np.uint8)) for values in (candidate, reference)]
        self._squares += float((error**2).sum())
        self._absolute += float(error.sum())
        self._largest = max(self._largest, float(error.max()))
        self._values += error.size
        identical = ((rounded[0] == rounded[1]) & finite).all(axis=1)
        self._identical += int(identical.sum())
        self._pixels += identical.size
        for side, values in enumerate((candidate, reference)):
            self._nonfinite[side] += int((~np.isfinite(values)).sum())

    def result(self) -> Difference:
        """The difference over everything added."""
        finite = not any(self._nonfinite)
        return Difference(
            psnr=psnr_of(self._squares / self._values, self._manifest.value_range) if finite else math.nan,
            max_abs=self._largest if finite else math.nan,
            mean_abs=self._absolute / self._values if finite else math.nan,
            identical_8bit=self._identical / self._pixels,
            nonfinite_candidate=self._nonfinite[0],
            nonfinite_reference=self._nonfinite[1],
        )
