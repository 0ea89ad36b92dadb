"""Bring metadata up to date with a restored picture."""

from __future__ import annotations

import dataclasses

from . import exif, jpeg, xmp
from .fields import LEVELS, Block, Metadata
from .ifd import StructureError

#: Blocks that tie positions in the picture to places on Earth.
_POSITIONS = "GeoTIFF tags"

#: Pixels per millimetre that pictures have: from 1 to the inch to those of electron microscopes, 10 nm each.
_RESOLUTIONS = (0.04, 100_000)

#: Most pixels per millimetre that JPEG can say: about 65,000 to the inch.
_LARGEST_IN_JPEG = 2550

#: Ratios of densities along x and y that every format can say.
_ASPECTS = (0.1, 10)

#: PNG's comment as Latin-1 text; and as UTF-8, not compressed, of no named language.
_COMMENT, _INTERNATIONAL_COMMENT = b"Comment\0", b"Comment\0\0\0\0\0"


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
    if metadata.resolution is not None and not all(
        _RESOLUTIONS[0] <= value <= _RESOLUTIONS[1] for value in metadata.resolution
    ):
        metadata = metadata.without("resolution")
        dropped.append("resolution (implausible)")
    if metadata.aspect is not None and not _ASPECTS[0] <= metadata.aspect <= _ASPECTS[1]:
        metadata = metadata.without("pixel aspect ratio")
        dropped.append("pixel aspect ratio (implausible)")
    if metadata.exif is not None:
        try:
            block, thumbnail = exif.updated(metadata.exif, height, width)
            metadata = dataclasses.replace(metadata, exif=block)
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


def for_container(metadata: Metadata, name: str) -> tuple[Metadata, list[str]]:
    """Return metadata with comments in the form of another container, and names of what no field of it can hold.

    JPEG has a segment for comments, PNG a text "Comment".

    Parameters
    ----------
    metadata
        That of the picture.
    name
        Name of the format.
    """
    metadata = dataclasses.replace(metadata, blocks=tuple(_converted(block, name) for block in metadata.blocks))
    lost = []
    if metadata.layout == "pyramid" and name != "TIFF":
        lost.append(LEVELS)
    if name == "JPEG" and metadata.resolution is not None and max(metadata.resolution) > _LARGEST_IN_JPEG:
        metadata = metadata.without("resolution")
        lost.append("resolution")
    return metadata, lost


def _converted(block: Block, name: str) -> Block:
    if block.container == "JPEG" and name == "PNG":
        return Block("PNG text", "PNG", b"iTXt", _INTERNATIONAL_COMMENT + _text(block.data).encode())
    if block.container == "PNG" and name == "JPEG":
        if block.kind == b"tEXt" and block.data.startswith(_COMMENT):
            text = block.data.removeprefix(_COMMENT).decode("latin-1").encode()
        elif block.kind == b"iTXt" and block.data.startswith(_INTERNATIONAL_COMMENT):
            text = block.data.removeprefix(_INTERNATIONAL_COMMENT)
        else:
            return block
        return Block("JPEG comment", "JPEG", jpeg.COMMENT, text)
    return block


def _text(data: bytes) -> str:
    """Decode a JPEG comment, whose encoding no standard names."""
    try:
        return data.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return data.rstrip(b"\0").decode("latin-1")
