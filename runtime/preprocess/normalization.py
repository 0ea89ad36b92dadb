"""How an image's samples become the numbers that a model takes, and a model's numbers an image's samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...manifest import Manifest

#: Floating-point images go from 0 to 1. Noise leaves that range, but not by this much.
FLOAT_LIMIT = 8.0

#: A picture has at most so many channels; what has more is a spectrum.
_PICTURE_CHANNELS = 4


@dataclass(frozen=True)
class Normalisation:
    """The way from samples to a model's numbers: (max(x, least) - offset) / divisor * gain, then its value range.

    It was found on a whole image, so that every tile of it is treated alike.

    Attributes
    ----------
    least
        Smaller samples are raised to it; None leaves them.
    offset, divisor, gain
        As above.
    value_range
        What 0 and 1 become.
    notice
        What must be said of it; empty for nothing.
    """

    least: float | None
    offset: float
    divisor: float
    gain: float
    value_range: tuple[float, float]
    notice: str = ""

    def __call__(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Map samples of the image, or of a part of it; the result is the caller's own."""
        values = samples.astype(np.float32)
        if self.least is not None:
            np.maximum(values, np.float32(self.least), out=values)
        if self.offset != 0:
            values -= np.float32(self.offset)
        if self.divisor != 1:
            values /= np.float32(self.divisor)
        if self.gain != 1:
            values *= np.float32(self.gain)
        low, high = self.value_range
        if (low, high) != (0.0, 1.0):
            values = values * np.float32(high - low) + np.float32(low)
        return values


def normalisation(manifest: Manifest, samples: NDArray[Any]) -> Normalisation:
    """Find how a whole image is normalised.

    Parameters
    ----------
    manifest
        Its `normalisation` (see `manifest.NORMALISATIONS`), `gain` and `value_range`.
    samples
        The image, of any shape. An image of one value has no range: with ``"range"`` it becomes 0, and so does, with
        ``"peak"``, one that is nowhere positive. A notice says it.

    Raises
    ------
    InputError
        Its type or its values are not possible.
    """
    way, value_range = manifest.normalisation, manifest.value_range
    if way == "type":
        white = white_level(samples.dtype)
        if samples.dtype.kind == "f":
            low, high = extent(samples, "image")
            if max(-low, high) > FLOAT_LIMIT:
                raise InputError(
                    f"the image holds values from {low:g} to {high:g}, but floating-point images go from 0 to 1; "
                    "divide it by its white level"
                )
        return Normalisation(None, 0.0, white, 1.0, value_range)
    low, high = extent(samples, "image")
    if way == "range":
        flat = "" if high > low else f"every sample of the image is {low:g}: without a range it goes in as black"
        return Normalisation(None, low, high - low if high > low else 1.0, 1.0, value_range, flat)
    if way == "peak":
        dark = "" if high > 0 else "no sample of the image is above 0: it goes in as black"
        return Normalisation(0.0, 0.0, high if high > 0 else 1.0, manifest.gain, value_range, dark)
    return Normalisation(None, 0.0, 1.0, 1.0, value_range)


def extent(samples: NDArray[Any], name: str) -> tuple[float, float]:
    """Return the least and the largest sample.

    Raises
    ------
    InputError
        They are no real numbers, or not finite; `name` says of what.
    """
    if samples.dtype.kind not in "buif":
        raise InputError(f"the {name}'s type is {samples.dtype}; it must hold real numbers")
    low, high = float(samples.min()), float(samples.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"the {name} holds NaN or infinity; replace those values")
    return low, high


def fractions(samples: NDArray[Any], name: str) -> tuple[NDArray[np.float32], str]:
    """Take an extra input as it is, but for integers whose white cannot be 1: a mask that was saved as a picture.

    Returns
    -------
    float32 of the same shape, and what must be said of it; empty for nothing.

    Raises
    ------
    InputError
        The samples are not finite, or no numbers; `name` says of what.
    """
    _, high = extent(samples, name)
    values = samples.astype(np.float32)
    if samples.dtype.kind == "u" and samples.dtype.itemsize <= 2 and high > 1:
        white = white_level(samples.dtype)
        return values / np.float32(white), f"{name}: integers up to {high:g} divided by {white:g}"
    return values, ""


def is_sample_type(dtype: np.dtype[Any]) -> bool:
    """Whether pictures are kept in this type."""
    return (dtype.kind == "u" and dtype.itemsize in (1, 2)) or (dtype.kind == "f" and dtype.itemsize in (2, 4, 8))


def white_level(dtype: np.dtype[Any]) -> float:
    """Return the value of white in arrays of a type; raises `InputError` for a type that images do not have."""
    if not is_sample_type(dtype):
        raise InputError(f"the image's type is {dtype}; it must be uint8, uint16, float16, float32 or float64")
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def result_type(manifest: Manifest, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of what is made of an image of this type: the same, but float32 for spectra and for what no picture is.

    A spectrum is a measurement, whatever the samples were that it was made from.
    """
    return dtype if is_sample_type(dtype) and not is_spectrum(manifest) else np.dtype(np.float32)


def is_spectrum(manifest: Manifest) -> bool:
    """Whether results are spectra: their bands have wavelengths, or are more than a picture has."""
    return bool(manifest.wavelengths) or manifest.out_channels > _PICTURE_CHANNELS


def from_model(values: NDArray[np.float32], manifest: Manifest, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map a model's numbers to samples of a type.

    They are cut to the manifest's `clamp`; integers are rounded to nearest even and clipped, floats are as they are.
    """
    if manifest.clamp is not None:
        values = np.clip(values, *(np.float32(limit) for limit in manifest.clamp))
    low, high = manifest.value_range
    if (low, high) != (0.0, 1.0):
        values = (values - np.float32(low)) / np.float32(high - low)
    if dtype.kind == "u":
        white = np.float32(white_level(dtype))
        values = np.rint(np.clip(values * white, 0, white))
    return values.astype(dtype)
