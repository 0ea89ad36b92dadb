"""How a TIFF file is laid out: strips, tiles or a pyramid of tiles, and its compression."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from .... import forks
from ....errors import InputError
from ..encoding import COMPRESSIONS, Encoding
from .metadata.fields import Metadata

#: Side of a tile in pixels, a multiple of 16 as TIFF 6.0 demands.
TILE = 256

#: A larger picture is stored in tiles, so that programs can show a part of it without decoding the rest.
LARGEST_IN_STRIPS = 1 << 26

#: Quality of JPEG, at which libvips stores full chroma.
_JPEG_QUALITY = 95

#: Bytes of samples from which 64-bit offsets are used. Not all compressions make noise smaller.
_LARGEST_CLASSIC = 1 << 31


def check(path: Path, channels: int, dtype: np.dtype[Any], encoding: Encoding) -> None:
    """Check that a compression can hold a picture, and that libvips has it.

    Parameters
    ----------
    path
        The file, for messages.
    channels
        Number of channels, without alpha.
    dtype
        Type of the samples.
    encoding
        What was asked for.

    Raises
    ------
    InputError
        It cannot.
    """
    name = encoding.compression
    if name == "jpeg" and (dtype != np.uint8 or channels not in (1, 3)):
        held = f"{channels} channels of {dtype.name}"
        raise InputError(f"{path}: JPEG compresses 1 or 3 channels of 8 bits, not {held}; take --compression deflate")
    if name is not None and not _has(name):
        others = ", ".join(other for other in COMPRESSIONS if _has(other))
        raise InputError(f"{path}: this libvips is built without {name}; take --compression with one of {others}")


@functools.cache
def _has(compression: str) -> bool:
    """Return whether this libvips writes a compression, which depends on how it was built."""
    forks.require_vips()
    try:
        pyvips.Image.black(16, 16).tiffsave_buffer(compression=compression)
    except pyvips.Error:
        return False
    return True


def is_pyramid(metadata: Metadata, encoding: Encoding) -> bool:
    """Return whether levels are written: because they were asked for, or because the source has them."""
    return encoding.pyramid or metadata.layout == "pyramid"


def save_options(
    shape: tuple[int, int, int], dtype: np.dtype[Any], metadata: Metadata, encoding: Encoding
) -> dict[str, Any]:
    """Return libvips's options for writing a TIFF.

    Parameters
    ----------
    shape
        Height, width and samples of a pixel, alpha included.
    dtype
        Type of the samples.
    metadata
        That of the picture; says how its source was laid out.
    encoding
        What was asked for.
    """
    height, width, samples = shape
    pyramid = is_pyramid(metadata, encoding)
    size = height * width * samples * dtype.itemsize
    compression = encoding.compression or "deflate"
    options: dict[str, Any] = {
        "compression": compression,
        # The levels of a pyramid take a third more.
        "bigtiff": size * (4 / 3 if pyramid else 1) > _LARGEST_CLASSIC,
    }
    if compression == "jpeg":
        options["Q"] = _JPEG_QUALITY
    elif compression != "none":
        options["predictor"] = "float" if dtype.kind == "f" else "horizontal"
    if pyramid or metadata.layout == "tiles" or height * width > LARGEST_IN_STRIPS:
        options |= {"tile": True, "tile_width": TILE, "tile_height": TILE, "pyramid": pyramid}
    return options


def notices(encoding: Encoding) -> list[str]:
    """Return a line about a compression that changes samples."""
    if encoding.compression != "jpeg":
        return []
    return [f"compressed with JPEG (quality {_JPEG_QUALITY}), which changes samples"]
