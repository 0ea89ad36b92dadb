"""EXIF blocks: kept as they are, except for what a restored picture makes untrue."""

from __future__ import annotations

import io
import struct

from .ifd import (
    BYTE,
    IFD,
    LONG,
    SHORT,
    UNDEFINED,
    Directory,
    Field,
    Reader,
    StructureError,
    Value,
    pack,
    resolution_values,
    swapped,
)

#: In front of an EXIF block in JPEG, and in some files of other formats.
MARK = b"Exif\0\0"

_ORIENTATION, _EXIF, _GPS, _INTEROPERABILITY = 274, 34665, 34853, 40965

#: Tags with the picture's width and height.
_WIDTHS, _HEIGHTS = (256, 40962), (257, 40963)

#: Offsets and lengths of a thumbnail: as a JPEG, or as strips of samples.
_THUMBNAILS = ((513, 514), (273, 279))

#: Tags of a TIFF directory that describe the picture and may stand in EXIF, and the reverse.
DESCRIPTIVE = frozenset((270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, 40091, 40092, 40093, 40094, 40095))

#: Directories of EXIF, by the tag that points to them.
DIRECTORIES = frozenset((_EXIF, _GPS))


def without_mark(data: bytes) -> bytes:
    """Return an EXIF block from its TIFF structure on."""
    return data.removeprefix(MARK)


def resolution(data: bytes) -> tuple[float, float] | None:
    """Return pixels per millimetre; None where EXIF does not say or is damaged."""
    try:
        reader = Reader(io.BytesIO(data))
        return reader.resolution(reader.directory(reader.first))
    except (StructureError, struct.error):
        return None


def orientation(data: bytes) -> int:
    """Return how the picture is turned, from 1 to 8; 1 where EXIF does not say or is damaged."""
    try:
        reader = Reader(io.BytesIO(data))
        value = reader.number(reader.directory(reader.first), _ORIENTATION, 1)
    except (StructureError, struct.error):
        return 1
    return value if 1 <= value <= 8 else 1


def updated(data: bytes, height: int, width: int) -> tuple[bytes, bool]:
    """Return EXIF for a restored picture, in place, so that what maker notes point to stays where it is.

    Parameters
    ----------
    data
        The block.
    height, width
        Size of the restored picture, which stands upright.

    Returns
    -------
    bytes
        The block with this size, orientation 1 and without thumbnail.
    bool
        True when there was a thumbnail.

    Raises
    ------
    StructureError
        The block is damaged.
    """
    try:
        reader = Reader(io.BytesIO(data))
        changed = bytearray(data)
        first = reader.directory(reader.first)
        detail = _pointed(reader, first, _EXIF)
        for directory in (first, detail):
            if directory is None:
                continue
            for tags, value in (((_ORIENTATION,), 1), (_WIDTHS, width), (_HEIGHTS, height)):
                for tag in tags:
                    _set_number(changed, reader, directory.fields.get(tag), value)
        if not first.following:
            return bytes(changed), False
        thumbnail = reader.directory(first.following)
        for start, length in _THUMBNAILS:
            parts = zip(reader.numbers(thumbnail, start), reader.numbers(thumbnail, length), strict=False)
            for place, size in sorted(parts, reverse=True):
                if place + size >= len(changed):
                    del changed[place:]
                else:
                    changed[place : place + size] = bytes(size)
        struct.pack_into(reader.order + ("Q" if reader.big else "I"), changed, first.link, 0)
        rest = Reader(io.BytesIO(bytes(changed)))
        of_directory(rest, rest.directory(rest.first), DESCRIPTIVE)  # Raises where a "thumbnail" was more than that.
        return bytes(changed), True
    except struct.error as error:
        raise StructureError(str(error)) from error


def _pointed(reader: Reader, directory: Directory, tag: int) -> Directory | None:
    place = reader.number(directory, tag, 0)
    return reader.directory(place) if place else None


def _set_number(data: bytearray, reader: Reader, one: Field | None, value: int) -> None:
    """Replace a field, of whatever type and length, by one number in its entry of the directory."""
    if one is not None:
        kind, letter = (LONG, "I") if one.kind == LONG or value > 0xFFFF else (SHORT, "H")
        head, slot = ("HHQ", 8) if reader.big else ("HHI", 4)
        stored = struct.pack(reader.order + letter, value).ljust(slot, b"\0")
        struct.pack_into(f"{reader.order}{head}{slot}s", data, one.entry, one.tag, kind, 1, stored)


def of_directory(
    reader: Reader, directory: Directory, tags: frozenset[int], pointers: frozenset[int] = DIRECTORIES
) -> list[Value]:
    """Return some fields of a directory, and the directories of EXIF to which it points, to be written elsewhere.

    Parameters
    ----------
    reader, directory
        The TIFF structure and the directory.
    tags
        The fields.
    pointers
        The fields that point to directories.

    Raises
    ------
    StructureError
        A directory is damaged.
    """
    values = []
    for tag, one in directory.fields.items():
        if tag in pointers:
            inner = _pointed(reader, directory, tag)
            if inner is not None:
                deeper = frozenset((_INTEROPERABILITY,)) if tag == _EXIF else frozenset[int]()
                children = of_directory(reader, inner, frozenset(inner.fields) - deeper, deeper)
                values.append(Value(tag, LONG, b"", tuple(children)))
        elif tag in tags and one.count and BYTE <= one.kind <= IFD:
            values.append(reader.value(one))
    return values


def from_tiff(reader: Reader, directory: Directory, tags: frozenset[int]) -> bytes | None:
    """Return what a directory of a TIFF file says about its picture as EXIF; None where it says nothing.

    Parameters
    ----------
    reader, directory
        The TIFF file and the directory of the page.
    tags
        The fields, of `DESCRIPTIVE`.
    """
    values = of_directory(reader, directory, tags)
    if not values:
        return None
    header = (b"II" if reader.order == "<" else b"MM") + struct.pack(reader.order + "HI", 42, 8)
    return header + pack(values, reader.order, False, 8)


def for_tiff(data: bytes, order: str) -> tuple[list[Value], frozenset[int]]:
    """Return EXIF as fields for the directory of a TIFF file.

    Parameters
    ----------
    data
        The block.
    order
        Byte order of the file.

    Returns
    -------
    list[Value]
        Those of `DESCRIPTIVE`, and the directories.
    frozenset[int]
        Tags of the others.

    Raises
    ------
    StructureError
        The block is damaged.
    """
    try:
        reader = Reader(io.BytesIO(data))
        directory = reader.directory(reader.first)
        values = of_directory(reader, directory, DESCRIPTIVE)
    except struct.error as error:
        raise StructureError(str(error)) from error
    others = frozenset(directory.fields) - {value.tag for value in values}
    return [value if reader.order == order else swapped(value) for value in values], others


def of_resolution(resolution: tuple[float, float]) -> bytes:
    """Return an EXIF block that holds pixels per millimetre alone."""
    values = [*resolution_values("<", resolution), Value(0x9000, UNDEFINED, b"0232")]
    inner = Value(_EXIF, LONG, b"", (values.pop(),))
    return b"II*\0" + struct.pack("<I", 8) + pack([*values, inner], "<", False, 8)
