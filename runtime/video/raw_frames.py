"""Frames one after the other with nothing between them: what ``ffmpeg -f rawvideo`` and NumPy programs pipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .colour import Coding, PixelFormat

#: Chroma subsampling, as libav names it -> whether chroma has half the rows, and half the columns.
_HALVED = {"420": (True, True), "422": (False, True), "444": (False, False)}

_NAME = re.compile(
    r"(?P<kind>gray|gbrp|yuv(?P<full>j?)(?P<chroma>420|422|444)p)(?P<deep>(?P<bits>9|10|12|14|16)le)?"
    r"|(?P<order>rgb|bgr)(?P<depth>24|48le)"
)

_FORMATS = "rgb24, bgr24, rgb48le, bgr48le, gray, gbrp, yuv420p, yuv422p, yuv444p, yuvj420p, or 10le after a planar one"

#: Order of the channels of an interleaved pixel -> where G, B and R are, the order of planes.
_GBR = {"rgb": (1, 2, 0), "bgr": (1, 0, 2)}

_LARGEST = 1 << 16


@dataclass(frozen=True)
class RawFormat:
    """What a stream of frames without headers holds.

    Attributes
    ----------
    name
        libav's name of the pixel format.
    width, height
        Size of a frame in pixels.
    coding
        The planes. RGB, gray and ``yuvj`` have full range, other YUV limited range; its matrix means nothing.
    interleaved
        Where G, B and R are in a pixel; None where each has a plane of its own.
    kind
        Words for messages.
    """

    kind: ClassVar[str] = "a raw stream"

    name: str
    width: int
    height: int
    coding: Coding
    interleaved: tuple[int, ...] | None = None

    @property
    def ranged(self) -> bool:
        """False where the range was assumed: limited, of YUV that is not ``yuvj``."""
        return self.coding.full

    def resized(self, height: int, width: int) -> RawFormat:
        """Return the format of frames of another size."""
        return replace(self, height=height, width=width)

    def encode(self) -> bytes:
        """Return what begins the stream: nothing."""
        return b""

    def read_frames(self, stream: BinaryIO) -> Iterator[list[NDArray[Any]]]:
        """Yield the planes of each frame.

        Raises
        ------
        InputError
            The stream is empty, or ends within a frame.
        """
        layout, number = self.coding.format, 0
        size = frame_bytes(layout, self.height, self.width)
        while data := read_exactly(stream, size):
            number += 1
            if len(data) < size:
                raise InputError(
                    f"the raw stream ends within frame {number}, after {len(data)} of {size} bytes; --raw names "
                    "another size or format than the stream has, or what writes it failed"
                )
            if self.interleaved is None:
                yield planes_of(data, layout, self.height, self.width)
            else:
                pixels = np.frombuffer(data, layout.dtype.newbyteorder("<")).reshape(self.height, self.width, 3)
                yield [pixels[:, :, place] for place in self.interleaved]
        if not number:
            raise InputError("standard input is empty; pipe frames into it: ffmpeg -i IN -f rawvideo -pix_fmt rgb24 -")

    def write_frame(self, stream: BinaryIO, planes: Sequence[NDArray[Any]]) -> None:
        """Write a frame."""
        if self.interleaved is not None:
            pixels = np.empty((*planes[0].shape, 3), planes[0].dtype)
            for plane, place in zip(planes, self.interleaved, strict=True):
                pixels[:, :, place] = plane
            planes = [pixels]
        write_planes(stream, planes)


def parse_raw(text: str) -> RawFormat:
    """Return the format that ``WIDTHxHEIGHT:PIXELFORMAT`` names, such as ``640x480:rgb24``.

    Raises
    ------
    InputError
        The text has another form, or names a format that is not read.
    """
    size, _, name = text.partition(":")
    numbers = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", size, re.ASCII)
    if numbers is None or not all(0 < int(number) <= _LARGEST for number in numbers.groups()):
        raise InputError(f"--raw is {text!r}; give the size and pixel format of the frames, such as 640x480:rgb24")
    match = _NAME.fullmatch(name)
    if match is None or (match["full"] and match["deep"]):
        raise InputError(f"--raw has the pixel format {name!r}, which is not read; convert it to {_FORMATS}")
    width, height = map(int, numbers.groups())
    if match["order"]:
        layout = PixelFormat("rgb", 8 if match["depth"] == "24" else 16)
        return RawFormat(name, width, height, Coding(layout, "bt709", full=True), _GBR[match["order"]])
    bits = int(match["bits"] or 8)
    if match["chroma"] is None:
        layout = PixelFormat("gray" if match["kind"] == "gray" else "rgb", bits)
        return RawFormat(name, width, height, Coding(layout, "bt709", full=True))
    layout = PixelFormat("yuv", bits, _HALVED[match["chroma"]])
    location = "center" if match["full"] else "left"
    return RawFormat(name, width, height, Coding(layout, "bt709", bool(match["full"]), location))


def frame_bytes(layout: PixelFormat, height: int, width: int) -> int:
    """Return the bytes of a frame.

    Parameters
    ----------
    layout, height, width
        Of the frame.
    """
    return sum(rows * columns for rows, columns in layout.shapes(height, width)) * layout.dtype.itemsize


def planes_of(data: bytearray, layout: PixelFormat, height: int, width: int) -> list[NDArray[Any]]:
    """Return the planes of a frame, which lie one after the other in little-endian order.

    Parameters
    ----------
    data
        `frame_bytes` bytes.
    layout, height, width
        Of the frame.
    """
    values, planes, start = np.frombuffer(data, layout.dtype.newbyteorder("<")), [], 0
    for rows, columns in layout.shapes(height, width):
        planes.append(values[start : start + rows * columns].reshape(rows, columns))
        start += rows * columns
    return planes


def write_planes(stream: BinaryIO, planes: Sequence[NDArray[Any]]) -> None:
    """Write arrays one after the other in little-endian order."""
    for plane in planes:
        stream.write(np.ascontiguousarray(plane, plane.dtype.newbyteorder("<")).data)


def read_exactly(stream: BinaryIO, size: int) -> bytearray:
    """Return that many bytes of a stream, however they come; fewer at its end."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]  # of every binary stream that is opened
        if not count:
            return data[:done]
        done += count
    return data
