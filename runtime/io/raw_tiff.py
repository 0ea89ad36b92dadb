"""Plain samples in a file as a TIFF that libvips reads like any other: strip by strip, without mapping the file.

libvips maps files of raw samples into memory, whole in the end, so that the process would grow with the image.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import numpy as np
import pyvips

from .feature_file import FeatureFile

#: Rows of a strip.
_STRIP = 64

#: Types of a TIFF's fields -> struct's.
_SHORT, _LONG, _LONG8 = 3, 4, 16
_LETTERS = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}


def image(samples: FeatureFile) -> pyvips.Image:
    """Open samples, [H, W, C] of uint8, uint16, float32 or float64, for reading from the top to the bottom once."""
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
    """What stands before the samples in a BigTIFF (TIFF 6.0 with offsets of 64 bits), in this machine's byte order."""
    height, width, channels = shape
    strips = -(-height // _STRIP)
    row = width * channels * dtype.itemsize
    rows = [min(_STRIP, height - _STRIP * index) for index in range(strips)]
    colours = 3 if channels in (3, 4) else 1

    def fields(offset: int) -> list[tuple[int, int, Sequence[int]]]:
        found: list[tuple[int, int, Sequence[int]]] = [
            (256, _LONG, [width]),
            (257, _LONG, [height]),
            (258, _SHORT, [8 * dtype.itemsize] * channels),
            (259, _SHORT, [1]),  # Not compressed.
            (262, _SHORT, [2 if colours == 3 else 1]),  # RGB, or 0 is black.
            (273, _LONG8, [offset + _STRIP * row * index for index in range(strips)]),
            (277, _SHORT, [channels]),
            (278, _LONG, [_STRIP]),
            (279, _LONG8, [row * count for count in rows]),
            (284, _SHORT, [1]),  # The samples of a pixel together.
            (339, _SHORT, [3 if dtype.kind == "f" else 1] * channels),
        ]
        if channels > colours:
            found.insert(-1, (338, _SHORT, [2] * (channels - colours)))  # Alpha, not multiplied in.
        return found

    # The samples' offset is a value of fixed size, so that the header is as long with any.
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
