"""Decode the frames of a video file, with their times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import InputError
from .frames import Frame
from .probe import Time, Video, decoded, open_input, read_planes, video_stream

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class SourceFrames:
    """The frames of a video, decoded when they are asked for.

    Parameters
    ----------
    video
        What `probe` returned.

    Attributes
    ----------
    damaged
        The numbers of the frames, from 1, of which a part could not be decoded: the decoder has guessed it.
    """

    def __init__(self, video: Video) -> None:
        self._video = video
        self._container = open_input(video.path)
        stream = video_stream(self._container)
        if stream is None:
            raise InputError(f"{video.path} has lost its video since it was opened; begin again")
        self._frames = decoded(self._container, stream, video.path)
        self._last: int | None = None
        self._number = 0
        self.damaged: list[int] = []

    def close(self) -> None:
        """Close the file."""
        self._frames.close()
        self._container.close()

    def skip(self, count: int) -> int:
        """Decode frames and drop them; return how many there were.

        Seeking would be quicker, but not every container and codec leads to the exact frame.
        """
        for done in range(count):
            frame = next(self._frames, None)
            if frame is None:
                return done
            self._time(frame)
        return count

    def __iter__(self) -> Iterator[Frame[Time]]:
        for frame in self._frames:
            time = self._time(frame)
            yield Frame(read_planes(frame, self._video), time)

    def _time(self, frame: VideoFrame) -> Time:
        """Return when a frame is shown.

        Raises
        ------
        InputError
            The file does not say, or no later than the frame before.
        """
        self._number += 1
        if frame.is_corrupt:
            self.damaged.append(self._number)
        start = frame.pts if frame.pts is not None else frame.dts
        if start is None or (self._last is not None and start <= self._last):
            what = "has no time" if start is None else "is not shown later than the one before"
            raise InputError(
                f"{self._video.path}: frame {self._number} {what}; write the times anew first: ffmpeg -fflags +genpts "
                f"-i {self._video.path.name} -c copy OUT.mkv"
            )
        self._last = start
        return Time(start, frame.duration or 0)
