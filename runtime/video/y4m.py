"""YUV4MPEG2 streams: what ``ffmpeg -f yuv4mpegpipe``, mpv and VapourSynth write into a pipe, and read from one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, ClassVar

from numpy.typing import NDArray

from ...errors import InputError
from .colour import Coding, PixelFormat
from .raw_frames import frame_bytes, planes_of, read_exactly, write_planes

_MAGIC = "YUV4MPEG2"

#: Longest header that is read; those of all known writers are below 200 bytes.
_LONGEST = 4096

#: Subsampling -> whether chroma has half the rows, and half the columns.
_HALVED = {"420": (True, True), "422": (False, True), "444": (False, False)}

#: What may follow 420 in 8 bits -> where chroma lies; mpeg2 is also the default of ffmpeg's reader for 10 bits.
_LOCATIONS = {"": "center", "jpeg": "center", "mpeg2": "left", "paldv": "topleft"}

_COLOURS = re.compile(r"(mono|420|422|444)(jpeg|mpeg2|paldv|p?(?:9|10|12|14|16))?")

_FORMATS = "420jpeg, 420mpeg2, 420paldv, 422, 444, mono, or 420p10, 422p10, 444p10, mono10 (9 to 16 bits)"


@dataclass(frozen=True)
class Header:
    """The header of a stream.

    Attributes
    ----------
    width, height
        Size of a frame in pixels.
    coding
        The planes. Its matrix means nothing: a header cannot say it.
    ranged
        True when the header says whether values are full or limited; else they are limited.
    others
        The other parameters, such as frame rate and colour space, as they stand.
    kind
        Words for messages.
    """

    kind: ClassVar[str] = "YUV4MPEG2"

    width: int
    height: int
    coding: Coding
    ranged: bool
    others: tuple[str, ...]

    def resized(self, height: int, width: int) -> Header:
        """Return the header of frames of another size."""
        return replace(self, height=height, width=width)

    def encode(self) -> bytes:
        """Return the line that begins the stream."""
        return " ".join([_MAGIC, f"W{self.width}", f"H{self.height}", *self.others]).encode() + b"\n"

    def read_frames(self, stream: BinaryIO) -> Iterator[list[NDArray[Any]]]:
        """Yield the planes of each frame.

        Raises
        ------
        InputError
            A frame's header is damaged, or the stream ends within it.
        """
        layout, number = self.coding.format, 0
        size = frame_bytes(layout, self.height, self.width)
        while line := _line(stream):
            number += 1
            if line.split(" ")[0] != "FRAME":
                raise InputError(
                    f"frame {number} of the YUV4MPEG2 stream begins with {line[:20]!r}, not FRAME; its size or format "
                    "is not what the header says"
                )
            data = read_exactly(stream, size)
            if len(data) < size:
                raise InputError(
                    f"the YUV4MPEG2 stream ends within frame {number}; what writes it failed, or the header is wrong"
                )
            yield planes_of(data, layout, self.height, self.width)

    def write_frame(self, stream: BinaryIO, planes: Sequence[NDArray[Any]]) -> None:
        """Write a frame."""
        stream.write(b"FRAME\n")
        write_planes(stream, planes)


def read_header(stream: BinaryIO) -> Header:
    """Read the header of a stream.

    Raises
    ------
    InputError
        It is no YUV4MPEG2 header, or one of frames that cannot be restored: interlaced, with alpha.
    """
    line = _line(stream)
    if not line:
        raise InputError("standard input is empty; pipe a YUV4MPEG2 stream into it: ffmpeg -i IN -f yuv4mpegpipe -")
    words = line.split()
    if words[:1] != [_MAGIC]:
        raise InputError(
            f"standard input is no YUV4MPEG2 stream: it begins with {line[:20]!r}; make one with: ffmpeg -i IN -f "
            "yuv4mpegpipe -"
        )
    found: dict[str, str] = {}
    others = []
    for word in words[1:]:
        key, value = word[:1], word[1:]
        if key not in ("W", "H", "F", "I", "A", "C", "X"):
            raise InputError(f"the YUV4MPEG2 header has the unknown parameter {word!r}; known are W, H, F, I, A, C, X")
        if key != "X":
            if key in found:
                raise InputError(f"the YUV4MPEG2 header has the parameter {key} twice: {found[key]!r} and {value!r}")
            found[key] = value
        if key not in ("W", "H"):
            others.append(word)
    width, height = (_size(found, key) for key in ("W", "H"))
    _check_rate(found)
    _check_progressive(found.get("I", "p"))
    full, ranged = _range(others)
    layout, location = _layout(found.get("C"))
    coding = Coding(layout, "bt709", full, location)
    return Header(width, height, coding, ranged, tuple(others))


def _line(stream: BinaryIO) -> str:
    """Return the next line without its end; empty at the end of the stream."""
    line = stream.readline(_LONGEST)
    if not line:
        return ""
    if not line.endswith(b"\n"):
        raise InputError(f"the YUV4MPEG2 stream has no line where a header should be, but {line[:20]!r}...")
    # An empty line is no end of the stream.
    return line[:-1].decode("ascii", "backslashreplace") or " "


def _size(found: dict[str, str], key: str) -> int:
    name = {"W": "width", "H": "height"}[key]
    if key not in found:
        raise InputError(f"the YUV4MPEG2 header has no {name} ({key})")
    if not (found[key].isascii() and found[key].isdigit() and 0 < int(found[key]) <= 1 << 16):
        raise InputError(f"the YUV4MPEG2 header has the {name} {found[key]!r}; it must be from 1 to {1 << 16}")
    return int(found[key])


def _check_rate(found: dict[str, str]) -> None:
    if "F" in found and not re.fullmatch(r"[0-9]+:[0-9]+", found["F"]):
        raise InputError(f"the YUV4MPEG2 header has the frame rate {found['F']!r}; it must be like 30000:1001")
    if "A" in found and not re.fullmatch(r"[0-9]+:[0-9]+", found["A"]):
        raise InputError(f"the YUV4MPEG2 header has the aspect ratio {found['A']!r}; it must be like 1:1")


def _check_progressive(interlacing: str) -> None:
    if interlacing in ("t", "b", "m"):
        raise InputError(
            "the video is interlaced, and fields are no images of their own; deinterlace it first: ffmpeg -i IN -vf "
            "bwdif -f yuv4mpegpipe -"
        )
    if interlacing not in ("p", "?"):
        raise InputError(f"the YUV4MPEG2 stream has the interlacing {interlacing!r}; it must be p")


def _range(others: list[str]) -> tuple[bool, bool]:
    """Return whether the values have full range, and whether the header says so."""
    given = [word.partition("=")[2] for word in others if word.startswith("XCOLORRANGE=")]
    if not given:
        return False, False
    if len(given) > 1 or given[0] not in ("FULL", "LIMITED"):
        raise InputError(f"the YUV4MPEG2 header has XCOLORRANGE={', '.join(given)}; it must be FULL or LIMITED, once")
    return given[0] == "FULL", True


def _layout(colours: str | None) -> tuple[PixelFormat, str]:
    """Return the planes that a colour space names, and where chroma lies; 420jpeg where there is none."""
    text = "420jpeg" if colours is None else colours
    if text == "444alpha":
        raise InputError(
            "the video has an alpha channel, which is not restored; leave it out: ffmpeg ... -pix_fmt yuv444p"
        )
    match = _COLOURS.fullmatch(text)
    kind, rest = (match[1], match[2] or "") if match else ("", "")
    number = rest.removeprefix("p")
    deep = number.isdigit()
    # mono10 is written without p, 420p10 with it.
    wrong = (
        not match
        or (deep and rest.startswith("p") == (kind == "mono"))
        or (rest in _LOCATIONS and rest and kind != "420")
    )
    if wrong:
        raise InputError(f"the YUV4MPEG2 header has the colour space {text!r}; it must be {_FORMATS}")
    bits = int(number) if deep else 8
    if kind == "mono":
        return PixelFormat("gray", bits), "left"
    location = _LOCATIONS[rest] if kind == "420" and not deep else "left"
    return PixelFormat("yuv", bits, _HALVED[kind]), location
