"""Encoding of pictures and differences for embedding in a page."""

from __future__ import annotations

import base64

import numpy as np
import pyvips
from numpy.typing import NDArray

from .... import forks

#: Codes of a zero and of a non-finite difference; the codes between are on a logarithmic scale.
EQUAL, NOT_FINITE = 0, 255

#: Decades below white that the codes cover; rounding in FP32 is near the seventh.
DECADES = 8


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a picture, uint8[H, W] or [H, W, 3], as PNG. Lossless WebP takes longer and saves little on noise."""
    samples = np.ascontiguousarray(pixels if pixels.ndim == 3 else pixels[:, :, None])
    height, width, channels = samples.shape
    forks.require_vips()
    image = pyvips.Image.new_from_memory(samples.data, width, height, channels, "uchar")
    image = image.copy(interpretation="srgb" if channels == 3 else "b-w")
    data: bytes = image.write_to_buffer(".png", compression=6, filter="all")
    return data


def as_text(data: bytes) -> str:
    """Encode as base64, which cannot contain markup."""
    return base64.b64encode(data).decode("ascii")


def largest_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest absolute difference over all channels, [H, W, C] -> [H, W]; NaN where either is not finite."""
    result = np.zeros(a.shape[:2], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for channel in range(a.shape[2]):  # One at a time, to avoid temporary arrays of the size of a cube.
            step = np.abs(a[:, :, channel] - b[:, :, channel])
            step[~np.isfinite(step)] = np.nan
            np.maximum(result, step, out=result)  # NaN propagates.
    return result


def logarithmic(difference: NDArray[np.float32], white: float) -> NDArray[np.uint8]:
    """Code differences on a logarithmic scale.

    Parameters
    ----------
    difference
        float32[H, W] from `largest_difference`.
    white
        Length of the value range.

    Returns
    -------
    uint8[H, W]: `EQUAL` for 0, `NOT_FINITE` for NaN, else from 1 for at most ``white * 10**-DECADES`` to 254 for at
    least `white`.
    """
    with np.errstate(divide="ignore"):
        places = 1 + 253 * (1 + np.log10(difference / np.float32(white)) / DECADES)
    codes: NDArray[np.uint8] = np.clip(np.rint(np.nan_to_num(places, nan=1.0, posinf=254, neginf=1)), 1, 254).astype(
        np.uint8
    )
    codes[difference == 0] = EQUAL
    codes[np.isnan(difference)] = NOT_FINITE
    return codes
