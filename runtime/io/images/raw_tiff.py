"""Present a scratch file to libvips as an uncompressed TIFF, which it reads strip by strip.

libvips maps files of raw samples into memory, so that the process would grow with the image.
"""

from __future__ import annotations

import os
import struct

import numpy as np
import pyvips

from .... import forks
from ..scratch_file import ScratchFile
from .metadata.ifd import LONG8, Value, pack, shorts

#: Rows of one strip.
_STRIP_ROWS = 64


def image(samples: ScratchFile) -> pyvips.Image:
    """Open samples, [H, W, C] of uint8, uint16, float32 or float64, for reading once from top to bottom."""
    forks.require_vips()
    start = header(samples.shape, samples.dtype)
    size = len(start) + int(np.prod(samples.shape)) * samples.dtype.itemsize
    place = 0

    def read(count: int) -> bytes:
        nonlocal place
        if place < len(start):
            data = start[place : place + count]
        else:
            data = os.pread(samples.fileno(), min(count, size - place), place - len(start))
        place += len(data)
        return data

    def seek(offset: int, whence: int) -> int:
        nonlocal place
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: place, os.SEEK_END: size}[whence]
        return place

    source = pyvips.SourceCustom()
    source.on_read(read)
    source.on_seek(seek)
    return pyvips.Image.new_from_source(source, "", access="sequential", fail_on="error")


def header(shape: tuple[int, int, int], dtype: np.dtype) -> bytes:
    """Return the header of a BigTIFF (TIFF 6.0 with 64-bit offsets) in this machine's byte order, up to the samples."""
    height, width, channels = shape
    strips = -(-height // _STRIP_ROWS)
    row = width * channels * dtype.itemsize
    rows = [min(_STRIP_ROWS, height - _STRIP_ROWS * index) for index in range(strips)]
    colours = 3 if channels in (3, 4) else 1

    order = "<" if np.little_endian else ">"

    def longs(tag: int, *values: int) -> Value:
        return Value(tag, LONG8, struct.pack(f"{order}{len(values)}Q", *values))

    def directory(offset: int) -> bytes:
        fields = [
            longs(256, width),
            longs(257, height),
            shorts(order, 258, *[8 * dtype.itemsize] * channels),
            shorts(order, 259, 1),  # Not compressed.
            shorts(order, 262, 2 if colours == 3 else 1),  # RGB, or 0 is black.
            longs(273, *(offset + _STRIP_ROWS * row * index for index in range(strips))),
            shorts(order, 277, channels),
            longs(278, _STRIP_ROWS),
            longs(279, *(row * count for count in rows)),
            shorts(order, 284, 1),  # Channels of a pixel are contiguous.
            shorts(order, 339, *[3 if dtype.kind == "f" else 1] * channels),
        ]
        if channels > colours:
            fields.append(shorts(order, 338, *[2] * (channels - colours)))  # Unassociated alpha.
        first = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
        return first + pack(fields, order, True, 16)

    # The offset of the samples has a fixed size, so that it does not change the length of the header.
    return directory(len(directory(0)))
