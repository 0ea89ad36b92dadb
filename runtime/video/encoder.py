"""Choose an encoder and its settings, and encode frames."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .colour import Coding, PixelFormat
from .frames import Frame
from .probe import FULL, LIMITED, MATRIX_CODES, Tags, Time, Video, assumed_in, pixel_format, require_av

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

#: Containers that are written: suffix -> libav's name of the format, and the encoder by default.
CONTAINERS = {
    ".mkv": ("matroska", "libx264"),
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}

#: Encoder -> its constant rate factor by default: hardly visible loss.
_CRF = {"libx264": 17, "libx265": 19, "libvpx-vp9": 20, "libsvtav1": 22}

#: Encoders without loss, which take no rate factor.
_LOSSLESS = ("ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo")

#: With fewer rows or columns, x265 4.1 as in PyAV 18.1 writes outside its memory.
_SMALLEST_X265 = 64


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes
    ----------
    codec
        libav's name of the encoder.
    crf
        Constant rate factor; None for an encoder without one.
    pixel_format
        libav's name of the format.
    height, width
        Size of a frame in pixels.
    coding
        What the planes hold.
    tags
        What the stream says of its colours.
    time_base, rate, aspect
        As of `Video`.
    """

    codec: str
    crf: float | None
    pixel_format: str
    height: int
    width: int
    coding: Coding
    tags: Tags
    time_base: Fraction
    rate: Fraction
    aspect: Fraction | None

    def configure(self, context: VideoCodecContext) -> None:
        """Set up an encoder that is not open yet."""
        from av.codec.context import Flags

        context.width, context.height, context.pix_fmt = self.width, self.height, self.pixel_format
        context.time_base, context.framerate = 1 / self.rate, self.rate
        context.sample_aspect_ratio = self.aspect or Fraction(0)
        context.color_range, context.colorspace = self.tags.color_range, self.tags.colorspace
        context.color_primaries, context.color_trc = self.tags.color_primaries, self.tags.color_trc
        # All containers here keep the parameter sets in their header.
        context.flags |= Flags.global_header
        options = {} if self.crf is None else {"crf": f"{self.crf:g}"}
        if self.codec in ("libvpx-vp9", "libaom-av1"):
            context.bit_rate = 0
        if self.codec == "ffv1":
            # Version 3 with checksums: damage is noticed.
            options |= {"level": "3", "slicecrc": "1"}
        if self.codec == "libx264" and _has_avx512():
            # With its AVX-512 code, the same frames give other packets from run to run (x264 165, also in one thread):
            # a job that was stopped would not end as an uninterrupted one. With AVX2 they were the same 50 times of 50.
            options["x264-params"] = "asm=avx2"
        if self.codec == "libx265":
            # It prints its configuration otherwise.
            options["x265-params"] = "log-level=error"
        context.options = {**context.options, **options}

    def open(self) -> VideoCodecContext:
        """Return an encoder that is ready to encode.

        Raises
        ------
        InputError
            It does not take these settings.
        """
        if self.codec == "libx265" and min(self.height, self.width) < _SMALLEST_X265:
            raise InputError(
                f"libx265 damages memory with frames of {self.width}x{self.height}; frames for it have at least "
                f"{_SMALLEST_X265} rows and columns: choose another --codec"
            )
        av = require_av()
        # SVT-AV1 prints its configuration otherwise.
        os.environ.setdefault("SVT_LOG", "1")
        context: VideoCodecContext = av.CodecContext.create(self.codec, "w")
        self.configure(context)
        try:
            context.open()
        except (av.FFmpegError, ValueError) as error:
            odd = self.width % 2 or self.height % 2
            advice = "4:2:0 needs an even size: take --codec ffv1, or --pix-fmt yuv444p" if odd else "choose others"
            rate = "" if self.crf is None else f" with --crf {self.crf:g}"
            reason = error.strerror if isinstance(error, av.FFmpegError) else error
            raise InputError(
                f"the encoder {self.codec} does not take {self.width}x{self.height} {self.pixel_format}{rate}: "
                f"{reason}; {advice}"
            ) from error
        if "crf" in context.options:
            raise InputError(f"the encoder {self.codec} has no constant rate factor; leave --crf out")
        return context


def container_of(out: Path) -> tuple[str, str]:
    """Return libav's name of the format of a file to write, and the encoder by default.

    Raises
    ------
    InputError
        It is none of `CONTAINERS`.
    """
    found = CONTAINERS.get(out.suffix.lower())
    if found is None:
        raise InputError(f"{out} is no container that videos are written to; choose {', '.join(CONTAINERS)}")
    return found


