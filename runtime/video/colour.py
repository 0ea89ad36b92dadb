"""Convert the planes of a video frame to RGB and back, in float32.

The equations are those of ITU-T H.273 (MatrixCoefficients, VideoFullRangeFlag), for the matrices of BT.601, BT.709,
BT.2020 (non-constant luminance), SMPTE 240M and FCC. libswscale is not used: measured with libav 62, its white of
10-bit limited range is 254.0 of 255, 10-bit full range comes back up to 3 levels off, and smooth 4:2:0 chroma up to 5.
RGB is not clipped: frames hold values beyond black and white, and a model that changes nothing must not cut them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chroma import decimate, interpolate

Float32 = NDArray[np.float32]
Planes = Sequence[NDArray[Any]]

#: Matrix -> weights of red and blue in luma.
MATRICES = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
}

#: Where a chroma sample of 4:2:0 lies in its 2 x 2 luma samples -> whether on one of theirs, along rows and columns.
LOCATIONS = {"left": (False, True), "center": (False, False), "topleft": (True, True)}


@dataclass(frozen=True)
class PixelFormat:
    """How the samples of a frame are laid out in planes.

    Attributes
    ----------
    model
        ``"yuv"`` (planes Y, Cb, Cr), ``"gray"`` (Y), or ``"rgb"`` (planes G, B, R, as in libav's ``gbrp``).
    bits
        Bits of a sample, 8 to 16.
    halved
        Whether chroma has half the rows, and half the columns.
    """

    model: str
    bits: int
    halved: tuple[bool, bool] = (False, False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def shapes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the height and width of each plane of a frame."""
        if self.model == "gray":
            return [(height, width)]
        rows, columns = self.halved
        chroma = (-(-height // 2) if rows else height, -(-width // 2) if columns else width)
        return [(height, width), chroma, chroma]


@dataclass(frozen=True)
class Coding:
    """How colours are coded in the planes of a frame.

    Attributes
    ----------
    format
        The planes.
    matrix
        One of `MATRICES`; without meaning for gray and RGB.
    full
        True for full range (0 is black), False for limited range (16 is black, in 8 bits).
    location
        One of `LOCATIONS`; in 4:2:2 only columns are meant.
    """

    format: PixelFormat
    matrix: str
    full: bool
    location: str = "left"

    @property
    def _black_white(self) -> tuple[float, float]:
        """Luma of black, and its difference to white."""
        unit = 1 << (self.format.bits - 8)
        return (0.0, (1 << self.format.bits) - 1.0) if self.full else (16.0 * unit, 219.0 * unit)

    @property
    def _chroma(self) -> tuple[float, float]:
        """Value of no chroma, and the difference of its largest and smallest value."""
        unit = 1 << (self.format.bits - 8)
        return 128.0 * unit, (1 << self.format.bits) - 1.0 if self.full else 224.0 * unit


def to_rgb(planes: Planes, coding: Coding) -> Float32:
    """Return a frame as RGB.

    Parameters
    ----------
    planes
        Arrays of the shapes `coding.format.shapes`.
    coding
        What they hold.

    Returns
    -------
    float32[H, W, 3], or [H, W] of a gray frame; 0 is black and 1 is white. Values beyond these are kept.
    """
    layout = coding.format
    black, white = coding._black_white
    luma = _fractions(planes[0], black, white)
    if layout.model == "gray":
        return luma
    height, width = luma.shape
    result = np.empty((height, width, 3), np.float32)
    if layout.model == "rgb":
        result[:, :, 1] = luma
        result[:, :, 2], result[:, :, 0] = (_fractions(plane, black, white) for plane in planes[1:])
        return result
    blue, red = (_full_size(_fractions(plane, *coding._chroma), coding, height, width) for plane in planes[1:])
    of_red, of_blue = MATRICES[coding.matrix]
    of_green = 1 - of_red - of_blue
    np.add(luma, np.float32(2 * (1 - of_red)) * red, out=result[:, :, 0])
    np.add(luma, np.float32(2 * (1 - of_blue)) * blue, out=result[:, :, 2])
    green = luma - np.float32(2 * (1 - of_red) * of_red / of_green) * red
    np.subtract(green, np.float32(2 * (1 - of_blue) * of_blue / of_green) * blue, out=result[:, :, 1])
    return result


def from_rgb(image: Float32, coding: Coding) -> list[NDArray[Any]]:
    """Return the planes of an RGB or gray frame, rounded to nearest and clipped to the range of their type.

    Parameters
    ----------
    image
        float32[H, W, 3], or [H, W] for gray; as from `to_rgb`.
    coding
        What the planes shall hold.
    """
    layout = coding.format
    if image.ndim == 2 and layout.model != "gray":
        image = np.broadcast_to(image[:, :, None], (*image.shape, 3))
    black, white = coding._black_white
    if layout.model == "rgb":
        return [_samples(image[:, :, channel], black, white, layout.bits) for channel in (1, 2, 0)]
    if image.ndim == 2:
        return [_samples(image, black, white, layout.bits)]
    of_red, of_blue = MATRICES[coding.matrix]
    luma = image @ np.array([of_red, 1 - of_red - of_blue, of_blue], np.float32)
    planes = [_samples(luma, black, white, layout.bits)]
    if layout.model == "gray":
        return planes
    for channel, weight in ((2, of_blue), (0, of_red)):
        chroma = (image[:, :, channel] - luma) * np.float32(0.5 / (1 - weight))
        for axis, halved in enumerate(layout.halved):
            if halved:
                chroma = decimate(chroma, axis, cosited=LOCATIONS[coding.location][axis])
        planes.append(_samples(chroma, *coding._chroma, layout.bits))
    return planes


def _full_size(chroma: Float32, coding: Coding, height: int, width: int) -> Float32:
    # Columns first: the axes are independent, and rows are then copied as a whole.
    for axis in (1, 0):
        if coding.format.halved[axis]:
            chroma = interpolate(chroma, axis, (height, width)[axis], cosited=LOCATIONS[coding.location][axis])
    return chroma


def _fractions(plane: NDArray[Any], zero: float, span: float) -> Float32:
    values = plane.astype(np.float32)
    values -= np.float32(zero)
    values /= np.float32(span)
    return values


def _samples(values: Float32, zero: float, span: float, bits: int) -> NDArray[Any]:
    scaled = values * np.float32(span)
    scaled += np.float32(zero)
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, (1 << bits) - 1, out=scaled)
    samples: NDArray[Any] = scaled.astype(np.uint8 if bits == 8 else np.uint16)
    return samples


def assumed_matrix(height: int, width: int) -> str:
    """Return the matrix of a video that does not say: BT.709 for high definition, else BT.601, as mpv takes it."""
    return "bt709" if width >= 1280 or height > 576 else "bt601"
