"""Exact tiled inference of what a user gives: normalised and padded tile by tile, and joined."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....manifest import Manifest
from ...errors import require_finite
from ...io.regions import RegionWriter
from ...io.scratch_file import ScratchFile
from ...preprocess.normalization import from_model
from ...preprocess.padding import round_up
from ...preprocess.request import Request, TileReader
from ..blend import Axis, Plan
from ..progress import Progress
from .executor import tiles
from .model import ExactModel

#: Rows that are joined at a time where an image's channels were restored apart.
_STRIP = 64


@dataclass(frozen=True)
class Grid:
    """The tiles of the last sweep.

    Attributes
    ----------
    plan
        What each of them adds to the result. They meet without a halo; where the unit does not allow equal tiles, the
        smaller ones are given as large as the largest, and so overlap in the plan.
    tile
        Height and width of the largest with its halo.
    overlap
        Pixels that two neighbours with their halos have in common, 0 for a single tile.
    """

    plan: Plan
    tile: tuple[int, int]
    overlap: int


def restore_exactly(
    exact: ExactModel,
    manifest: Manifest,
    given: Request,
    sink: RegionWriter,
    tile: int,
    folder: Path,
    progress: Progress | None = None,
) -> Grid:
    """Restore a scene.

    Parameters
    ----------
    exact, manifest
        The model.
    given
        What is restored.
    sink
        Takes the result, [h, w, C] of the scene's type.
    tile
        Side of the tiles with what they overlap by.
    folder
        For features.
    progress
        Called with (tiles done, tiles in all), over all sweeps.

    Returns
    -------
    The tiles of the last sweep.

    Raises
    ------
    InputError
        The tile is too small, or the disk too full.
    NotFiniteError
        The network gave NaN or infinity.
    """
    multiple, scale, planes = manifest.size_multiple, manifest.scale, given.channels.planes
    size = round_up(given.height, multiple), round_up(given.width, multiple)
    windows = TileReader(given, *size)
    shape = given.height * scale, given.width * scale

    def reported(plane: int) -> Progress | None:
        return None if progress is None else lambda done, total: progress(done + plane * total, total * planes)

    if planes == 1:
        joined = _Joined(manifest, given, sink, shape)
        exact.restore(_Plane(windows, 0), joined, size, tile=tile, folder=folder, progress=reported(0))
    else:
        # Each channel is an image of its own, with its own statistics.
        with contextlib.ExitStack() as files:
            restored = []
            for plane in range(planes):
                file = ScratchFile(folder, *shape, manifest.out_channels, np.dtype(np.float32))
                files.callback(file.close)
                restored.append(file)
                exact.restore(
                    _Plane(windows, plane),
                    _Cut(file, shape),
                    size,
                    tile=tile,
                    folder=folder,
                    progress=reported(plane),
                )
            joined = _Joined(manifest, given, sink, shape)
            for top in range(0, shape[0], _STRIP):
                rows = min(_STRIP, shape[0] - top)
                joined.write_planes(top, 0, np.stack([file.read(top, 0, rows, shape[1]) for file in restored]))
    return _grid(exact, size, tile)


class _Plane:
    """One plane of the image, as the network takes it."""

    def __init__(self, windows: TileReader, plane: int) -> None:
        self._windows, self._plane = windows, plane

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """See `RegionReader.read`."""
        images, *_ = self._windows(top, left, height, width)
        return np.moveaxis(images[self._plane], 0, 2)


class _Cut:
    """Leaves out what an image was padded by."""

    def __init__(self, sink: RegionWriter, shape: tuple[int, int]) -> None:
        self._sink, self._shape = sink, shape

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """See `RegionWriter.write`."""
        values = values[: max(0, self._shape[0] - top), : max(0, self._shape[1] - left)]
        if values.size:
            self._sink.write(top, left, values)


class _Joined:
    """Makes samples of what the network gives, and leaves out what the image was padded by."""

    def __init__(self, manifest: Manifest, given: Request, sink: RegionWriter, shape: tuple[int, int]) -> None:
        self._manifest, self._given, self._sink = manifest, given, _Cut(sink, shape)

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """See `RegionWriter.write`."""
        self.write_planes(top, left, values[None])

    def write_planes(self, top: int, left: int, values: NDArray[Any]) -> None:
        """Put [planes, height, width, C] at a place."""
        joined = self._given.channels.join(np.moveaxis(values.astype(np.float32, copy=False), 3, 1))
        require_finite(joined, f"in the tile at row {top}, column {left}")
        self._sink.write(top, left, from_model(np.moveaxis(joined, 0, 2), self._manifest, self._given.dtype))


def _grid(exact: ExactModel, size: tuple[int, int], tile: int) -> Grid:
    sweep = exact.plan.sweeps[-1]
    cut = tiles(sweep, *size, tile, exact.plan.stretch(sweep))
    rows = sorted({(one.top, one.bottom, one.outer[0], one.outer[2]) for one in cut})
    columns = sorted({(one.left, one.right, one.outer[1], one.outer[3]) for one in cut})
    return Grid(
        Plan(_axis(rows, size[0]), _axis(columns, size[1])),
        (max(below - above for _, _, above, below in rows), max(end - start for _, _, start, end in columns)),
        min((*_overlaps(rows), *_overlaps(columns)), default=0),
    )


def _axis(steps: list[tuple[int, int, int, int]], length: int) -> Axis:
    """Tiles of one size, as `Axis` wants them, each with one step in it."""
    tile = max(beyond - first for first, beyond, *_ in steps)
    return Axis(length, tile, tuple(min(first, length - tile) for first, *_ in steps))


def _overlaps(steps: list[tuple[int, int, int, int]]) -> Iterator[int]:
    """What every step with its halo has in common with the next."""
    for (*_, end), (_, _, start, _) in itertools.pairwise(steps):
        yield end - start
