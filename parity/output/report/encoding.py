"""How pictures and differences are put into a page."""

from __future__ import annotations

import base64

import numpy as np
import pyvips
from numpy.typing import NDArray

#: What a difference of nothing, and one that is no number, become; the logarithm takes the codes between.
EQUAL, NOT_FINITE = 0, 255

#: Decades below white that the codes reach: rounding in FP32 is near the seventh.
DECADES = 8


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Write a picture, [H, W] or [H, W, 3], as PNG: lossless WebP takes longer, and saves little on noise."""
    samples = np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[:, :, None])
    height, width, channels = samples.shape
    image = pyvips.Image.new_from_memory(samples.data, width, height, channels, "uchar")
    image = image.copy(interpretation="srgb" if channels == 3 else "b-w")
    data: bytes = image.write_to_buffer(".png", compression=6, filter="all")
    return data


def as_text(data: bytes) -> str:
    """Base64, which no markup can be found in."""
    return base64.b64encode(data).decode("ascii")


def largest_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest absolute difference over all channels: [H, W, C] -> [H, W]; NaN where either is not finite."""
    result = np.zeros(a.shape[:2], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for channel in range(a.shape[2]):  # one at a time: no temporary array of the size of a cube
            step = np.abs(a[:, :, channel] - b[:, :, channel])
            step[~np.isfinite(step)] = np.nan
            np.maximum(result, step, out=result)  # NaN stays
    return result


def logarithmic(difference: NDArray[np.float32], white: float) -> NDArray[np.uint8]:
    """Code differences on a logarithmic scale.

    Parameters
    ----------
    difference
        [H, W], as `largest_difference` returned it.
    white
        The length of the value range.

    Returns
    -------
    `EQUAL` for 0, `NOT_FINITE` for NaN, else from 1 for ``white * 10**-DECADES`` and less to 254 for `white` and more.
    """
    with np.errstate(divide="ignore"):
        places = 1 + 253 * (1 + np.log10(difference / np.float32(white)) / DECADES)
    codes = np.clip(np.rint(np.nan_to_num(places, nan=1.0, posinf=254, neginf=1)), 1, 254).astype(np.uint8)
    codes[difference == 0] = EQUAL
    codes[np.isnan(difference)] = NOT_FINITE
    return codes
