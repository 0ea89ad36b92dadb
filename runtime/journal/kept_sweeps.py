"""What the sweeps of exact tiles have found, kept in the folder of a job: statistics and feature maps."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.scratch_file import ScratchFile

#: Bytes of a map that are read at a time for its checksum.
_CHUNK = 1 << 22


class KeptSweeps:
    """The sweeps of one job that are complete. Implements `tiling.checkpoint.SweepCheckpoint`.

    A record follows each sweep, when its maps are on the disk. It has the statistics that the sweep found, and a
    checksum for every map that later sweeps read; the files of all others have been removed by then, or are without
    meaning.

    Parameters
    ----------
    folder
        Folder of the job.
    append
        Appends a record to the job's journal, and returns when it is on the disk.
    """

    def __init__(self, folder: Path, append: Callable[[list[Any]], None]) -> None:
        self._folder, self._append = folder, append
        self._planes: dict[int, KeptPlane] = {}

    @property
    def done(self) -> int:
        """Number of complete sweeps, over all planes."""
        return sum(plane.done for plane in self._planes.values())

    def plane(self, number: int) -> KeptPlane:
        """Return what is kept of one plane of the image, which is restored by itself."""
        return self._planes.setdefault(number, KeptPlane(self._folder, number, self._append))

    def replay(self, values: list[Any]) -> None:
        """Take over a record of an earlier run."""
        number, sweep, statistics, maps = values
        self.plane(number).take(sweep, statistics, maps)

    def forget(self) -> None:
        """Forget what was done: it was with other tiles."""
        self._planes.clear()

    def forget_damaged(self) -> bool:
        """Forget the sweeps of planes whose maps are not as they were written; return whether there are any."""
        damaged = [number for number, plane in self._planes.items() if not plane.is_intact()]
        for number in damaged:
            del self._planes[number]
        return bool(damaged)


class KeptPlane:
    """The complete sweeps of one plane. Implements `tiling.checkpoint.PlaneCheckpoint`."""

    def __init__(self, folder: Path, number: int, append: Callable[[list[Any]], None]) -> None:
        self.folder = folder
        self._number, self._append = number, append
        self._statistics: list[Mapping[str, NDArray[Any]]] = []  # Of each sweep.
        self._maps: dict[str, int] = {}  # File's name -> checksum.

    @property
    def done(self) -> int:
        """See `PlaneCheckpoint.done`."""
        return len(self._statistics)

    @property
    def statistics(self) -> dict[str, NDArray[Any]]:
        """See `PlaneCheckpoint.statistics`."""
        return {name: value for found in self._statistics for name, value in found.items()}

    def map(self, name: str, height: int, width: int, channels: int, dtype: np.dtype[Any]) -> ScratchFile:
        """See `PlaneCheckpoint.map`."""
        return ScratchFile(self.folder, height, width, channels, dtype, name=self._file(name))

    def commit(self, statistics: Mapping[str, NDArray[Any]], maps: Mapping[str, ScratchFile]) -> None:
        """See `PlaneCheckpoint.commit`."""
        checksums = {}
        for name, file in maps.items():
            known = self._maps.get(self._file(name))
            if known is None:
                os.fdatasync(file.fileno())
                known = _checksum(self.folder / self._file(name))
            checksums[self._file(name)] = known
        self._append([self._number, self.done, {name: _text(value) for name, value in statistics.items()}, checksums])
        gone = self._maps.keys() - checksums.keys()
        self._statistics.append(statistics)
        self._maps = checksums
        for file_name in gone:
            (self.folder / file_name).unlink(missing_ok=True)

    def take(self, sweep: int, statistics: Mapping[str, Any], maps: Mapping[str, int]) -> None:
        """Take over the record of a sweep, which replaces those of it and of later ones: they were damaged.

        Parameters
        ----------
        sweep
            Number of the sweep, from 0.
        statistics, maps
            As recorded by `commit`.
        """
        self._statistics[sweep:] = [{name: _array(*value) for name, value in statistics.items()}]
        self._maps = dict(maps)

    def is_intact(self) -> bool:
        """Return whether the maps are as they were written."""
        try:
            return all(_checksum(self.folder / name) == checksum for name, checksum in self._maps.items())
        except OSError:
            return False

    def _file(self, name: str) -> str:
        """Return a map's file; names of values in a network are no names of files."""
        return f"map-{self._number}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def _text(value: NDArray[Any]) -> list[Any]:
    """Return an array as JSON has it, every bit."""
    return [value.dtype.str, list(value.shape), base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()]


def _array(dtype: str, shape: list[int], text: str) -> NDArray[Any]:
    values: NDArray[Any] = np.frombuffer(base64.b64decode(text), dtype).reshape(shape)
    return values
