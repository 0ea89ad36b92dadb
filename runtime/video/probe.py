"""Open a video file, find what its frames hold, and refuse what cannot be restored."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, MissingDependencyError
from ...files import read_start
from ...installation import install_line
from .colour import Coding, PixelFormat, assumed_matrix

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: Suffixes of video files.
SUFFIXES = (
    *(".mkv", ".mp4", ".m4v", ".mov", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".mxf", ".nut", ".y4m"),
)

#: Codes of ITU-T H.273: MatrixCoefficients and TransferCharacteristics.
_UNSPECIFIED = 2
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
MATRIX_CODES = {"bt709": 1, "fcc": 4, "bt601": 6, "smpte240m": 7, "bt2020": 9}
_HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}
_OTHER_MATRICES = {8: "YCgCo", 10: "BT.2020 constant luminance", 14: "ICtCp"}

#: libav's AVColorRange.
LIMITED, FULL = 1, 2


@dataclass(frozen=True)
class Tags:
    """What a stream says of its colours, as codes of ITU-T H.273 (`color_range`: of libav); kept as they are.

    Attributes
    ----------
    color_range, colorspace, color_primaries, color_trc
        As libav names them.
    """

    color_range: int
    colorspace: int
    color_primaries: int
    color_trc: int


@dataclass(frozen=True)
class Video:
    """The video stream of a file, as its first frame shows it.

    Attributes
    ----------
    path
        The file.
    height, width
        Size of a coded frame in pixels; the display matrix is not applied.
    pixel_format
        libav's name of what the decoder gives.
    read_as
        libav's name of the format that frames are brought to before they are read.
    coding
        What frames hold then.
    tags
        Of its colours.
    time_base
        Unit of time stamps in seconds.
    rate
        Average frame rate; 25 where the file does not say.
    aspect
        Aspect ratio of a pixel; None where the file does not say.
    display_matrix
        How a player turns the frames: the nine numbers of libav's ``AV_PKT_DATA_DISPLAYMATRIX``; None for none.
    frames
        Number of frames; 0 where the file does not say.
    notices
        What was assumed.
    """

    path: Path
    height: int
    width: int
    pixel_format: str
    read_as: str
    coding: Coding
    tags: Tags
    time_base: Fraction
    rate: Fraction
    aspect: Fraction | None
    display_matrix: tuple[int, ...] | None
    frames: int
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Time:
    """When a frame is shown, in units of `Video.time_base`; a duration of 0 is unknown."""

    start: int
    duration: int


def require_av() -> Any:
    """Return the package av.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        remedy = f"install it with: {install_line('video')}" if sys.version_info >= (3, 11) else "it needs Python 3.11"
        raise MissingDependencyError(
            f"videos need the package av (PyAV 18), which is not installed; {remedy}; or pipe frames: ffmpeg -i IN -f "
            "yuv4mpegpipe - | keygraph restore - -o - ..."
        ) from error
    return av


