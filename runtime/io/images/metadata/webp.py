"""Chunks of WebP files (RFC 9649)."""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Iterator
from typing import BinaryIO

from . import exif
from .fields import Contents, Metadata

_STRUCTURE = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")

#: Chunks whose content libvips returns.
_EXPECTED = {b"ICCP": "ICC profile", b"EXIF": "EXIF", b"XMP ": "XMP"}

_ICC, _ALPHA, _EXIF, _XMP = 0x20, 0x10, 0x08, 0x04


def read(file: BinaryIO) -> Contents:
    """Return what a WebP file holds beside its samples.

    Parameters
    ----------
    file
        The file, from its start.
    """
    chunks = [kind for kind, _, _ in _chunks(file)]
    frames = chunks.count(b"ANMF")
    others = dict.fromkeys(kind for kind in chunks if kind not in (*_STRUCTURE, *_EXPECTED))
    return Contents(
        dropped=tuple(f"WebP chunk {kind.decode('latin-1').strip()}" for kind in others),
        notices=(f"only the first of {frames} frames",) if frames > 1 else (),
        frames=max(1, frames),
        expected=tuple(title for kind, title in _EXPECTED.items() if kind in chunks),
    )


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, place and size of the content of each chunk; ends where the file does."""
    place = 12
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        kind, size = struct.unpack("<4sI", head)
        yield kind, place + 8, size
        place += 8 + size + size % 2


def embed(source: BinaryIO, target: BinaryIO, metadata: Metadata) -> list[str]:
    """Copy a WebP file that libvips wrote, with metadata.

    Parameters
    ----------
    source
        The file: samples and ICC profile.
    target
        The copy.
    metadata
        What is added; resolution alone becomes EXIF.

    Returns
    -------
    list[str]
        Names of what WebP cannot hold.
    """
    lost = ["IPTC"] if metadata.iptc is not None else []
    lost += ["pixel aspect ratio"] if metadata.aspect is not None else []
    block = metadata.exif
    if metadata.resolution is not None:
        if block is None:
            block = exif.of_resolution(metadata.resolution)
        elif exif.resolution(block) is None:
            lost.append("resolution")
    added = [(b"EXIF", block, _EXIF), (b"XMP ", metadata.xmp, _XMP)]
    chunks = list(_chunks(source))
    if all(data is None for _, data, _ in added):
        source.seek(0)
        shutil.copyfileobj(source, target, 1 << 20)
        return lost
    body = io.BytesIO()
    body.write(b"WEBP" + _chunk(b"VP8X", _extended(source, chunks, sum(flag for _, data, flag in added if data))))
    for kind, place, size in chunks:
        if kind != b"VP8X":
            source.seek(place)
            body.write(_chunk(kind, source.read(size)))
    for kind, data, _ in added:
        if data is not None:
            body.write(_chunk(kind, data))
    target.write(b"RIFF" + struct.pack("<I", body.tell()) + body.getbuffer())
    return lost


def _extended(source: BinaryIO, chunks: list[tuple[bytes, int, int]], flags: int) -> bytes:
    """Return the content of a VP8X chunk: what the file holds, and the size of the picture less 1."""
    kind, place, _ = chunks[0]
    source.seek(place)
    start = source.read(10)
    if kind == b"VP8X":
        return bytes((start[0] | flags,)) + start[1:]
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", start, 1)
        width, height, flags = bits & 0x3FFF, bits >> 14 & 0x3FFF, flags | (_ALPHA if bits >> 28 & 1 else 0)
    else:
        width, height = ((value & 0x3FFF) - 1 for value in struct.unpack_from("<HH", start, 6))
    return struct.pack("<I", flags) + struct.pack("<I", width)[:3] + struct.pack("<I", height)[:3]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
