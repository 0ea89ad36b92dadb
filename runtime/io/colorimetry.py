"""Convert spectra to sRGB: CIE 1931 standard observer, illuminant D65, and sRGB's transfer function."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Visible range in nm; outside it the illuminant and the matching functions are taken as zero.
VISIBLE = (380.0, 780.0)

#: Relative power of CIE standard illuminant D65 from 380 to 780 nm, every 10 nm (CIE 15, table T.1).
# fmt: off
_D65 = (
    49.9755, 54.6482, 82.7549, 91.486, 93.4318, 86.6823, 104.865, 117.008, 117.812,
    114.861, 115.923, 108.811, 109.354, 107.802, 104.79, 107.689, 104.405, 104.046,
    100, 96.3342, 95.788, 88.6856, 90.0062, 89.5991, 87.6987, 83.2886, 83.6992,
    80.0268, 80.2146, 82.2778, 78.2842, 69.7213, 71.6091, 74.349, 61.604, 69.8856,
    75.087, 63.5927, 46.4182, 66.8054, 63.3828,
)
# fmt: on

#: Tristimulus values of D65, the white point of sRGB.
_WHITE = np.array([0.95047, 1.0, 1.08883])

#: XYZ -> linear RGB of sRGB's primaries (IEC 61966-2-1).
_TO_RGB = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])

#: Lobes (height, centre, width below, width above the centre; nm) of the functions x, y and z: Wyman, Sloan, Shirley,
#: "Simple Analytic Approximations to the CIE XYZ Color Matching Functions", JCGT 2 (2), 2013, the multi-lobe fit.
_LOBES = (
    ((1.056, 599.8, 37.9, 31.0), (0.362, 442.0, 16.0, 26.7), (-0.065, 501.1, 20.4, 26.2)),
    ((0.821, 568.8, 46.9, 40.5), (0.286, 530.9, 16.3, 31.1)),
    ((1.217, 437.0, 11.8, 36.0), (0.681, 459.0, 26.0, 13.8)),
)

#: Least share of the response of x, y and z to D65 that bands must cover for meaningful colours.
_LEAST_COVER = 0.2


def matching_functions(wavelengths: Array) -> Array:
    """Return the CIE 1931 2-degree colour matching functions x, y, z at wavelengths in nm: [n] -> [n, 3]."""
    values = np.zeros((len(wavelengths), 3))
    for i, lobes in enumerate(_LOBES):
        for height, centre, below, above in lobes:
            width = np.where(wavelengths < centre, below, above)
            values[:, i] += height * np.exp(-0.5 * ((wavelengths - centre) / width) ** 2)
    return values


def rgb_weights(wavelengths: tuple[float, ...]) -> Array | None:
    """Return weights that convert spectral reflectances under D65 to linear sRGB.

    A band represents the wavelengths that are nearer to it than to its neighbours. The weights are normalised so that a
    reflectance of 1 in all bands is white, (1, 1, 1), whatever range the bands cover.

    Parameters
    ----------
    wavelengths
        Wavelengths of the bands in nm, in any order.

    Returns
    -------
    float64[bands, 3], or None
        None where the bands cover too little of the visible range.
    """
    centres = np.asarray(wavelengths, dtype=np.float64)
    if len(centres) < 3 or len(np.unique(centres)) < len(centres):
        return None
    order = np.argsort(centres)
    widths = np.empty_like(centres)
    widths[order] = np.gradient(centres[order])
    seen = (matching_functions(centres) * _d65(centres)[:, None]) * widths[:, None]
    grid = np.arange(VISIBLE[0], VISIBLE[1] + 1)
    whole = (matching_functions(grid) * _d65(grid)[:, None]).sum(axis=0)
    if (seen.sum(axis=0) < _LEAST_COVER * whole).any():
        return None
    weights: Array = (seen / seen.sum(axis=0) * _WHITE) @ _TO_RGB.T
    # The matrix has four digits; normalising makes white exact.
    weights /= weights.sum(axis=0)
    return weights


def encode(linear: NDArray[Any]) -> NDArray[np.uint8]:
    """Encode linear light, clipped to 0 to 1, in 8 bits with sRGB's transfer function (IEC 61966-2-1)."""
    light = np.clip(linear, 0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    levels: NDArray[np.uint8] = np.rint(255 * encoded).astype(np.uint8)
    return levels


def _d65(wavelengths: Array) -> Array:
    grid = np.arange(VISIBLE[0], VISIBLE[1] + 1, 10)
    power: Array = np.interp(wavelengths, grid, np.array(_D65), left=0, right=0)
    return power
