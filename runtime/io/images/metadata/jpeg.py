"""Segments of JPEG files (ITU-T T.81, JFIF, CIPA DC-007 for several pictures)."""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

from . import exif, iptc, xmp
from .fields import Block, Contents, Metadata, aspect_of
from .ifd import per_inch

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA

#: Marker of a comment.
COMMENT = 0xFE

_APP0, _APP1, _APP2, _APP13, _APP14 = 0xE0, 0xE1, 0xE2, 0xED, 0xEE
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_APPLE_GAIN_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"

#: Longest content of a segment.
LONGEST = 65533

#: A marker in compressed samples, where FF00 is a sample and FFD0 to FFD7 go on.
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)

#: Bytes that are searched for a marker at a time.
_PIECE = 1 << 20


def read(file: BinaryIO) -> Contents:
    """Return what a JPEG file holds beside its samples.

    Parameters
    ----------
    file
        The file, from its start.
    """
    aspect = None
    resolution, blocks, dropped, pictures, gain_map = None, list[Block](), list[str](), 1, False
    expected = list[str]()
    scans = 0
    for marker, place, size in _segments(file):
        if marker == _SOS:
            scans = place
            break
        if not (marker == COMMENT or 0xE0 <= marker <= 0xEF):
            continue
        file.seek(place)
        data = file.read(size)
        if marker == COMMENT:
            blocks.append(Block("JPEG comment", "JPEG", marker, data))
        elif marker == _APP0 and data.startswith(b"JFIF\0") and len(data) >= 14:
            unit, x, y = struct.unpack_from(">BHH", data, 7)
            length = {1: 25.4, 2: 10.0}.get(unit)
            resolution = (x / length, y / length) if length and x and y else None
            aspect = aspect_of(x, y) if unit == 0 else None
            if data[12] and data[13]:
                dropped.append("JFIF thumbnail")
        elif marker == _APP0 and data.startswith(b"JFXX\0"):
            dropped.append("JFIF thumbnail")
        elif marker == _APP1 and data.startswith(_EXTENDED_XMP):
            dropped.append("extended XMP")
        elif marker == _APP1 and data.startswith(_XMP):
            gain_map |= xmp.has_gain_map(data)
            expected.append("XMP")
        elif marker == _APP2 and data.startswith(b"MPF\0"):
            pictures = max(pictures, _pictures(data[4:]))
        elif marker == _APP2 and data.startswith(_GAIN_MAP):
            gain_map = True
        elif marker == _APP13 and data.startswith(b"Photoshop 3.0\0"):
            records, others = iptc.unwrapped(data)
            expected += ["IPTC"] if records else []
            dropped += ["Photoshop resources"] if others else []
        elif title := _of_libvips(marker, data):
            expected.append(title)
        elif not (marker == _APP14 and data.startswith(b"Adobe")):
            dropped.append(_application(marker, data))
    trailing, more = _trailing(file, scans) if scans else (0, b"")
    gain_map |= _APPLE_GAIN_MAP in more
    if gain_map:
        dropped.append("gain map (the base picture is restored)")
    notices = []
    if pictures > 2 or (pictures == 2 and not gain_map):
        notices.append(f"only the first of {pictures} pictures")
    elif trailing and not gain_map:
        dropped.append(f"{trailing:,} bytes after the picture{' (motion photo)' if b'ftyp' in more[:4096] else ''}")
    return Contents(
        Metadata(resolution=resolution, aspect=aspect, blocks=tuple(blocks)),
        tuple(dict.fromkeys(dropped)),
        tuple(notices),
        expected=tuple(dict.fromkeys(expected)),
    )


def _of_libvips(marker: int, data: bytes) -> str:
    """Return the name of a segment that libvips returns; empty for others."""
    if marker == _APP1 and data.startswith(b"Exif\0"):
        return "EXIF"
    return "ICC profile" if marker == _APP2 and data.startswith(b"ICC_PROFILE\0") else ""


def _application(marker: int, data: bytes) -> str:
    name = "content credentials (C2PA)" if marker == 0xEB and data.startswith(b"JP") else ""
    return name or f"segment APP{marker - _APP0}"


def _segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yield marker, place and size of the content of each segment up to the first scan."""
    place = 2
    while True:
        file.seek(place)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return
        if head[1] == 0xFF:  # Padding.
            place += 1
            continue
        size = struct.unpack(">H", head[2:])[0]
        yield head[1], place + 4, max(0, size - 2)
        if head[1] == _SOS:
            return
        place += 2 + size


def _trailing(file: BinaryIO, place: int) -> tuple[int, bytes]:
    """Return how many bytes follow the picture whose first scan starts at `place`, and up to 1 MiB of them."""
    while True:
        file.seek(place)
        piece = file.read(_PIECE)
        found = _MARKER.search(piece)
        if found is None:
            if len(piece) < _PIECE:
                return 0, b""
            place += len(piece) - 1
            continue
        after = place + found.end()
        if found[1][0] == _EOI:
            end = file.seek(0, 2)
            file.seek(after)
            rest = file.read(_PIECE)
            return (end - after if rest.strip(b"\0\r\n") else 0), rest
        file.seek(after)
        size = file.read(2)
        place = after + (struct.unpack(">H", size)[0] if len(size) == 2 else 0)


def _pictures(data: bytes) -> int:
    """Return the number of pictures that an MPF segment names."""
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    for index in range(count):
        tag, _, _, value = struct.unpack_from(order + "HHII", data, first + 2 + 12 * index)
        if tag == 0xB001:
            return int(value)
    return 1


def embed(source: BinaryIO, target: BinaryIO, metadata: Metadata) -> list[str]:
    """Copy a JPEG file that libvips wrote, with metadata.

    Parameters
    ----------
    source
        The file: samples and ICC profile.
    target
        The copy.
    metadata
        What is added.

    Returns
    -------
    list[str]
        Names of what JPEG cannot hold.
    """
    lost = []
    target.write(bytes((0xFF, _SOI)) + _segment(_APP0, _jfif(metadata.resolution, metadata.aspect)))
    parts = (
        ("EXIF", _APP1, None if metadata.exif is None else exif.MARK + metadata.exif),
        ("XMP", _APP1, None if metadata.xmp is None else _XMP + metadata.xmp),
        ("IPTC", _APP13, None if metadata.iptc is None else iptc.wrapped(metadata.iptc)),
        *((block.title, block.kind, block.data) for block in metadata.blocks_of("JPEG")),
    )
    for title, marker, data in parts:
        if data is None:
            continue
        if len(data) > LONGEST:
            lost.append(f"{title} of {len(data):,} bytes")
        else:
            assert isinstance(marker, int)
            target.write(_segment(marker, data))
    source.seek(0)
    place = 2
    for marker, start, size in _segments(source):
        if marker != _APP0:
            break
        place = start + size
    source.seek(place)
    shutil.copyfileobj(source, target, 1 << 20)
    return lost


def _jfif(resolution: tuple[float, float] | None, aspect: Fraction | None) -> bytes:
    unit, x, y = 0, 1.0, 1.0
    if aspect is not None:
        x, y = aspect.as_integer_ratio()
    elif resolution is not None:
        unit, x, y = 1, per_inch(resolution[0]), per_inch(resolution[1])
        metric = [10 * value for value in resolution]
        if not (x.is_integer() and y.is_integer()) and all(abs(value - round(value)) < 0.02 for value in metric):
            unit, (x, y) = 2, metric
    return b"JFIF\0\1\1" + struct.pack(">BHHBB", unit, *(min(max(round(v), 1), 0xFFFF) for v in (x, y)), 0, 0)


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