def choose(
    video: Video, out: Path, height: int, width: int, codec: str | None, crf: float | None, pix_fmt: str | None
) -> tuple[Encoding, list[str]]:
    """Choose how the result of a video is encoded.

    Parameters
    ----------
    video
        What was read.
    out
        File to write; its suffix gives the container.
    height, width
        Size of the restored frames.
    codec, crf, pix_fmt
        What the user asked for; None for the defaults of the container, the encoder and the video.

    Returns
    -------
    Encoding, notices

    Raises
    ------
    InputError
        There is no such encoder, or it does not take what was asked for.
    """
    av = require_av()
    codec = codec or container_of(out)[1]
    try:
        encoder = av.Codec(codec, "w")
    except (av.FFmpegError, ValueError):
        encoder = None
    if encoder is None or encoder.type != "video":
        raise InputError(
            f"there is no video encoder {codec} in this build of libav; choose libx264, libx265, libvpx-vp9 or ffv1"
        )
    codec = encoder.name
    with av.open("/dev/null", "w", format=container_of(out)[0]) as trial:
        try:
            trial.add_stream(codec, video.rate)
        except ValueError as error:
            raise InputError(
                f"{out.suffix} files do not hold what {codec} makes; choose another --codec, or .mkv"
            ) from error
    if crf is not None and codec in _LOSSLESS:
        raise InputError(f"the encoder {codec} is lossless and has no constant rate factor; leave --crf out")
    formats = [format.name for format in encoder.video_formats or ()]
    name, notices = (pix_fmt, []) if pix_fmt else _similar(video, formats, codec)
    layout = _layout(name)
    if layout is None or (formats and name not in formats):
        possible = [one for one in formats if _layout(one) is not None]
        raise InputError(
            f"the encoder {codec} is not given the pixel format {name}; choose {', '.join(possible) or 'another'}"
        )
    coding, tags = _target(video, name, layout, height, width)
    if tags.colorspace != video.tags.colorspace:
        notices.append(f"the result names its colour matrix, {coding.matrix}")
    encoding = Encoding(
        codec=codec,
        crf=_CRF.get(codec) if crf is None else crf,
        pixel_format=name,
        height=height,
        width=width,
        coding=coding,
        tags=tags,
        time_base=video.time_base,
        rate=video.rate,
        aspect=video.aspect,
    )
    return encoding, notices


def encode(context: VideoCodecContext, encoding: Encoding, frames: Iterable[Frame[Time]]) -> Iterator[Packet[Any]]:
    """Yield the packets of frames, the encoder's last ones included; their `pts` are the numbers of the frames, from 0.

    The encoder counts frames: it would write a unit of time as fine as MP4's into the stream as its frame rate.

    Parameters
    ----------
    context
        An encoder from `Encoding.open`, which cannot be used again.
    encoding
        Its settings.
    frames
        The frames.
    """
    for number, frame in enumerate(frames):
        yield from context.encode(_video_frame(number, frame, encoding))
    yield from context.encode(None)


def _video_frame(number: int, frame: Frame[Time], encoding: Encoding) -> VideoFrame:
    av = require_av()
    result: VideoFrame = av.VideoFrame(encoding.width, encoding.height, encoding.pixel_format)
    for plane, samples in zip(result.planes, frame.planes, strict=True):
        rows: NDArray[Any] = np.frombuffer(cast("Any", plane), samples.dtype).reshape(samples.shape[0], -1)
        width = samples.shape[1]
        rows[:, :width] = samples
        # Encoders may read what fills a line of memory up.
        rows[:, width:] = samples[:, -1:]
    result.pts, result.time_base = number, 1 / encoding.rate
    result.color_range, result.colorspace = encoding.tags.color_range, encoding.tags.colorspace
    return result


def _has_avx512() -> bool:
    try:
        return "avx512" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _layout(name: str) -> PixelFormat | None:
    av = require_av()
    try:
        return pixel_format(av.VideoFormat(name))
    except ValueError:
        return None


def _similar(video: Video, formats: list[str], codec: str) -> tuple[str, list[str]]:
    """Return the pixel format nearest to the video's own among those of an encoder."""
    own = video.read_as
    if own.startswith("yuvj"):
        own = own.replace("yuvj", "yuv")
    if not formats or own in formats:
        return own, []
    wanted = video.coding.format
    usable = {name: layout for name in formats if (layout := _layout(name)) is not None and not name.startswith("yuvj")}
    if not usable:
        raise InputError(f"the encoder {codec} takes none of the pixel formats that frames are written in")

    def distance(name: str) -> tuple[int, int, int, int]:
        """Depth that is lost, another model, chroma that is lost, and what is more than needed."""
        layout = usable[name]
        lost = sum(new and not old for new, old in zip(layout.halved, wanted.halved, strict=True))
        no_colour = layout.model == "gray" and wanted.model != "gray"
        more = abs(layout.bits - wanted.bits) + sum(layout.halved) * (wanted.model == "rgb")
        return 8 * no_colour + lost, max(wanted.bits - layout.bits, 0), layout.model != wanted.model, more

    name = min(usable, key=distance)
    return name, [f"{codec} does not take {video.pixel_format}: the result is {name}"]


def _target(video: Video, name: str, layout: PixelFormat, height: int, width: int) -> tuple[Coding, Tags]:
    """Return what the planes of the result hold, and what it says of them."""
    source = video.coding
    tags = assumed_in(video, video.tags, height, width)
    if layout.model == "rgb":
        tags = dataclasses.replace(tags, colorspace=0, color_range=FULL)
        return dataclasses.replace(source, format=layout, full=True), tags
    if source.format.model == "rgb":
        tags = dataclasses.replace(tags, colorspace=MATRIX_CODES["bt709"], color_range=LIMITED)
        return Coding(layout, "bt709", full=False), tags
    if name.startswith("yuvj") or (source.full and tags.color_range != FULL):
        tags = dataclasses.replace(tags, color_range=FULL)
    full = source.full or name.startswith("yuvj")
    return dataclasses.replace(source, format=layout, full=full), tags
