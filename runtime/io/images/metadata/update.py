"""Bring metadata up to date with a restored picture."""

from __future__ import annotations

import dataclasses

from . import exif, xmp
from .fields import Metadata
from .ifd import StructureError

#: Blocks that tie positions in the picture to places on Earth.
_POSITIONS = "GeoTIFF tags"


def upright(metadata: Metadata, height: int, width: int, turned: bool) -> tuple[Metadata, list[str]]:
    """Return metadata for a picture that stands upright, and names of what was true of the source alone.

    Parameters
    ----------
    metadata
        That of the source.
    height, width
        Size of the upright picture.
    turned
        True when an orientation was applied.
    """
    dropped = []
    if metadata.exif is not None:
        try:
            block, thumbnail = exif.updated(metadata.exif, height, width)
            resolution = metadata.resolution or exif.resolution(block)
            metadata = dataclasses.replace(metadata, exif=block, resolution=resolution)
            dropped += ["EXIF thumbnail"] if thumbnail else []
        except StructureError:
            metadata = metadata.without("EXIF")
            dropped.append("EXIF (damaged)")
    if metadata.xmp is not None:
        packet, removed = xmp.updated(metadata.xmp, height, width, turned)
        metadata = dataclasses.replace(metadata, xmp=packet)
        dropped += removed
    if turned and _POSITIONS in metadata.titles():
        metadata = metadata.without(_POSITIONS)
        dropped.append(f"{_POSITIONS} (the picture was turned)")
    return metadata, dropped


def resized(metadata: Metadata, height: int, width: int) -> tuple[Metadata, tuple[str, ...]]:
    """Return metadata for a picture of another size, and a line for what no longer holds.

    Parameters
    ----------
    metadata
        That of the picture.
    height, width
        The other size.
    """
    metadata, _ = upright(metadata, height, width, False)
    if _POSITIONS not in metadata.titles():
        return metadata, ()
    return metadata.without(_POSITIONS), (f"{_POSITIONS} dropped: they are for another size",)