def open_input(path: Path) -> InputContainer:
    """Open a video file.

    Raises
    ------
    InputError
        It cannot be opened.
    """
    av = require_av()
    read_start(path, "a video")
    try:
        # A name such as concat:a|b or http://... is never taken for a protocol.
        return av.open(f"file:{path}", "r", metadata_errors="surrogateescape")  # type: ignore[no-any-return]
    except av.FFmpegError as error:
        raise InputError(f"{path} cannot be read as a video: {error.strerror}; give another file") from error


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the stream that is restored: the first video that is no cover picture."""
    from av.stream import Disposition

    streams = (one for one in container.streams.video if not one.disposition & Disposition.attached_pic)
    return next(streams, None)


def probe(path: Path, matrix: str | None = None) -> Video:
    """Return what a video file holds.

    Parameters
    ----------
    path
        The file.
    matrix
        Its colour matrix where the file does not say (`colour.MATRICES`); None to assume it by the size.

    Raises
    ------
    InputError
        The file cannot be read, or its frames are not restored: they are interlaced, have alpha, or are HDR.
    """
    with open_input(path) as container:
        stream = video_stream(container)
        if stream is None or stream.codec_context is None:
            raise InputError(f"{path} has no video that can be decoded; give a file with one")
        frame = next(decoded(container, stream, path), None)
        if frame is None or stream.time_base is None:
            raise InputError(f"{path} has no frame; give another file")
        context = stream.codec_context
        tags = Tags(
            frame.color_range or context.color_range,
            *(
                value if value != _UNSPECIFIED else other
                for value, other in (
                    (int(frame.colorspace), int(context.colorspace)),
                    (int(frame.color_primaries), int(context.color_primaries)),
                    (int(frame.color_trc), int(context.color_trc)),
                )
            ),
        )
        coding, read_as, notices = _coding(path, frame, tags, matrix)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = (stream.duration or 0) * stream.time_base
        if not seconds and container.duration:
            seconds = Fraction(container.duration, 1_000_000)
        return Video(
            path=path,
            height=frame.height,
            width=frame.width,
            pixel_format=frame.format.name,
            read_as=read_as,
            coding=coding,
            tags=tags,
            time_base=stream.time_base,
            rate=rate,
            aspect=stream.sample_aspect_ratio or None,
            display_matrix=display_matrix(frame),
            frames=stream.frames or round(seconds * rate),
            notices=notices,
        )


def decoded(container: InputContainer, stream: VideoStream, path: Path) -> Generator[VideoFrame, None, None]:
    """Yield the frames of a stream.

    Parameters
    ----------
    container, stream
        What is decoded.
    path
        The file, for messages.

    Raises
    ------
    InputError
        One cannot be decoded.
    """
    av = require_av()
    stream.thread_type = "AUTO"
    number = 0
    try:
        for frame in container.decode(stream):
            number += 1
            yield frame
    except av.FFmpegError as error:
        raise InputError(
            f"{path}: what comes after frame {number} cannot be decoded: {error.strerror}; repair or cut the file first"
        ) from error


def read_planes(frame: VideoFrame, video: Video) -> list[NDArray[Any]]:
    """Return the planes of a frame of the video.

    Raises
    ------
    InputError
        The frame differs from the video's first: in size, in format, or because it is interlaced.
    """
    if (frame.height, frame.width, frame.format.name) != (video.height, video.width, video.pixel_format):
        raise InputError(
            f"{video.path} changes from {video.width}x{video.height} {video.pixel_format} to {frame.width}x"
            f"{frame.height} {frame.format.name}; cut it there, and restore the parts"
        )
    _check_progressive(frame, video.path)
    if frame.format.name != video.read_as:
        # Samples are only moved to other places: the formats differ in nothing else.
        frame = frame.reformat(format=video.read_as)
    layout = video.coding.format
    planes = []
    for plane, (height, width) in zip(frame.planes, layout.shapes(video.height, video.width), strict=True):
        rows = np.frombuffer(cast("Any", plane), layout.dtype).reshape(height, -1)
        planes.append((rows if plane.line_size > 0 else rows[::-1])[:, :width])
    return planes


def pixel_format(format: VideoFormat) -> PixelFormat | None:
    """Return the layout of one of libav's formats in planes; None for a format of another kind."""
    components = format.components
    bits = {component.bits for component in components}
    if (
        any(component.is_alpha for component in components)
        or format.is_bayer
        or format.has_palette
        or format.is_big_endian
        or (not format.is_planar and len(components) > 1)
        or len(bits) != 1
        or not 8 <= min(bits) <= 16
        or len({component.plane for component in components}) != len(components)
        or format.name.startswith(("xyz", "gbrpf", "grayf", "ya", "yaf"))
        or "msb" in format.name
    ):
        return None
    depth = min(bits)
    if len(components) == 1:
        return PixelFormat("gray", depth)
    if format.is_rgb:
        return PixelFormat("rgb", depth)
    # Of a frame of 8 x 8, what chroma has.
    halved = {8: False, 4: True}
    width, height = format.chroma_width(8), format.chroma_height(8)
    if width not in halved or height not in halved or (halved[height] and not halved[width]):
        return None
    return PixelFormat("yuv", depth, (halved[height], halved[width]))


