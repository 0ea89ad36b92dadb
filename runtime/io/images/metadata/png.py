"""Chunks of PNG files (W3C Portable Network Graphics, third edition)."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from .....errors import counted
from .exif import MARK as EXIF_MARK
from .fields import Block, Contents, Metadata, aspect_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"
_EXIF = b"eXIf"

#: Chunks that tell how samples become colours; those of an ICC profile are read by libvips.
_COLOUR_SPACE = (b"cICP", b"mDCV", b"cLLI", b"sRGB", b"gAMA", b"cHRM")

#: Chunks of no account for the restored picture: its own structure, and what libvips returns.
_STRUCTURE = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"fcTL", b"fdAT", b"hIST", b"iDOT"))

_TITLES = {
    b"acTL": "animation",
    b"bKGD": "background colour",
    b"sBIT": "number of significant bits (sBIT)",
    b"tIME": "time of the last change (tIME)",
    b"caBX": "content credentials (C2PA)",
    b"sTER": "stereo layout (sTER)",
    b"oFFs": "position (oFFs)",
}

#: Chunks whose content libvips returns. EXIF and XMP may also stand behind the samples, where it does not look.
_EXPECTED = {b"iCCP": "ICC profile"}

#: Colour type -> samples of a pixel.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

#: Most samples that a byte of deflate can stand for, and some more.
_LARGEST_RATIO = 1100

#: Content of a chunk above which it is not read.
_LARGEST_CHUNK = 1 << 26


def read(file: BinaryIO) -> Contents:
    """Return what a PNG file holds beside its samples.

    Parameters
    ----------
    file
        The file, from its start.
    """
    resolution, blocks, dropped, notices, expected = None, list[Block](), list[str](), list[str](), list[str]()
    exif, xmp, aspect = None, None, None
    compressed, samples = 0, 0
    frames, apart, after = 0, True, 0
    for kind, place, size in _chunks(file):
        if kind == b"IHDR":
            file.seek(place)
            width, height, bits, colours = struct.unpack(">IIBB", file.read(10))
            samples = width * height * bits * _SAMPLES.get(colours, 1) // 8
        elif kind == b"IDAT":
            compressed += size
        elif kind == b"fcTL" and not compressed:
            apart = False  # The picture is a frame of the animation.
        elif kind == b"IEND":
            after = _after(file, place + size + 4)
        if kind in _TEXT or kind in _COLOUR_SPACE or kind in (_EXIF, b"pHYs", b"acTL"):
            file.seek(place)
            data = file.read(min(size, _LARGEST_CHUNK))
            if kind == b"pHYs" and size == 9:
                x, y, unit = struct.unpack(">IIB", data)
                resolution = (x / 1000, y / 1000) if unit == 1 and x and y else None
                aspect = aspect_of(x, y) if unit == 0 else None
            elif kind == b"acTL":
                (frames,) = struct.unpack_from(">I", data)
            elif kind == _EXIF:
                expected.append("EXIF")
                exif = data.removeprefix(EXIF_MARK) if size <= _LARGEST_CHUNK else None
            elif size > _LARGEST_CHUNK:
                dropped.append(f"a text of {size:,} bytes")
            elif kind in _COLOUR_SPACE:
                blocks.append(Block(f"colour space ({kind.decode('ascii')})", "PNG", kind, data))
            elif data.startswith(_XMP):
                expected.append("XMP")
                xmp = _international(data)
            else:
                blocks.append(Block("PNG text", "PNG", kind, data))
        elif kind in _EXPECTED:
            expected.append(_EXPECTED[kind])
        elif kind not in _STRUCTURE:
            dropped.append(_TITLES.get(kind, f"PNG chunk {kind.decode('latin-1')}"))
    if after:
        dropped.append(f"{after:,} bytes after the picture")
    if frames and apart:
        notices.append(f"only the picture beside an animation of {counted(frames, 'frame')}")
    elif frames > 1:
        notices.append(f"only one picture of an animation of {frames} frames")
    return Contents(
        Metadata(exif=exif, xmp=xmp, resolution=resolution, aspect=aspect, blocks=tuple(blocks)),
        tuple(dict.fromkeys(dropped)),
        tuple(notices),
        missing=""
        if samples <= _LARGEST_RATIO * compressed
        else f"its samples need {samples:,} bytes, more than its {compressed:,} bytes can hold",
        frames=frames + apart if frames else 1,
        expected=tuple(dict.fromkeys(expected)),
    )


def _after(file: BinaryIO, place: int) -> int:
    """Return how many bytes follow the picture, which ends at `place`; padding is none."""
    end = file.seek(0, 2)
    file.seek(place)
    return max(0, end - place) if file.read(1 << 20).strip(b"\0\r\n") else 0


def _international(data: bytes) -> bytes | None:
    """Return the text of an iTXt chunk; None where it is damaged or implausibly long."""
    _, _, rest = data.partition(b"\0")
    parts = rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return None
    if not rest[0]:
        return parts[2]
    try:
        unpacked = zlib.decompressobj()
        text = unpacked.decompress(parts[2], _LARGEST_CHUNK)
    except zlib.error:
        return None
    return text if unpacked.eof else None


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, place and size of the content of each chunk; ends where the file does."""
    place = len(SIGNATURE)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head)
        yield kind, place + 8, size
        if kind == b"IEND":
            return
        place += 12 + size


def embed(source: BinaryIO, target: BinaryIO, metadata: Metadata) -> list[str]:
    """Copy a PNG file that libvips wrote, with metadata.

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
        Names of what PNG cannot hold.
    """
    source.seek(0)
    target.write(SIGNATURE)
    for kind, place, size in _chunks(source):
        if kind == b"IDAT":
            for chunk in _added(metadata):
                target.write(chunk)
            source.seek(place - 8)
            break
        if kind != b"pHYs":
            source.seek(place - 8)
            target.write(source.read(12 + size))
    shutil.copyfileobj(source, target, 1 << 20)
    return ["IPTC"] if metadata.iptc is not None else []


def _added(metadata: Metadata) -> Iterator[bytes]:
    blocks = metadata.blocks_of("PNG")
    if metadata.icc is not None:
        # A profile and sRGB exclude each other; some files have both.
        blocks = [block for block in blocks if block.kind != b"sRGB"]
    for block in blocks:
        assert isinstance(block.kind, bytes)
        yield _chunk(block.kind, block.data)
    if metadata.aspect is not None:
        yield _chunk(b"pHYs", struct.pack(">IIB", *metadata.aspect.as_integer_ratio(), 0))
    elif metadata.resolution is not None:
        x, y = (round(1000 * value) for value in metadata.resolution)
        yield _chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if metadata.exif is not None:
        yield _chunk(_EXIF, metadata.exif)
    if metadata.xmp is not None:
        yield _chunk(b"iTXt", _XMP + b"\0\0\0\0" + metadata.xmp)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
