"""Check a video that was written, before it gets its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import KeygraphError
from .probe import Video, display_matrix, open_input, video_stream
from .segments import read_segment


def check_result(path: Path, out: Path, video: Video, segments: Sequence[Path]) -> list[str]:
    """Check that a written file has all frames at their times; return what else it does not keep, for the user.

    Parameters
    ----------
    path
        The file.
    out
        The name that it will have.
    video
        What was read.
    segments
        The segments that were written.

    Raises
    ------
    KeygraphError
        A frame is missing, or its time is not what it should be.
    """
    expected = sorted(packet.start * video.time_base for one in segments for packet in read_segment(one))
    with open_input(path) as result:
        stream = video_stream(result)
        if stream is None or stream.time_base is None:
            raise KeygraphError(f"{out} would be without its video; choose another container")
        unit, index = stream.time_base, stream.index
        aspect = stream.sample_aspect_ratio or None
        frame = next(result.decode(stream), None)
        turned = None if frame is None else display_matrix(frame)
    with open_input(path) as result:
        packets = result.demux(result.streams[index])
        found = sorted(packet.pts * unit for packet in packets if packet.pts is not None)
    if len(found) != len(expected):
        raise KeygraphError(f"{out} would hold {len(found)} of {len(expected)} frames; choose another container")
    moved = [new - old for new, old in zip(found, expected, strict=True)]
    if max(moved) - min(moved) > 2 * unit:
        raise KeygraphError(f"{out} would not keep the times of frames; choose another container")
    notices = []
    if max(moved) != min(moved):
        notices.append(
            f"times are rounded: {out.suffix} files count in units of {unit} s, the input in {video.time_base} s"
        )
    if abs(moved[0]) >= unit:
        direction = "later" if moved[0] > 0 else "earlier"
        notices.append(f"all streams begin {abs(float(moved[0])):.3f} s {direction}: {out.suffix} files begin at 0")
    if video.aspect not in (None, 1, aspect):
        notices.append(
            f"pixels of {video.aspect} are not kept: libav writes no aspect ratio for this codec in {out.suffix}"
        )
    if video.display_matrix is not None and turned is None:
        notices.append(f"how players turn the frames is not kept: {out.suffix} files cannot say it")
    return notices
