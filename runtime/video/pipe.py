"""Restore a YUV4MPEG2 stream into another: from a pipe into a pipe, with nothing on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import closing
from typing import BinaryIO

from ..restore_options import RestoreOptions
from ..restorer import Restorer
from .colour import assumed_matrix
from .frames import Frame, FrameRestorer, frame_size
from .y4m import read_frames, read_header, write_frame


def restore_stream(
    restorer: Restorer,
    source: BinaryIO,
    target: BinaryIO,
    options: RestoreOptions,
    *,
    matrix: str | None = None,
    notice: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Restore a YUV4MPEG2 stream, and return the number of frames.

    Parameters
    ----------
    restorer
        The model.
    source, target
        The streams. All parameters stay as they are, but for the size.
    options
        How frames are restored.
    matrix
        The colour matrix (`colour.MATRICES`), which the format cannot say; None to assume it by the size.
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
    header = read_header(source)
    coding = header.coding
    if coding.format.model == "yuv":
        coding = dataclasses.replace(coding, matrix=matrix or assumed_matrix(header.height, header.width))
    channels = 1 if coding.format.model == "gray" else 3
    height, width = frame_size(restorer, header.height, header.width, channels, options)
    assumed = [] if matrix or channels == 1 else [f"the colour matrix is taken as {coding.matrix} (--matrix)"]
    if not header.ranged:
        assumed.append("the range as limited")
    if assumed:
        notice(f"YUV4MPEG2 does not say it: {', '.join(assumed)}")
    restore = FrameRestorer(restorer, options, coding, coding)
    frames = restore(Frame(planes, None) for planes in read_frames(source, header))
    target.write(header.resized(height, width).encode())
    number = 0
    with closing(frames):
        for number, frame in enumerate(frames, 1):
            write_frame(target, frame.planes)
            if progress is not None:
                progress(number, 0)
    target.flush()
    for line in restore.notices:
        notice(line)
    return number
