"""Run a network in sweeps over the tiles of an image of any size."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError, KeygraphError
from ...errors import require_finite
from ...io.regions import RegionReader, RegionWriter
from ...io.scratch_file import ScratchFile
from ..checkpoint import PlaneCheckpoint
from ..progress import Progress
from .locality import Statistic
from .sweep_graph import Crop, SweepModel, image_sizes_model, part, stored, sweep_model
from .sweep_plan import Feature, Sweep, SweepPlan
from .tile_graph import COLUMNS, ROWS

#: Computes the named outputs from named inputs.
Run = Callable[[Sequence[str], Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]]

#: Opens a model on the caller's device. Dropping the result must release its memory.
Open = Callable[[bytes], Run]


@dataclass(frozen=True)
class Tile:
    """A tile, in pixels of the image.

    Attributes
    ----------
    top, left, bottom, right
        The core, which the tile contributes. The cores of a sweep's tiles cover the image once.
    outer
        The same four with the halo, clipped to the image.
    """

    top: int
    left: int
    bottom: int
    right: int
    outer: tuple[int, int, int, int]


def tiles(sweep: Sweep, height: int, width: int, side: int, stretch: float = 1.0) -> list[Tile]:
    """Return the tiles of a sweep.

    Parameters
    ----------
    sweep
        Gives unit and halo.
    height, width
        Size of the image in pixels, multiples of the model's `size_multiple`.
    side
        Largest side of a tile with its halo, in pixels of the image.
    stretch
        Factor by which the side may be longer; see `SweepPlan.stretch`.

    Raises
    ------
    InputError
        The tile is too small for its halo.
    """
    rows, columns = (_steps(sweep, length, side, stretch) for length in (height, width))
    return [
        Tile(top, left, bottom, right, (above, before, below, beyond))
        for top, bottom, above, below in rows
        for left, right, before, beyond in columns
    ]


def _steps(sweep: Sweep, length: int, side: int, stretch: float) -> list[tuple[int, int, int, int]]:
    """Return (start, end, outer start, outer end) of every tile along an axis."""
    reachable = int(side * stretch)
    if length <= reachable:
        return [(0, length, 0, length)]
    core = (reachable - 2 * sweep.halo) // sweep.unit * sweep.unit
    if core < sweep.unit:
        least = math.ceil((2 * sweep.halo + sweep.unit) / stretch)
        raise InputError(f"tile is {side}; the exact result of this model needs tiles of at least {least}")
    count = -(-length // core)
    # As equal as the unit allows.
    cells = length // sweep.unit
    edges = [index * cells // count * sweep.unit for index in range(count)] + [length]
    return [
        (first, beyond, max(0, first - sweep.halo), min(length, beyond + sweep.halo))
        for first, beyond in itertools.pairwise(edges)
    ]


def infer(
    plan: SweepPlan,
    open_model: Open,
    sources: Mapping[str, RegionReader],
    writer: RegionWriter,
    size: tuple[int, int],
    *,
    tile: int,
    folder: Path,
    progress: Progress | None = None,
    kept: PlaneCheckpoint | None = None,
) -> None:
    """Run a network.

    Parameters
    ----------
    plan
        The network's sweeps.
    open_model
        Opens the model of a sweep; one is open at a time.
    sources
        The input images by name, [H, W, C] of the network's type.
    writer
        Takes the restored image, [H * scale, W * scale, C'].
    size
        (H, W) in pixels, multiples of the model's `size_multiple`.
    tile
        Side of a tile in pixels; see `tiles`.
    folder
        Folder for the feature maps, unless they are kept.
    progress
        Called after each tile.
    kept
        Keeps the work of every sweep but the last, and has that of an earlier run, which is not done again. None keeps
        nothing.

    Raises
    ------
    InputError
        The tile is too small, or the disk is full.
    NotFiniteError
        The network gave NaN or infinity.
    """
    height, width = size
    begun = kept.done if kept is not None else 0
    if not begun:
        check_room(plan, size, kept.folder if kept is not None else folder)
    cuts = [tiles(sweep, height, width, tile, plan.stretch(sweep)) for sweep in plan.sweeps]
    done, total = sum(map(len, cuts[:begun])), sum(map(len, cuts))
    known = dict(kept.statistics) if kept is not None else {}
    sizes = _ImageSizes(plan, size, open_model)
    with contextlib.ExitStack() as files:

        def opened(wanted: Iterable[Feature]) -> dict[str, ScratchFile]:
            maps = {}
            for one in wanted:
                rows, columns = int(height * one.rows), int(width * one.columns)
                maps[one.name] = new_map(kept, folder, one.name, rows, columns, one.channels, one.dtype)
                files.callback(maps[one.name].close)
            return maps

        needed = _read_from(plan, begun)
        features = opened(one for sweep in plan.sweeps[:begun] for one in sweep.stores if one.name in needed)
        for index in range(begun, len(plan.sweeps)):
            sweep, cut = plan.sweeps[index], cuts[index]
            features |= (maps := opened(one for one in sweep.stores if one.name != plan.output.name))
            writers: dict[str, RegionWriter] = {one.name: maps.get(one.name, writer) for one in sweep.stores}
            model = sweep_model(plan.locality, sweep)
            sizes.find([*model.whole, *(value for crop in model.all_crops for value in crop.values)])
            feeds = {name: known[name] for name in sweep.known} | {name: sizes[name] for name in model.whole}
            totals = {statistic.name: _Accumulator(statistic) for statistic in sweep.statistics}
            run = _SweepRun(sweep, model, open_model(model.model), {**sources, **features}, writers, sizes, totals)
            for _ in run.all(cut, feeds):
                done += 1
                if progress is not None:
                    progress(done, total)
            del run  # Releases the model's memory before the next one is opened.
            for name, summed in totals.items():
                known[name] = summed.finish(height * width, plan.locality.graph.types[name])
                require_finite(known[name], f"in {name}, taken over the whole image")
            for name in set(features) - _read_from(plan, index + 1):
                features.pop(name).close()
            if kept is not None and index + 1 < len(plan.sweeps):
                kept.commit({name: known[name] for name in totals}, features)


def _read_from(plan: SweepPlan, index: int) -> set[str]:
    """Return the names of what the sweeps from `index` on read."""
    return {feature.name for sweep in plan.sweeps[index:] for feature in sweep.reads}


def new_map(
    kept: PlaneCheckpoint | None, folder: Path, name: str, rows: int, columns: int, channels: int, dtype: np.dtype[Any]
) -> ScratchFile:
    """Return the file of a feature map: the one that is kept, or an unnamed one.

    Parameters
    ----------
    kept, folder
        As for `infer`.
    name, rows, columns, channels, dtype
        Of the map.
    """
    if kept is not None:
        return kept.map(name, rows, columns, channels, dtype)
    return ScratchFile(folder, rows, columns, channels, dtype)


def check_room(plan: SweepPlan, size: tuple[int, int], folder: Path) -> None:
    """Check that the feature maps of an image fit on the disk.

    Parameters
    ----------
    plan
        The network's sweeps.
    size
        (H, W) of the image in pixels.
    folder
        Folder for the feature maps.

    Raises
    ------
    InputError
        The disk has not enough free space, or the folder does not exist.
    """
    needed = int(plan.bytes_per_pixel * size[0] * size[1])
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(
            f"cannot keep features in {folder} ({error.strerror}); name another folder with --scratch"
        ) from error
    if needed > free:
        raise InputError(
            f"the exact result needs {needed / 1e9:.1f} GB of disk for features, and {folder} has {free / 1e9:.1f} GB "
            "free; make room, name another folder with --scratch, or take the approximate one with "
            "--global-statistics tile"
        )


class _SweepRun:
    """Runs the tiles of one sweep."""

    def __init__(
        self,
        sweep: Sweep,
        model: SweepModel,
        run: Run,
        sources: Mapping[str, RegionReader],
        writers: Mapping[str, RegionWriter],
        sizes: _ImageSizes,
        totals: Mapping[str, _Accumulator],
    ) -> None:
        self._sweep, self._model, self._run = sweep, model, run
        self._sources, self._writers, self._sizes, self._totals = sources, writers, sizes, totals
        self._wanted = [stored(name) for name in writers] + [
            part(name, row, column)
            for name, crops in model.crops.items()
            for row, across in enumerate(crops)
            for column in range(len(across))
        ]

    def all(self, pieces: Sequence[Tile], feeds: Mapping[str, NDArray[Any]]) -> Generator[None, None, None]:
        """Run the tiles and yield after each; `feeds` is the same for all.

        While a tile is computed, the next one is read and the previous one written: a sweep reads nothing that it
        writes.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            writing: Future[None] | None = None
            coming = reader.submit(self._read, pieces[0])
            for index, piece in enumerate(pieces):
                features = coming.result()
                if index + 1 < len(pieces):
                    coming = reader.submit(self._read, pieces[index + 1])
                results = self._compute(piece, {**feeds, **features})
                del features
                if writing is not None:
                    writing.result()
                writing = writer.submit(self._write, piece, results)
                yield
            if writing is not None:
                writing.result()

    def _read(self, piece: Tile) -> dict[str, NDArray[Any]]:
        """Read the features of a tile with its halo."""
        top, left, bottom, right = piece.outer
        found = {}
        for feature in self._sweep.reads:
            first, beyond = _scaled((top, left), feature), _scaled((bottom, right), feature)
            values = self._sources[feature.name].read(*first, beyond[0] - first[0], beyond[1] - first[1])
            found[stored(feature.name)] = values.astype(feature.dtype, copy=False)
        return found

    def _compute(self, piece: Tile, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a tile, and accumulate its statistics."""
        top, left, bottom, right = piece.outer
        inputs = {
            **feeds,
            ROWS: np.array([(bottom - top) // self._sweep.unit]),
            COLUMNS: np.array([(right - left) // self._sweep.unit]),
        }
        nothing = set()
        for crop in self._model.all_crops:
            rectangle = self._sizes.rectangle(crop, piece)
            if rectangle is None:
                nothing.add(crop)
                rectangle = (0, 0), (1, 1)  # An empty rectangle has no statistic; this one is computed but not used.
            inputs[crop.first], inputs[crop.beyond] = np.array(rectangle[0]), np.array(rectangle[1])
        results = dict(zip(self._wanted, self._run(self._wanted, inputs), strict=True))
        for name, total in self._totals.items():
            for row, crops in enumerate(self._model.crops[name]):
                for column, crop in enumerate(crops):
                    if crop not in nothing:
                        total.add(row, column, results[part(name, row, column)])
        return results

    def _write(self, piece: Tile, results: Mapping[str, NDArray[Any]]) -> None:
        """Store the core of a tile."""
        for feature in self._sweep.stores:
            first, beyond = _scaled((piece.top, piece.left), feature), _scaled((piece.bottom, piece.right), feature)
            above, before = _scaled(piece.outer[:2], feature)
            values = results[stored(feature.name)]
            values = values[first[0] - above : beyond[0] - above, first[1] - before : beyond[1] - before]
            self._writers[feature.name].write(*first, values)


def _scaled(place: tuple[int, int], feature: Feature) -> tuple[int, int]:
    """Convert a position in the image to one in a feature map."""
    return int(place[0] * feature.rows), int(place[1] * feature.columns)


class _Accumulator:
    """Accumulates a statistic over tiles, in double precision."""

    def __init__(self, statistic: Statistic) -> None:
        self._statistic = statistic
        self._values: dict[tuple[int, int], NDArray[Any]] = {}

    def add(self, row: int, column: int, value: NDArray[Any]) -> None:
        """Add a tile's value in one bin."""
        combine: Any = {"sum": np.add, "max": np.maximum, "min": np.minimum}[self._statistic.combine]
        value, bin = value.astype(np.float64), (row, column)
        self._values[bin] = combine(self._values[bin], value) if bin in self._values else value

    def finish(self, pixels: int, kind: int) -> NDArray[Any]:
        """Return the statistic of the image, of so many pixels, in the type `kind` (`TensorProto.DataType`)."""
        from onnx import helper

        bins, axes = self._statistic.bins, self._statistic.axes
        try:
            value = self._values[0, 0]
            if bins is not None and axes is not None:
                across = range(len(bins.columns))
                rows = [
                    np.concatenate([self._values[row, column] for column in across], axes[1])
                    for row in range(len(bins.rows))
                ]
                value = np.concatenate(rows, axes[0])
        except KeyError:
            raise KeygraphError(f"{self._statistic.name} is computed over a part of the image without pixels") from None
        if self._statistic.finish == "mean":
            value = value / float(self._statistic.elements * pixels)
        elif self._statistic.finish == "root":
            value = np.sqrt(value)
        return value.astype(helper.tensor_dtype_to_np_dtype(kind))


class _ImageSizes:
    """Values that the network computes from the size of the whole image."""

    def __init__(self, plan: SweepPlan, size: tuple[int, int], open_model: Open) -> None:
        self._plan, self._size, self._open = plan, size, open_model
        self._unit = math.lcm(*(sweep.unit for sweep in plan.sweeps))
        self._values: dict[str, NDArray[Any]] = {}

    def find(self, names: Iterable[str]) -> None:
        """Compute the named values, for later access."""
        graph = self._plan.locality.graph
        moving = []
        for name in dict.fromkeys(names):
            value = graph.fixed(name)
            if value is not None:
                self._values[name] = value
            elif name not in self._values:
                moving.append(name)
        if moving:
            run = self._open(image_sizes_model(self._plan.locality, moving, self._unit))
            cells = {ROWS: np.array([self._size[0] // self._unit]), COLUMNS: np.array([self._size[1] // self._unit])}
            self._values |= dict(zip(moving, run(moving, cells), strict=True))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._values[name]

    def rectangle(self, crop: Crop, piece: Tile) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Return start and end (row, column) of what a tile contributes, within the tile; None for nothing."""
        scale, outer = (crop.rows, crop.columns), piece.outer[:2]
        core = (piece.top, piece.bottom), (piece.left, piece.right)
        first, beyond = [], []
        for axis in (0, 1):
            low, high = (int(edge * scale[axis]) for edge in core[axis])
            pair = crop.bounds[axis]
            if pair is not None:
                length = int(self._size[axis] * scale[axis])
                start, end = (int(self[bound.value].reshape(-1)[bound.index]) for bound in pair)
                start, end = (min(max(n + length if n < 0 else n, 0), length) for n in (start, end))
                low, high = max(low, start), min(high, end)
            if high <= low:
                return None
            origin = int(outer[axis] * scale[axis])
            first.append(low - origin)
            beyond.append(high - origin)
        return (first[0], first[1]), (beyond[0], beyond[1])
