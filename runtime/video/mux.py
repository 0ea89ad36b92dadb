"""Join encoded segments with the other streams of the input, copied packet by packet, in a new file."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...errors import InputError, KeygraphError
from ...files import unwritable
from .encoder import CONTAINERS, Encoding, container_of
from .probe import Video, open_input, require_av, video_stream
from .segments import read_segment

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

#: Entries that a container writes anew, or that describe the old file.
_OF_CONTAINER = ("encoder", "major_brand", "minor_version", "compatible_brands", "duration")

#: Begins the names of statistics that mkvmerge adds; those of the video would be wrong.
_STATISTICS = ("_statistics_", "bps", "number_of_frames", "number_of_bytes")


@dataclass
class CopyPlan:
    """Which streams beside the video are copied.

    Attributes
    ----------
    copied
        Indices of the streams in the input.
    notices
        What is left out, and why.
    """

    copied: list[int] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def plan_copies(path: Path, out: Path) -> CopyPlan:
    """Return which streams of a video file can be copied into another, before any work.

    Parameters
    ----------
    path
        The file that is read.
    out
        The file to write; only its suffix is used.

    Raises
    ------
    InputError
        The container cannot hold a stream of sound, subtitles or video. Cover pictures and attachments that it cannot
        hold are left out with a notice, and so are data streams: libav writes those of few kinds, and chapters and time
        codes, which are most of them, it writes from metadata.
    """
    av = require_av()
    from av.stream import Disposition

    plan = CopyPlan()
    name, _ = container_of(out)
    with open_input(path) as source, av.open("/dev/null", "w", format=name) as trial:
        restored = video_stream(source)
        for stream in source.streams:
            if stream is restored:
                continue
            words = _words(stream)
            is_cover = bool(stream.disposition & Disposition.attached_pic)
            if stream.type in ("data", "unknown"):
                plan.notices.append(f"{words} is left out")
                continue
            try:
                trial.add_stream_from_template(stream, opaque=True)
            except (av.FFmpegError, ValueError, TypeError) as error:
                if stream.type == "attachment" or is_cover:
                    plan.notices.append(f"{words} cannot be held by {out.suffix} files, and is left out")
                    continue
                raise InputError(
                    f"{path} has {words}, which {out.suffix} files cannot hold; choose {_other(path, out)}, or take "
                    f"the stream out first: ffmpeg -i {path.name} -map 0 -map -0:{stream.index} -c copy OUT"
                ) from error
            if stream.type == "video" and not is_cover:
                plan.notices.append(f"{words} is copied as it is; only the first video is restored")
            plan.copied.append(stream.index)
    return plan


def write(
    target: Path, out: Path, video: Video, encoding: Encoding, copied: Sequence[int], segments: Sequence[Path]
) -> None:
    """Write a video file from encoded segments and the streams that are copied.

    Parameters
    ----------
    target
        The file to write, under a temporary name.
    out
        The name that it will have.
    video
        What was read.
    encoding
        How the segments were encoded.
    copied
        Indices of the streams to copy.
    segments
        The segments, in order.

    Raises
    ------
    InputError
        The container does not take the streams.
    KeygraphError
        A segment is damaged or does not belong to the others.
    """
    av = require_av()
    name, _ = container_of(out)
    options = {"fflags": "+bitexact"}  # Else Matroska gets random numbers: the same frames gave other bytes each time.
    if name in ("mp4", "mov"):
        # Else libav takes a finer unit than the input's.
        options["video_track_timescale"] = str(encoding.time_base.denominator)
    try:
        with (
            open_input(video.path) as source,
            av.open(f"file:{target}", "w", format=name, container_options=options) as result,
        ):
            result.metadata.update(_kept(source.metadata))
            result.set_chapters(source.chapters())
            streams, own = _add_streams(source, result, video, encoding, copied)
            result.start_encoding()
            extradata = own.codec_context.extradata or b""
            frames = _packets(segments, extradata, own, encoding)
            for packet in _interleaved(frames, _copies(source, streams)):
                result.mux(packet)
    except av.FFmpegError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise unwritable(out, OSError(error.errno, error.strerror)) from error
        raise InputError(
            f"{out} cannot be written: {error.strerror}; choose another container ({_other(video.path, out)}) or codec"
        ) from error


def _add_streams(
    source: InputContainer, result: OutputContainer, video: Video, encoding: Encoding, copied: Sequence[int]
) -> tuple[dict[int, Stream], VideoStream]:
    """Add the streams in the order of the input; return the copied ones by the index in the input, and the video."""
    restored = video_stream(source)
    streams: dict[int, Stream] = {}
    own: VideoStream | None = None
    for stream in source.streams:
        new: Any
        if stream is restored:
            own = new = cast("VideoStream", result.add_stream(encoding.codec, encoding.rate))
            encoding.configure(own.codec_context)
            own.time_base = encoding.time_base
            if encoding.codec == "libx265" and result.format.name in ("mp4", "mov"):
                own.codec_context.codec_tag = "hvc1"
            if video.display_matrix is not None:
                own.set_display_matrix(video.display_matrix)
        elif stream.index in copied:
            new = streams[stream.index] = result.add_stream_from_template(stream, opaque=True)
        else:
            continue
        new.disposition = stream.disposition
        tags = _kept(stream.metadata)
        if stream is restored:
            tags = {key: value for key, value in tags.items() if not key.lower().startswith(_STATISTICS)}
        new.metadata.update(tags)
    if own is None:
        raise KeygraphError(f"{video.path} has lost its video since it was opened; begin again")
    return streams, own


def _packets(
    segments: Sequence[Path], extradata: bytes, stream: VideoStream, encoding: Encoding
) -> Iterator[Packet[Any]]:
    """Yield the packets of all segments with continuous decoding times.

    Each segment was encoded by itself, so the encoder's decoding times do not continue those of the segment before.
    They follow from the times of the frames: packet i is decoded when frame i - delay is shown.
    """
    av = require_av()
    shown = [packet.start for path in segments for packet in read_segment(path)]
    decoded = decoding_times(shown)
    number = 0
    for path in segments:
        for stored in read_segment(path, extradata):
            packet = av.Packet(stored.data)
            packet.stream, packet.time_base = stream, encoding.time_base
            packet.pts, packet.dts, packet.duration = stored.start, decoded[number], stored.duration
            packet.is_keyframe = stored.is_keyframe
            number += 1
            yield packet


def decoding_times(shown: Sequence[int]) -> list[int]:
    """Return when packets are decoded, as late as their order allows: increasing, and none after it is shown.

    Parameters
    ----------
    shown
        When the packets are shown, all different, in the order in which they are decoded.
    """
    ordered = sorted(shown)
    place = {time: index for index, time in enumerate(ordered)}
    delay = max((index - place[time] for index, time in enumerate(shown)), default=0)
    before = [ordered[index] - (ordered[delay] - ordered[0]) for index in range(delay)]
    return [*before, *ordered[: len(ordered) - delay]]


def _copies(source: InputContainer, streams: dict[int, Stream]) -> Iterator[Packet[Any]]:
    """Yield the packets of the streams that are copied."""
    wanted = [source.streams[index] for index in streams if source.streams[index].type != "attachment"]
    if not wanted:
        return
    for packet in source.demux(*wanted):
        # The last packet of each stream is empty: it ends decoding.
        if packet.size == 0 and packet.dts is None:
            continue
        packet.stream = streams[packet.stream_index]
        yield packet


def _interleaved(frames: Iterable[Packet[Any]], others: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
    """Yield both in the order of their decoding times, so that libav need not keep one of them in memory."""
    frames = iter(frames)
    frame = next(frames, None)
    for other in others:
        time = _seconds(other)
        while frame is not None and time is not None and _seconds(frame) <= time:  # type: ignore[operator]
            yield frame
            frame = next(frames, None)
        yield other
    while frame is not None:
        yield frame
        frame = next(frames, None)


def _seconds(packet: Packet[Any]) -> Fraction | None:
    time = packet.dts if packet.dts is not None else packet.pts
    return None if time is None else time * packet.time_base


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.lower() not in _OF_CONTAINER}


def _words(stream: Stream) -> str:
    codec = stream.codec_context.name if stream.codec_context is not None else stream.name
    article = "an" if stream.type in ("audio", "attachment") else "a"
    return f"{article} {stream.type} stream ({codec or 'of unknown type'}, number {stream.index})"


def _other(source: Path, out: Path) -> str:
    own = source.suffix.lower()
    return own if own in CONTAINERS and own != out.suffix.lower() else ".mkv"
