"""Picture files with every kind of metadata, put together without the code under test."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

Array = np.ndarray[Any, Any]
Chunk = tuple[bytes, bytes]

HEIGHT, WIDTH = 40, 56

_Y, _X = np.mgrid[:HEIGHT, :WIDTH]

#: A smooth picture in colour.
PIXELS = np.stack([_X * 4, _Y * 6, _X + _Y], axis=2).astype(np.uint8)

XMP = (
    b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description rdf:about=''"
    b" xmlns:tiff='http://ns.adobe.com/tiff/1.0/' xmlns:dc='http://purl.org/dc/elements/1.1/'"
    b" tiff:Orientation='6' dc:source='archive 7'/></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
)
IPTC = b"\x1c\x02\x00\x00\x02\x00\x04" + b"\x1c\x02\x78" + struct.pack(">H", 9) + b"A caption"
MAKER_NOTE = b"Maker\0" + bytes(range(100))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GEO_TAGS = (
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
    (34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
)


def exif_block(orientation: int = 1, thumbnail: bytes = b"") -> bytes:
    """Return an EXIF block with a maker note, a position, and a thumbnail."""
    block = Image.Exif()
    block[0x010F] = "A Camera"
    block[0x0112] = orientation
    block[0x8769] = {0x829D: (28, 10), 0x927C: MAKER_NOTE, 0xA002: WIDTH, 0xA003: HEIGHT}
    block[0x8825] = {1: "N", 2: (48.0, 8.0, 0.0)}
    data = bytearray(block.tobytes().removeprefix(b"Exif\0\0"))
    if thumbnail:
        order = "<" if data[:2] == b"II" else ">"
        (first,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, first)
        place = len(data) + len(data) % 2
        struct.pack_into(order + "I", data, first + 2 + 12 * count, place)
        data += bytes(len(data) % 2)
        data += struct.pack(order + "HHHIHH", 3, 259, 3, 1, 6, 0)
        data += struct.pack(order + "HHIIHHIII", 513, 4, 1, place + 42, 514, 4, 1, len(thumbnail), 0)
        data += thumbnail
    return bytes(data)


def thumbnail() -> bytes:
    """Return a small JPEG."""
    return bytes(pyvips.Image.new_from_array(PIXELS[:16, :16]).write_to_buffer(".jpg", keep="none"))


def write_png(path: Path, *chunks: Chunk, pixels: Array = PIXELS, **options: Any) -> None:
    """Write a PNG with chunks before its samples."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    data = file.getvalue()
    path.write_bytes(data[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + data[33:])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_jpeg(path: Path, *segments: tuple[int, bytes], after: bytes = b"", **options: Any) -> None:
    """Write a JPEG with segments after its first one, and bytes after its end."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", quality=98, **options)
    data = file.getvalue()
    (size,) = struct.unpack_from(">H", data, 4)
    inserted = b"".join(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for marker, content in segments)
    path.write_bytes(data[: 4 + size] + inserted + data[4 + size :] + after)


def photoshop(*resources: tuple[int, bytes]) -> bytes:
    """Return Photoshop's image resources, as they stand in a JPEG."""
    return b"Photoshop 3.0\0" + b"".join(
        b"8BIM" + struct.pack(">HHI", kind, 0, len(data)) + data + bytes(len(data) % 2) for kind, data in resources
    )


def write_tiff(path: Path, pixels: Array = PIXELS, **options: Any) -> None:
    """Write a TIFF of one page."""
    tifffile.imwrite(path, pixels, **{"photometric": "rgb", "metadata": None, **options})


def write_tiff_with_exif(path: Path, orientation: int = 1, xmp: bytes = b"") -> None:
    """Write a TIFF with directories of EXIF and GPS, which tifffile does not."""
    with Image.open(io.BytesIO(_plain_tiff())) as image:
        block = Image.Exif()
        block.load(b"Exif\0\0" + exif_block(orientation))
        if xmp:
            block[700] = xmp
        image.save(path, "TIFF", exif=block)


def _plain_tiff() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "TIFF")
    return file.getvalue()


def write_webp(path: Path, **options: Any) -> None:
    """Write a lossless WebP."""
    Image.fromarray(PIXELS).save(path, "WEBP", lossless=True, exact=True, **options)


def frames(count: int = 3) -> list[Image.Image]:
    """Return different pictures of one size."""
    return [Image.fromarray(np.roll(PIXELS, 5 * index, axis=1)) for index in range(count)]


def write_pages(path: Path, pages: Sequence[Array], subfiletypes: Sequence[int] = (), **options: Any) -> None:
    """Write a TIFF with a page for each array, marked as reduced (1) or as a mask (4)."""
    with tifffile.TiffWriter(path) as file:
        for page, kind in zip(pages, subfiletypes or [0] * len(pages), strict=True):
            colours = "rgb" if page.ndim == 3 else "mask" if kind == 4 else "minisblack"
            file.write(page, photometric=colours, subfiletype=kind, metadata=None, contiguous=False, **options)


def png_text() -> PngImagePlugin.PngInfo:
    """Return texts in UTF-8, in Latin-1, and compressed."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", "夜の東京, ünï")
    info.add_text("Author", "José Müller")
    info.add_text("Source", "compressed", zip=True)
    return info
