"""Maps of features, or of an image, kept outside of memory and read and written in rectangles."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError

#: Rows of a strip.
_STRIP = 64


class FeatureFile:
    """A map in a file without a name: the system removes it when the process ends, however it ends.

    Rows one after the other, pixels in a row one after the other, the channels of a pixel together: a rectangle is as
    many pieces as it has rows. Read and written by position, not mapped, so that the process's memory stays what the
    rectangles take; the system keeps as much of the file in memory as is free.

    Parameters
    ----------
    folder
        Where the file lies; plain disks do.
    height, width, channels, dtype
        Of the map.

    Raises
    ------
    InputError
        The folder is missing or cannot be written.
    """

    def __init__(self, folder: Path, height: int, width: int, channels: int, dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = (height, width, channels), np.dtype(dtype)
        self._pixel = channels * self.dtype.itemsize
        self._folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as this is
        except OSError as error:
            raise InputError(
                f"cannot keep features in {folder} ({error.strerror}); name another folder with --scratch"
            ) from error

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Return a copy of a rectangle, [height, width, C]."""
        values = np.empty((height, width, self.shape[2]), self.dtype)
        pieces = values.reshape(1, -1) if width == self.shape[1] else values.reshape(height, -1)
        for row, piece in enumerate(pieces):
            view, place = memoryview(cast(Any, piece)).cast("B"), ((top + row) * self.shape[1] + left) * self._pixel
            while view:
                count = os.preadv(self._file.fileno(), [view], place)
                if count == 0:
                    raise EOFError(f"nothing was written at row {top + row}, column {left} of a feature file")
                view, place = view[count:], place + count
        return values

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """Put [height, width, C] at a place.

        Raises
        ------
        InputError
            The disk is full.
        """
        height, width = values.shape[:2]
        whole = width == self.shape[1]
        try:
            for row in range(1 if whole else height):
                piece = np.ascontiguousarray(values if whole else values[row], self.dtype)
                view, place = (
                    memoryview(cast(Any, piece.reshape(-1))).cast("B"),
                    ((top + row) * self.shape[1] + left) * self._pixel,
                )
                while view:
                    count = os.pwrite(self._file.fileno(), view, place)
                    view, place = view[count:], place + count
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise InputError(
                f"the disk of {self._folder} is full ({error.strerror}); make room there, or name a folder on another "
                "with --scratch"
            ) from error

    @property
    def ndim(self) -> int:
        """3, as of an array."""
        return 3

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[Any]:
        """Return a copy of a rectangle, as of an array; slices without steps."""
        (top, bottom, _), (left, right, _) = (s.indices(n) for s, n in zip(part, self.shape, strict=False))
        return self.read(top, left, max(0, bottom - top), max(0, right - left))

    def min(self) -> Any:
        """Of all samples; NaN if there is one."""
        return np.min([strip.min() for strip in self._strips()])

    def max(self) -> Any:
        """Of all samples; NaN if there is one."""
        return np.max([strip.max() for strip in self._strips()])

    def _strips(self) -> Iterator[NDArray[Any]]:
        for top in range(0, self.shape[0], _STRIP):
            yield self.read(top, 0, min(_STRIP, self.shape[0] - top), self.shape[1])

    def fileno(self) -> int:
        """The file's descriptor."""
        return self._file.fileno()

    def close(self) -> None:
        """Give the space back."""
        self._file.close()
