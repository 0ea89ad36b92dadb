"""Present a scratch file to libvips as an uncompressed TIFF, which it reads strip by strip.

libvips maps files of raw samples into memory, so that the process would grow with the image.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import numpy as np
import pyvips

from ... import forks
from ..scratch_file import ScratchFile

#: Rows of one strip.
_STRIP_ROWS = 64

#: Types of TIFF fields, and their letters in `struct`.
_SHORT, _LONG, _LONG8 = 3, 4, 16
_LETTERS = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}


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

    def fields(offset: int) -> list[tuple[int, int, Sequence[int]]]:
        found: list[tuple[int, int, Sequence[int]]] = [
            (256, _LONG, [width]),
            (257, _LONG, [height]),
            (258, _SHORT, [8 * dtype.itemsize] * channels),
            (259, _SHORT, [1]),  # Not compressed.
            (262, _SHORT, [2 if colours == 3 else 1]),  # RGB, or 0 is black.
            (273, _LONG8, [offset + _STRIP_ROWS * row * index for index in range(strips)]),
            (277, _SHORT, [channels]),
            (278, _LONG, [_STRIP_ROWS]),
            (279, _LONG8, [row * count for count in rows]),
            (284, _SHORT, [1]),  # Channels of a pixel are contiguous.
            (339, _SHORT, [3 if dtype.kind == "f" else 1] * channels),
        ]
        if channels > colours:
            found.insert(-1, (338, _SHORT, [2] * (channels - colours)))  # Unassociated alpha.
        return found

    # The offset of the samples has a fixed size, so that it does not change the length of the header.
    return _packed(fields(len(_packed(fields(0)))))


def _packed(fields: Sequence[tuple[int, int, Sequence[int]]]) -> bytes:
    order = "<" if np.little_endian else ">"
    directory = b""
    beyond = b""
    start = 16 + 8 + 20 * len(fields) + 8
    for tag, kind, values in fields:
        data = struct.pack(f"{order}{len(values)}{_LETTERS[kind]}", *values)
        if len(data) > 8:
            place = struct.pack(f"{order}Q", start + len(beyond))
            beyond += data + bytes(-len(data) % 8)
        else:
            place = data.ljust(8, b"\0")
        directory += struct.pack(f"{order}HHQ", tag, kind, len(values)) + place
    first = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
    return first + struct.pack(f"{order}Q", len(fields)) + directory + bytes(8) + beyond
