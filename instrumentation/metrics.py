"""PSNR between images and the tolerances of comparisons. Needs NumPy only, so that every layer can use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tolerance:
    """Largest difference between two implementations of a network that counts as rounding.

    Attributes
    ----------
    psnr
        Smallest PSNR in dB when both use the same key graphs. Rounding alone stays far above it.
    similarity
        Tolerance of similarities, relative to the largest similarity of a row. A link that only one implementation
        selects is a near tie when its similarity is within this tolerance of the row's k-th, and wrong otherwise.
    """

    psnr: float
    similarity: float


#: By the lower precision of the two; docs/measurements/precision.md has the measurements.
TOLERANCES = {
    "fp32": Tolerance(90.0, 1e-4),
    "fp16": Tolerance(50.0, 1e-2),
    "bf16": Tolerance(40.0, 5e-2),
}

#: The largest finite value of each precision.
LARGEST = {"fp16": 65504.0, "bf16": 3.3895313892515355e38, "fp32": 3.4028234663852886e38}

#: PSNR in dB of equal images where a finite number is needed. Rounding alone stays well below.
EQUAL_DB = 200.0


def psnr(a: NDArray[Any], b: NDArray[Any], value_range: tuple[float, float]) -> float:
    """Return the peak signal-to-noise ratio 10 log10(peak^2 / mean((a - b)^2)).

    Parameters
    ----------
    a, b
        Arrays of one shape and any real dtype.
    value_range
        (low, high); the peak is high - low.

    Returns
    -------
    float
        In dB; infinite for equal arrays, NaN if a value is not finite.
    """
    return psnr_of(float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)), value_range)


def psnr_of(squared_error: float, value_range: tuple[float, float]) -> float:
    """Return the PSNR in dB of a mean squared error; see `psnr`."""
    if squared_error == 0:
        return math.inf
    if not math.isfinite(squared_error):
        return math.nan
    return 10 * math.log10((value_range[1] - value_range[0]) ** 2 / squared_error)
