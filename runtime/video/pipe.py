"""Restore a stream of frames into another: from a pipe into a pipe, with nothing on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from typing import BinaryIO

from ..restore_options import RestoreOptions
from ..restorer import Restorer
from .colour import assumed_matrix
from .frames import Frame, FrameRestorer, frame_size
from .raw_frames import RawFormat
from .y4m import read_header


def restore_stream(
    restorer: Restorer,
    source: BinaryIO,
    target: BinaryIO,
    options: RestoreOptions,
    *,
    matrix: str | None = None,
    raw: RawFormat | None = None,
    notice: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Restore a stream of frames, and return their number. The result is a stream of the same kind.

    Parameters
    ----------
    restorer
        The model.
    source, target
        The streams. All parameters of a header stay as they are, but for the size.
    options
        How frames are restored.
    matrix
        The colour matrix (`colour.MATRICES`), which neither kind can say; None to assume it by the size.
    raw
        What frames without headers hold; None for YUV4MPEG2.
    notice
        Called with what was assumed, and with what the restorations said.
    progress
        Called with (frames done, 0).

    Raises
    ------
    InputError
        The stream is damaged or of another format, or the model or an option does not fit.
    BrokenPipeError
        Nobody reads the target any more.
    """
    header = raw or read_header(source)
    coding = header.coding
    if coding.format.model == "yuv":
        coding = dataclasses.replace(coding, matrix=matrix or assumed_matrix(header.height, header.width))
    channels = 1 if coding.format.model == "gray" else 3
    height, width = frame_size(restorer, header.height, header.width, channels, options)
    result = header.resized(height, width)
    assumed = []
    if coding.format.model == "yuv" and matrix is None:
        assumed.append(f"the colour matrix is taken as {coding.matrix} (--matrix)")
    if not header.ranged:
        assumed.append("the range as limited")
    if assumed:
        notice(f"{header.kind} does not say it: {', '.join(assumed)}")
    if raw is not None and result != raw:
        notice(f"the result is raw frames too, of {width}x{height}:{raw.name}")
    restore = FrameRestorer(restorer, options, coding, coding)
    frames = restore(Frame(planes, None) for planes in header.read_frames(source))
    target.write(result.encode())
    number = 0
    with closing(frames):
        for number, frame in enumerate(frames, 1):
            result.write_frame(target, frame.planes)
            if progress is not None:
                progress(number, 0)
    target.flush()
    for line in restore.notices:
        notice(line)
    return number
