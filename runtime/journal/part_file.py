"""Part files: restored tiles that another process has written into the folder of a job, some of them one after another.

Each process writes files of its own: on a shared file system, two machines cannot safely write into one.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...files import atomic_path


@dataclass(frozen=True)
class Part:
    """What is known about a part file.

    Attributes
    ----------
    first
        Place of its first tile in `Plan.tiles`.
    shape
        Shape of a tile: channels, height and width.
    checksums
        CRC-32 of each tile.
    """

    first: int
    shape: tuple[int, int, int]
    checksums: tuple[int, ...]

    @property
    def end(self) -> int:
        """Place of the first tile after it."""
        return self.first + len(self.checksums)


def part_path(folder: Path, first: int) -> Path:
    """Return the file of the part that begins with the tile `first`."""
    return folder / f"part-{first}"


def write_part(folder: Path, first: int, tiles: Iterable[NDArray[np.float32]]) -> Part:
    """Write a part file, whole or not at all, and return when it is on the disk.

    Parameters
    ----------
    folder
        Folder of the job.
    first
        Place of the first tile in `Plan.tiles`.
    tiles
        float32[C, h, w], at least one.

    Raises
    ------
    InputError
        It cannot be written.
    """
    checksums, shape = [], (0, 0, 0)
    with atomic_path(part_path(folder, first)) as temporary, temporary.open("wb") as file:
        for tile in tiles:
            values = memoryview(cast(Any, np.ascontiguousarray(tile))).cast("B")
            checksums.append(zlib.crc32(values))
            shape = cast("tuple[int, int, int]", tile.shape)
            file.write(values)
        file.flush()
        os.fsync(file.fileno())
    return Part(first, shape, tuple(checksums))


def read_tile(folder: Path, part: Part, tile: int) -> NDArray[np.float32] | None:
    """Return a tile; None where the file is missing or damaged.

    Parameters
    ----------
    folder
        Folder of the job.
    part
        The part with the tile.
    tile
        Its place in `Plan.tiles`.
    """
    values = np.empty(part.shape, np.float32)
    view = memoryview(cast(Any, values)).cast("B")
    try:
        with part_path(folder, part.first).open("rb", buffering=0) as file:
            file.seek((tile - part.first) * values.nbytes)
            found = file.readinto(view)
    except OSError:
        return None
    return values if found == values.nbytes and zlib.crc32(view) == part.checksums[tile - part.first] else None
