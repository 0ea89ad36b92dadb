"""Exact tiled inference of a request: tiles are normalised and padded as they are read, and joined."""

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
from ...preprocess.normalization import from_model
from ...preprocess.padding import round_up
from ...preprocess.request import Request, TileReader
from ..blend import Axis, Plan
from ..checkpoint import SweepCheckpoint
from ..progress import Progress
from .executor import new_map, tiles
from .model import ExactModel

#: Rows that are joined at a time where an image's channels were restored separately.
_STRIP_ROWS = 64

#: Name of a restored plane among the feature maps that are kept.
_RESTORED = "restored plane"


@dataclass(frozen=True)
class TileGrid:
    """The tiles of the last sweep.

    Attributes
    ----------
    plan
        The tiles without halos. Where the unit does not allow equal tiles, all are listed with the size of the
        largest, and therefore overlap in the plan.
    tile
        Height and width of the largest tile, with its halo.
    overlap
        Pixels shared by two neighbours with their halos; 0 for a single tile.
    """

    plan: Plan
    tile: tuple[int, int]
    overlap: int


def restore_exactly(
    exact: ExactModel,
    manifest: Manifest,
    request: Request,
    writer: RegionWriter,
    tile: int,
    folder: Path,
    progress: Progress | None = None,
    sweeps: SweepCheckpoint | None = None,
) -> TileGrid:
    """Restore a request.

    Parameters
    ----------
    exact, manifest
        The model.
    request
        The image.
    writer
        Takes the result, [h, w, C] of the request's type.
    tile
        Side of the tiles in pixels, with their halos.
    folder
        Folder for the feature maps.
    progress
        Called with (tiles done, tiles in all), over all sweeps.
    sweeps
        Keeps the work done, and has that of an earlier run, which is not done again. None keeps nothing.

    Returns
    -------
    TileGrid
        The tiles of the last sweep.

    Raises
    ------
    InputError
        The tile is too small, or the disk is full.
    NotFiniteError
        The network gave NaN or infinity.
    """
    multiple, scale, planes = manifest.size_multiple, manifest.scale, request.channels.planes
    least = manifest.least_side
    size = max(round_up(request.height, multiple), least), max(round_up(request.width, multiple), least)
    reader = TileReader(request, *size)
    shape = request.height * scale, request.width * scale

    def reported(plane: int) -> Progress | None:
        return None if progress is None else lambda done, total: progress(done + plane * total, total * planes)

    if planes == 1:
        joined = _ResultWriter(manifest, request, writer, shape)
        kept = None if sweeps is None else sweeps.plane(0)
        exact.restore(_PlaneReader(reader, 0), joined, size, tile=tile, folder=folder, progress=reported(0), kept=kept)
    else:
        # Each channel is an image of its own, with its own statistics.
        with contextlib.ExitStack() as files:
            restored = []
            for plane in range(planes):
                kept = None if sweeps is None else sweeps.plane(plane)
                file = new_map(kept, folder, _RESTORED, *shape, manifest.out_channels, np.dtype(np.float32))
                files.callback(file.close)
                restored.append(file)
                if kept is not None and kept.done == len(exact.plan.sweeps):
                    continue
                exact.restore(
                    _PlaneReader(reader, plane),
                    _CroppingWriter(file, shape),
                    size,
                    tile=tile,
                    folder=folder,
                    progress=reported(plane),
                    kept=kept,
                )
                if kept is not None:
                    kept.commit({}, {_RESTORED: file})
            joined = _ResultWriter(manifest, request, writer, shape)
            for top in range(0, shape[0], _STRIP_ROWS):
                rows = min(_STRIP_ROWS, shape[0] - top)
                joined.write_planes(top, 0, np.stack([file.read(top, 0, rows, shape[1]) for file in restored]))
    return _grid(exact, size, tile)


class _PlaneReader:
    """Reads one plane of the image, normalised and padded."""

    def __init__(self, reader: TileReader, plane: int) -> None:
        self._reader, self._plane = reader, plane

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """See `RegionReader.read`."""
        images, *_ = self._reader(top, left, height, width)
        return np.moveaxis(images[self._plane], 0, 2)


class _CroppingWriter:
    """Crops the padding of the image."""

    def __init__(self, writer: RegionWriter, shape: tuple[int, int]) -> None:
        self._writer, self._shape = writer, shape

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """See `RegionWriter.write`."""
        values = values[: max(0, self._shape[0] - top), : max(0, self._shape[1] - left)]
        if values.size:
            self._writer.write(top, left, values)


class _ResultWriter:
    """Converts the network's results to samples, and crops the padding of the image."""

    def __init__(self, manifest: Manifest, request: Request, writer: RegionWriter, shape: tuple[int, int]) -> None:
        self._manifest, self._request, self._writer = manifest, request, _CroppingWriter(writer, shape)

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """See `RegionWriter.write`."""
        self.write_planes(top, left, values[None])

    def write_planes(self, top: int, left: int, values: NDArray[Any]) -> None:
        """Write the planes of a rectangle, [planes, height, width, C]."""
        joined = self._request.channels.join(np.moveaxis(values.astype(np.float32, copy=False), 3, 1))
        require_finite(joined, f"in the tile at row {top}, column {left}")
        self._writer.write(top, left, from_model(np.moveaxis(joined, 0, 2), self._manifest, self._request.dtype))


def _grid(exact: ExactModel, size: tuple[int, int], tile: int) -> TileGrid:
    sweep = exact.plan.sweeps[-1]
    cut = tiles(sweep, *size, tile, exact.plan.stretch(sweep))
    rows = sorted({(one.top, one.bottom, one.outer[0], one.outer[2]) for one in cut})
    columns = sorted({(one.left, one.right, one.outer[1], one.outer[3]) for one in cut})
    return TileGrid(
        Plan(_axis(rows, size[0]), _axis(columns, size[1])),
        (max(below - above for _, _, above, below in rows), max(end - start for _, _, start, end in columns)),
        min((*_overlaps(rows), *_overlaps(columns)), default=0),
    )


def _axis(steps: list[tuple[int, int, int, int]], length: int) -> Axis:
    """Return tiles of one size, each of which contains one step."""
    tile = max(beyond - first for first, beyond, *_ in steps)
    return Axis(length, tile, tuple(min(first, length - tile) for first, *_ in steps))


def _overlaps(steps: list[tuple[int, int, int, int]]) -> Iterator[int]:
    """Yield how many pixels each step shares with the next one, with their halos."""
    for (*_, end), (_, _, start, _) in itertools.pairwise(steps):
        yield end - start
