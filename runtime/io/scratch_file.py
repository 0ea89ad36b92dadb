"""Scratch files: images and feature maps on disk, read and written region by region."""

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
from ...files import unwritable

#: Rows that are read at a time to find the extrema.
_STRIP_ROWS = 64


class ScratchFile:
    """An array [H, W, C] in a file: an unnamed one, which the system removes when the process ends, or one that stays.

    Samples are stored row by row, pixel by pixel, channels together. The file is read and written by position instead
    of being mapped, so that the process only needs memory for the regions in use; the system caches the rest in free
    memory.

    Parameters
    ----------
    folder
        Folder for the file.
    height, width, channels, dtype
        Shape and type of the array.
    name
        Name of the file, which is opened if it exists and stays; None for an unnamed file.

    Raises
    ------
    InputError
        The folder does not exist or is not writable.
    """

    def __init__(
        self, folder: Path, height: int, width: int, channels: int, dtype: np.dtype[Any], name: str | None = None
    ) -> None:
        self.shape, self.dtype = (height, width, channels), np.dtype(dtype)
        self._pixel_bytes = channels * self.dtype.itemsize
        self._folder, self._named = folder, None if name is None else folder / name
        try:
            if self._named is None:
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as this is
            else:
                # Neither emptied nor appended to.
                self._file = os.fdopen(os.open(self._named, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", 0)
        except OSError as error:
            if self._named is not None:
                raise unwritable(self._named, error) from error
            raise InputError(
                f"cannot keep features in {folder} ({error.strerror}); name another folder with --scratch"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the file again where this is unpickled, which needs a name that is reached there."""
        if self._named is None:
            raise TypeError("a scratch file without a name is of its own process")
        return ScratchFile, (self._folder.absolute(), *self.shape, self.dtype, self._named.name)

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Return a copy of a rectangle; see `RegionReader.read`.

        Parameters
        ----------
        top, left, height, width
            The rectangle in pixels.

        Raises
        ------
        EOFError
            Nothing was written there.
        """
        values = np.empty((height, width, self.shape[2]), self.dtype)
        # Rows of full width are contiguous in the file.
        pieces = values.reshape(1, -1) if width == self.shape[1] else values.reshape(height, -1)
        for row, piece in enumerate(pieces):
            view, offset = memoryview(cast(Any, piece)).cast("B"), self._offset(top + row, left)
            while view:
                count = os.preadv(self._file.fileno(), [view], offset)
                if count == 0:
                    raise EOFError(f"nothing was written at row {top + row}, column {left} of a scratch file")
                view, offset = view[count:], offset + count
        return values

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """Write a rectangle; see `RegionWriter.write`.

        Parameters
        ----------
        top, left
            Where it goes, in pixels.
        values
            [height, width, C]

        Raises
        ------
        InputError
            The disk is full.
        """
        height, width = values.shape[:2]
        whole = width == self.shape[1]
        try:
            for row in range(1 if whole else height):
                piece = np.ascontiguousarray(values if whole else values[row], self.dtype).reshape(-1)
                view, offset = memoryview(cast(Any, piece)).cast("B"), self._offset(top + row, left)
                while view:
                    count = os.pwrite(self._file.fileno(), view, offset)
                    view, offset = view[count:], offset + count
        except OSError as error:
            if self._named is not None:
                raise unwritable(self._named, error) from error
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise InputError(
                f"the disk of {self._folder} is full ({error.strerror}); make room there, or name a folder on another "
                "with --scratch"
            ) from error

    def _offset(self, row: int, column: int) -> int:
        return (row * self.shape[1] + column) * self._pixel_bytes

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[Any]:
        """Return a copy of a rectangle, given as two slices without steps."""
        (top, bottom, _), (left, right, _) = (s.indices(n) for s, n in zip(part, self.shape, strict=False))
        return self.read(top, left, max(0, bottom - top), max(0, right - left))

    def min(self) -> Any:
        """Return the smallest sample; NaN if there is one."""
        return np.min([strip.min() for strip in self._strips()])

    def max(self) -> Any:
        """Return the largest sample; NaN if there is one."""
        return np.max([strip.max() for strip in self._strips()])

    def _strips(self) -> Iterator[NDArray[Any]]:
        for top in range(0, self.shape[0], _STRIP_ROWS):
            yield self.read(top, 0, min(_STRIP_ROWS, self.shape[0] - top), self.shape[1])

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file, which deletes an unnamed one."""
        self._file.close()
