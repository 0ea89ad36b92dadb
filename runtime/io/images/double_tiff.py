"""TIFF pages with 64-bit floats, which libvips does not read: tifffile decodes them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

#: tifffile's name of colours -> libvips's.
_COLOURS = {"RGB": "scrgb", "MINISBLACK": "b-w", "MINISWHITE": "b-w"}

#: TIFF tag -> libvips's field for its content.
_BLOBS = {34675: "icc-profile-data", 700: "xmp-data", 33723: "iptc-data"}


def image(path: Path, page: int) -> pyvips.Image | None:
    """Return a page as libvips would, in memory; None where tifffile is missing or cannot decode it either.

    Parameters
    ----------
    path
        The file.
    page
        Its place in the chain of directories, from 0.
    """
    try:
        tifffile: Any = importlib.import_module("tifffile")
    except ModuleNotFoundError:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            directory = file.pages[page]
            colours = _COLOURS.get(directory.photometric.name)
            if directory.dtype is None or directory.dtype.kind != "f" or colours is None:
                return None
            values = directory.asarray()
            separate = values.ndim == 3 and directory.planarconfig == 2
            tags = {tag.code: tag.value for tag in directory.tags}
    except Exception:  # whatever the damage leads tifffile to
        return None
    samples = np.ascontiguousarray(np.moveaxis(values, 0, -1) if separate else values, np.float64)
    if samples.ndim not in (2, 3):
        return None
    height, width, bands = (*samples.shape, 1)[:3]
    result = pyvips.Image.new_from_memory(samples.data, width, height, bands, "double").copy(interpretation=colours)
    result.set_type(pyvips.GValue.gstr_type, "vips-loader", "tiffload")
    result.set_type(pyvips.GValue.gint_type, "orientation", int(tags.get(274, 1)))
    for code, name in _BLOBS.items():
        if isinstance(tags.get(code), bytes):
            result.set_type(pyvips.GValue.blob_type, name, tags[code])
    return result
