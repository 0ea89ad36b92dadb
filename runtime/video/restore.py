"""Restore a video file into another: decoded, restored and encoded segment by segment, then joined."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ...errors import InputError, KeygraphError, counted
from ...files import check_place
from ...version import version
from ..companion_files import check_outputs, content_digest
from ..restore_options import RestoreOptions
from ..restorer import Restorer
from .check import check_result
from .encoder import Encoding, choose, container_of, encode
from .frames import Frame, FrameRestorer, frame_size
from .mux import CopyPlan, plan_copies, write
from .probe import Time, Video, probe, require_av
from .segments import Job, StoredPacket
from .source import SourceFrames

#: Frames of a segment by default: what is lost at most when a job is killed. Each segment begins with a key frame.
SEGMENT = 48

#: Numbers of damaged frames that are listed.
_LISTED = 5


@dataclass(frozen=True)
class VideoOptions:
    """How the result of a video is encoded.

    Attributes
    ----------
    codec
        libav's name of an encoder; None for the default of the container.
    crf
        Constant rate factor; None for the encoder's default.
    pix_fmt
        libav's name of a pixel format; None for that of the input, or the nearest that the encoder takes.
    matrix
        The input's colour matrix where it does not say (`colour.MATRICES`); None to assume it by the size.
    segment
        Frames of a segment; None for `SEGMENT`.
    raw
        For frames in a pipe that have no headers (`raw_frames.parse_raw`); None for YUV4MPEG2.
    """

    codec: str | None = None
    crf: float | None = None
    pix_fmt: str | None = None
    matrix: str | None = None
    segment: int | None = None
    raw: str | None = None


@dataclass(frozen=True)
class VideoReport:
    """How one video was restored; plain values, printed as one line of JSON.

    Attributes
    ----------
    source, target
        The files.
    height, width
        Size of the restored frames in pixels.
    frames
        Number of frames.
    resumed
        Frames of an earlier run that was stopped; 0 for none.
    codec, pixel_format
        How the result is encoded.
    seconds
        Time of this run, with decoding and encoding.
    engine
        What ran.
    notices
        Everything that was lost, assumed, or done otherwise than asked.
    """

    source: str
    target: str
    height: int
    width: int
    frames: int
    resumed: int
    codec: str
    pixel_format: str
    seconds: float
    engine: str
    notices: tuple[str, ...]


@dataclass(frozen=True)
class VideoJob:
    """A video to restore, checked.

    Attributes
    ----------
    video
        What is read.
    target
        File to write.
    options
        How frames are restored.
    encoding, segment
        How they are encoded, and in segments of how many.
    copies
        The streams that are copied.
    described
        What decides the result; see `segments.Job`.
    notices
        What was assumed or chosen.
    """

    video: Video
    target: Path
    options: RestoreOptions
    encoding: Encoding
    segment: int
    copies: CopyPlan
    described: dict[str, str]
    notices: tuple[str, ...]


def plan_video(
    restorer: Restorer, model: Path, source: Path, target: Path, options: RestoreOptions, video_options: VideoOptions
) -> VideoJob:
    """Plan the restoration of a video, and check everything that can be known from its first frame.

    Parameters
    ----------
    restorer, model
        The model, and its file.
    source, target
        Files to read and to write. An existing target is replaced.
    options
        How frames are restored.
    video_options
        How they are encoded.

    Raises
    ------
    InputError
        A file or an option is not possible, or the model is not for videos.
    """
    segment = SEGMENT if video_options.segment is None else video_options.segment
    if segment < 1:
        raise InputError(f"--segment is {segment}; give at least 1 frame")
    options.check(restorer.manifest)
    container_of(target)
    video = probe(source, video_options.matrix)
    check_place(target)
    check_outputs([target], [source, model])
    channels = 1 if video.coding.format.model == "gray" else 3
    try:
        height, width = frame_size(restorer, video.height, video.width, channels, options)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    encoding, notices = choose(
        video, target, height, width, video_options.codec, video_options.crf, video_options.pix_fmt
    )
    encoding.open()
    return VideoJob(
        video=video,
        target=target,
        options=options,
        encoding=encoding,
        segment=segment,
        copies=plan_copies(source, target),
        described=_described(restorer, model, video, options, encoding, segment),
        notices=(*video.notices, *notices),
    )


def run_video(restorer: Restorer, job: VideoJob, progress: Callable[[int, int], None] | None = None) -> VideoReport:
    """Restore a video, from where an earlier run was stopped.

    Parameters
    ----------
    restorer
        The model for which the job was planned.
    job
        What is read and written, and how.
    progress
        Called with (frames done, frames in all; 0 where the file does not say).

    Raises
    ------
    InputError
        The video cannot be decoded to its end, its frames change, or the result cannot be written.
    KeygraphError
        The model failed.
    """
    began = time.perf_counter()
    folder = Job(job.target, job.described)
    try:
        done = len(folder.finished()) * job.segment
        restore = FrameRestorer(restorer, job.options, job.video.coding, job.encoding.coding, done)
        frames, lines = _restore_segments(folder, job, restore, progress)
        if folder.damaged:
            lines.append("what an earlier run had kept was damaged in part, and is made anew")
        path = folder.result
        write(path, job.target, job.video, job.encoding, job.copies.copied, folder.finished())
        lines += check_result(path, job.target, job.video, folder.finished())
        folder.publish(job.target)
    finally:
        folder.close()
    return VideoReport(
        source=str(job.video.path),
        target=str(job.target),
        height=job.encoding.height,
        width=job.encoding.width,
        frames=frames,
        resumed=min(done, frames),
        codec=job.encoding.codec,
        pixel_format=job.encoding.pixel_format,
        seconds=round(time.perf_counter() - began, 3),
        engine=restorer.description,
        notices=(*job.notices, *job.copies.notices, *restore.notices, *lines),
    )


def _restore_segments(
    folder: Job, job: VideoJob, restore: FrameRestorer, progress: Callable[[int, int], None] | None
) -> tuple[int, list[str]]:
    """Restore and encode the segments that are not done; return the number of the video's frames, and notices."""
    with closing(SourceFrames(job.video)) as source:
        done = source.skip(restore.done)
        number = restore.done // job.segment
        with closing(restore(source)) as frames:
            # An encoder that gets no frame may abort the process: there is one only for a frame that has come.
            for first in frames:
                segment = _Segment(itertools.chain([first], itertools.islice(frames, job.segment - 1)), job.encoding)
                packets = segment.packets(partial(_report, progress, done, job.video.frames))
                folder.write(number, packets, segment.extradata)
                done += segment.frames
                number += 1
        return done, [_damage(source.damaged)] if source.damaged else []