def _coding(path: Path, frame: VideoFrame, tags: Tags, matrix: str | None) -> tuple[Coding, str, tuple[str, ...]]:
    """Return what frames hold once they are in a planar format, that format, and what was assumed."""
    _check_progressive(frame, path)
    if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
        raise InputError(
            f"{path} has an alpha channel or a palette ({frame.format.name}), which is not restored; leave it out: "
            f"ffmpeg -i {path.name} -pix_fmt yuv420p OUT"
        )
    if tags.color_trc in _HDR:
        raise InputError(
            f"{path} is HDR: its transfer is {_HDR[tags.color_trc]}, and networks are trained on standard dynamic "
            "range; tone-map it first, with ffmpeg's filters zscale and tonemap"
        )
    read_as, layout = _planar(frame.format)
    if layout is None:
        raise InputError(
            f"{path} has the pixel format {frame.format.name}, which is not read; convert it first: ffmpeg -i "
            f"{path.name} -pix_fmt yuv444p OUT"
        )
    notices = []
    name = _MATRICES.get(tags.colorspace)
    if layout.model == "yuv" and name is None:
        if tags.colorspace not in (_UNSPECIFIED, 0, 3):
            other = _OTHER_MATRICES.get(tags.colorspace, f"number {tags.colorspace}")
            raise InputError(f"{path} has the colour matrix {other}, which is not read; convert it to bt709 first")
        name = matrix or assumed_matrix(frame.height, frame.width)
        notices.append(f"the file does not say its colour matrix, taken as {name} (--matrix)")
    full = layout.model == "rgb" or frame.format.name.startswith("yuvj") or tags.color_range == FULL
    if not full and tags.color_range != LIMITED:
        notices.append("the file does not say its range, taken as limited")
    location = "center" if frame.format.name.startswith("yuvj") else "topleft" if name == "bt2020" else "left"
    return Coding(layout, name or "bt709", full, location), read_as, tuple(notices)


def _planar(format: VideoFormat) -> tuple[str, PixelFormat | None]:
    """Return the planar format with the same samples, as a name and a layout."""
    av = require_av()
    layout = pixel_format(format)
    if layout is not None:
        return format.name, layout
    bits = max(component.bits for component in format.components)
    if format.is_rgb:
        names = ["gbrp" if bits <= 8 else f"gbrp{bits}le"]
    else:
        shapes = {(4, 4): "420", (8, 4): "422", (8, 8): "444"}
        kind = shapes.get((format.chroma_height(8), format.chroma_width(8)), "")
        names = [f"yuv{kind}p" if bits <= 8 else f"yuv{kind}p{bits}le"]
    for name in names:
        try:
            planar = av.VideoFormat(name)
        except ValueError:
            continue
        if {component.bits for component in format.components} == {bits}:
            return name, pixel_format(planar)
    return format.name, None


def _check_progressive(frame: VideoFrame, path: Path) -> None:
    if frame.interlaced_frame:
        raise InputError(
            f"{path} is interlaced, and fields are no images of their own; deinterlace it first: ffmpeg -i "
            f"{path.name} -vf bwdif OUT"
        )


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """Return the nine numbers by which a player turns a frame; None for none."""
    from av.sidedata.sidedata import Type

    data = cast("Any", frame.side_data).get(Type.DISPLAYMATRIX)
    return None if data is None else tuple(int(value) for value in np.frombuffer(data, np.int32))


def assumed_in(video: Video, tags: Tags, height: int, width: int) -> Tags:
    """Return tags that name an assumed matrix where a player would assume another for frames of the given size.

    Parameters
    ----------
    video
        What was read.
    tags
        Its tags.
    height, width
        Size of the frames that are written.
    """
    if video.coding.format.model != "yuv":
        return tags
    if tags.colorspace == _UNSPECIFIED and assumed_matrix(height, width) != video.coding.matrix:
        return dataclasses.replace(tags, colorspace=MATRIX_CODES[video.coding.matrix])
    return tags
