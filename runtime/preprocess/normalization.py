"""Map an image's samples to a model's value range, and a model's results back to samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...manifest import Manifest
from ..io.scratch_file import ScratchFile

#: Largest magnitude accepted in floating-point images. They range from 0 to 1; noise may exceed that a little.
FLOAT_LIMIT = 8.0

#: An image with more channels than this is a spectrum.
_PICTURE_CHANNELS = 4


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of one image: ``y = (max(x, least) - offset) / divisor * gain``, then scaled to `value_range`.

    It is determined from the whole image, so that all of its tiles are normalised alike.

    Attributes
    ----------
    least
        Smaller samples are raised to it; None leaves them.
    offset, divisor, gain
        Terms of the equation above.
    value_range
        The model's values of black (y = 0) and white (y = 1).
    notice
        Line to show to the user; empty where there is nothing to say.
    """

    least: float | None
    offset: float
    divisor: float
    gain: float
    value_range: tuple[float, float]
    notice: str = ""

    def __call__(self, samples: NDArray[Any]) -> NDArray[np.float32]:
        """Return the samples of the image, or of a part of it, normalised; always a copy."""
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


def normalisation(manifest: Manifest, samples: NDArray[Any] | ScratchFile) -> Normalisation:
    """Determine how an image is normalised.

    Parameters
    ----------
    manifest
        Gives `normalisation` (see `manifest.NORMALISATIONS`), `gain` and `value_range`.
    samples
        The whole image, of any shape. With ``"range"``, a constant image becomes 0; with ``"peak"``, an image without
        positive samples becomes 0. The result's notice reports both.

    Raises
    ------
    InputError
        The image's type or values are not supported.
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
        flat = "" if high > low else f"every sample of the image is {low:g}: it has no range, so the model gets black"
        return Normalisation(None, low, high - low if high > low else 1.0, 1.0, value_range, flat)
    if way == "peak":
        dark = "" if high > 0 else "no sample of the image is above 0: the model gets black"
        return Normalisation(0.0, 0.0, high if high > 0 else 1.0, manifest.gain, value_range, dark)
    return Normalisation(None, 0.0, 1.0, 1.0, value_range)


def extent(samples: NDArray[Any] | ScratchFile, name: str) -> tuple[float, float]:
    """Return the smallest and the largest sample.

    Raises
    ------
    InputError
        The samples are not real numbers, or not finite; the message calls them `name`.
    """
    if samples.dtype.kind not in "buif":
        raise InputError(f"the {name}'s type is {samples.dtype}; it must hold real numbers")
    low, high = float(samples.min()), float(samples.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"the {name} holds NaN or infinity; replace those values")
    return low, high


def fractions(samples: NDArray[Any], name: str) -> tuple[NDArray[np.float32], str]:
    """Convert an extra input to float32, scaling integers whose white is not 1: a mask that was saved as a picture.

    Returns
    -------
    values, notice
        float32 of the same shape, and a line to show to the user, empty where nothing was scaled.

    Raises
    ------
    InputError
        The samples are not finite, or not numbers; the message calls them `name`.
    """
    _, high = extent(samples, name)
    values = samples.astype(np.float32)
    if samples.dtype.kind == "u" and samples.dtype.itemsize <= 2 and high > 1:
        white = white_level(samples.dtype)
        return values / np.float32(white), f"{name}: integers up to {high:g} divided by {white:g}"
    return values, ""


def is_sample_type(dtype: np.dtype[Any]) -> bool:
    """Return whether pictures are stored in this type: uint8, uint16, float16, float32 or float64."""
    return (dtype.kind == "u" and dtype.itemsize in (1, 2)) or (dtype.kind == "f" and dtype.itemsize in (2, 4, 8))


def white_level(dtype: np.dtype[Any]) -> float:
    """Return the value of white in images of a type.

    Raises
    ------
    InputError
        Images are not stored in this type.
    """
    if not is_sample_type(dtype):
        raise InputError(f"the image's type is {dtype}; it must be uint8, uint16, float16, float32 or float64")
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def result_type(manifest: Manifest, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of the result for an image of this type.

    It is the image's type, but float32 for spectra, which are measurements, and for types that pictures do not have.
    """
    return dtype if is_sample_type(dtype) and not is_spectrum(manifest) else np.dtype(np.float32)


def is_spectrum(manifest: Manifest) -> bool:
    """Return whether a model's results are spectra: they have wavelengths, or more channels than a picture."""
    return bool(manifest.wavelengths) or manifest.out_channels > _PICTURE_CHANNELS


def from_model(values: NDArray[np.float32], manifest: Manifest, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a model's results to samples.

    Results are clipped to the manifest's `clamp`. Integers are rounded to nearest, ties to even, and clipped to their
    range; floats are only scaled.

    Parameters
    ----------
    values
        The model's results, of any shape.
    manifest
        Gives `clamp` and `value_range`.
    dtype
        Type of the samples: `result_type`.
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