def _damage(frames: list[int]) -> str:
    listed = ", ".join(map(str, frames[:_LISTED])) + (", ..." if len(frames) > _LISTED else "")
    return (
        f"the video is damaged in {counted(len(frames), 'frame')} ({listed}): what cannot be decoded there is guessed "
        "by the decoder"
    )


class _Segment:
    """Encodes some frames by themselves."""

    def __init__(self, frames: Iterator[Frame[Time]], encoding: Encoding) -> None:
        self._frames = frames
        self._encoding = encoding
        self._context = encoding.open()
        self.extradata = self._context.extradata or b""
        self.frames = 0

    def packets(self, report: Callable[[int], None]) -> Iterator[StoredPacket]:
        """Yield the packets; call `report` with the number of frames after each."""
        times: list[Time] = []

        def timed() -> Iterator[Frame[Time]]:
            for frame in self._frames:
                times.append(frame.tag)
                yield frame
                self.frames += 1
                report(self.frames)

        packets = 0
        for packet in encode(self._context, self._encoding, timed()):
            if packet.pts is None or not 0 <= packet.pts < len(times):
                raise KeygraphError(f"the encoder {self._encoding.codec} changed the time of a frame; choose another")
            packets += 1
            shown = times[packet.pts]
            yield StoredPacket(shown.start, shown.duration, packet.is_keyframe, bytes(packet))
        if packets != self.frames:
            raise KeygraphError(
                f"the encoder {self._encoding.codec} made {packets} packets of {self.frames} frames; choose another"
            )


def _report(progress: Callable[[int, int], None] | None, before: int, total: int, done: int) -> None:
    if progress is not None:
        progress(before + done, max(total, before + done) if total else 0)


def _described(
    restorer: Restorer, model: Path, video: Video, options: RestoreOptions, encoding: Encoding, segment: int
) -> dict[str, str]:
    """Return what decides the result of a job; the keys are words for the user."""
    chosen = {key: value for key, value in asdict(options).items() if key != "scratch"}
    return {
        "the input": content_digest(video.path),
        "the model": content_digest(model),
        "what runs it": restorer.description,
        "the options of restoring": repr(chosen),
        "the options of encoding": repr(encoding),
        "the assumed colours": repr(video.coding),
        "--segment": str(segment),
        "the version": f"keygraph {version()}, PyAV {require_av().__version__}",
    }
