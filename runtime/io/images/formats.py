"""Formats of picture files, and libvips's names for them and for sample types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvips

from ....errors import InputError

#: Suffix -> name of the format, for pictures that are read and written.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
}

#: Suffix -> name of the format, for pictures that are only read.
READ_ONLY = {".avif": "AVIF", ".heic": "HEIC", ".heif": "HEIF"}

#: Suffix -> name of the format, for pictures that are not read: libvips does not, or only with ImageMagick.
NOT_READ = {
    ".bmp": "BMP",
    ".jxl": "JPEG XL",
    ".pbm": "PBM",
    ".pgm": "PGM",
    ".pnm": "PNM",
    ".ppm": "PPM",
    ".tga": "TGA",
}

#: Largest side in pixels, where a format has a limit that images reach.
LARGEST_SIDE = {"JPEG": 65500, "WebP": 16383}

#: libvips's loader -> name of the format.
LOADERS = {"pngload": "PNG", "jpegload": "JPEG", "tiffload": "TIFF", "webpload": "WebP", "heifload": "HEIF"}

#: libvips's sample type -> NumPy's.
SAMPLE_TYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32, "double": np.float64}

#: NumPy's sample type -> libvips's.
VIPS_TYPES = {np.dtype(dtype): name for name, dtype in SAMPLE_TYPES.items()}


def format_of(path: Path) -> str:
    """Return the format of a file by its suffix.

    Raises
    ------
    InputError
        The suffix is not in `FORMATS`.
    """
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise InputError(f"{path} names no image format that can be used; choose one of {', '.join(FORMATS)}")
    return name


def check_read(path: Path) -> None:
    """Check that a file that libvips does not know is not of another format by its suffix.

    Raises
    ------
    InputError
        It is.
    """
    name = NOT_READ.get(path.suffix.lower())
    if name is not None:
        raise InputError(f"{path} is a {name} file, which keygraph does not read; convert it to PNG, TIFF or WebP")


def missing_codec(image: pyvips.Image) -> str | None:
    """Return the codec of a HEIF file if this libvips cannot decode it, which depends on how it was built."""
    if image.get_typeof("heif-compression") == 0 or image.get("heif-compression") == "av1":
        return None
    try:
        image.crop(0, 0, 1, 1).avg()
    except pyvips.Error:
        return str(image.get("heif-compression")).upper()
    return None


def reason_of(error: pyvips.Error) -> str:
    """Return libvips's error message in one line."""
    lines = [line.strip() for line in str(error.detail or error.message).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))
