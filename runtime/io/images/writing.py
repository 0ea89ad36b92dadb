"""Write pictures, converted to what the format can hold."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from ....errors import InputError
from ....files import atomic_path, check_place
from .formats import LARGEST_SIDE, format_of, reason_of
from .metadata import lost_metadata
from .picture import Picture, vips_image


def check_target(path: str | os.PathLike[str], height: int, width: int, channels: int) -> None:
    """Check that a picture can be written, before any work.

    Parameters
    ----------
    path
        The file.
    height, width, channels
        Size of the picture, without alpha.

    Raises
    ------
    InputError
        The format is unknown or cannot hold the picture, or the file cannot be written there.
    """
    file = Path(path)
    name = format_of(file)
    limit = LARGEST_SIDE.get(name)
    if limit is not None and max(height, width) > limit:
        raise InputError(
            f"{file}: {name} holds at most {limit} pixels a side, not {height} x {width}; write a .png or .tif"
        )
    if channels not in (1, 3) and name != "TIFF":
        raise InputError(f"{file}: {name} holds 1 or 3 channels, not {channels}; write a .tif")
    check_place(file)


def write(path: str | os.PathLike[str], picture: Picture) -> list[str]:
    """Write a picture, whole or not at all.

    PNG, TIFF and WebP are lossless; JPEG has quality 95 and full chroma.

    Returns
    -------
    list[str]
        A line for everything that the format cannot hold.

    Raises
    ------
    InputError
        As `check_target`; or the disk is full.
    """
    file = Path(path)
    name = format_of(file)
    height, width, channels = picture.pixels.shape if picture.pixels.ndim == 3 else (*picture.pixels.shape, 1)
    check_target(file, height, width, channels)
    picture, notices = fitted(picture, name)
    image = vips_image(picture)
    try:
        data = image.write_to_buffer(
            file.suffix.lower(), **save_options(name, picture.pixels.dtype, picture.pixels.nbytes)
        )
    except pyvips.Error as error:
        raise InputError(f"{file}: the image cannot be written as {name} ({reason_of(error)})") from error
    with atomic_path(file) as temporary:
        temporary.write_bytes(data)
    return notices + lost_metadata(pyvips.Image.new_from_buffer(data, "", access="sequential"), picture, name)


def save_options(name: str, dtype: np.dtype[Any], size: int) -> dict[str, Any]:
    """Return libvips's options for writing a format.

    Parameters
    ----------
    name
        Name of the format.
    dtype
        Type of the samples.
    size
        Bytes of all samples.
    """
    formats: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"Q": 95, "subsample_mode": "off"},
        "WebP": {"lossless": True, "exact": True},
        "TIFF": {
            "compression": "deflate",
            "predictor": "float" if dtype.kind == "f" else "horizontal",
            "bigtiff": size > 2**31,
        },
    }
    return formats[name]


def fitted(picture: Picture, name: str) -> tuple[Picture, list[str]]:
    """Return the picture converted to what a format can hold, and a line for everything that was lost."""
    pixels, alpha, metadata = picture.pixels, picture.alpha, picture.metadata
    notices = []
    bits = {"PNG": 16, "JPEG": 8, "WebP": 8, "TIFF": 32}[name]
    floating = pixels.dtype.kind == "f"
    if 8 * pixels.dtype.itemsize > bits or (floating and name != "TIFF"):
        kind = "floating point" if floating else f"{8 * pixels.dtype.itemsize}-bit"
        notices.append(f"{kind} reduced to {bits} bits: {name} has no more here")
        pixels = _reduced(pixels, bits)
        alpha = None if alpha is None else _reduced(alpha, bits)
    if name == "JPEG" and alpha is not None:
        notices.append("alpha flattened onto white: JPEG has none")
        share = alpha.astype(np.float32) / 255
        share = share if pixels.ndim == 2 else share[:, :, None]
        pixels = np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)
        alpha = None
    if name == "WebP" and pixels.ndim == 2:
        notices.append("gray stored as colour: WebP has no gray")
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        if "icc-profile-data" in metadata:
            notices.append("ICC profile dropped: it is for gray")
            metadata = {key: value for key, value in metadata.items() if key != "icc-profile-data"}
    return dataclasses.replace(picture, pixels=pixels, alpha=alpha, metadata=metadata), notices


def _reduced(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Round to fewer bits, mapping white to white; 32 bits are floats."""
    if bits == 32:
        return values.astype(np.float32)
    white = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    scaled = np.clip(values.astype(np.float64) * ((2**bits - 1) / white), 0, 2**bits - 1)
    return np.rint(scaled).astype(np.uint8 if bits == 8 else np.uint16)
