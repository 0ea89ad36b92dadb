"""Formats of picture files, and libvips's names for them and for sample types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvips

from ....errors import InputError

#: Suffix -> name of the format.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WebP",
}

#: Largest side in pixels, where a format has a limit that images reach.
LARGEST_SIDE = {"JPEG": 65500, "WebP": 16383}

#: libvips's loader -> name of the format.
LOADERS = {"pngload": "PNG", "jpegload": "JPEG", "tiffload": "TIFF", "webpload": "WebP"}

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


def reason_of(error: pyvips.Error) -> str:
    """Return libvips's error message in one line."""
    lines = [line.strip() for line in str(error.detail or error.message).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))
