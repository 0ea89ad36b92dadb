"""Tiled inference with blending: run a request in batches of overlapping tiles, and blend the results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...errors import KeygraphError
from ...manifest import Manifest
from ..backends.base import Inputs, Session, run_batches
from ..errors import require_finite
from ..io.regions import RegionWriter
from ..preprocess.normalization import from_model
from ..preprocess.request import Request, TileReader
from .blend import blend
from .checkpoint import Checkpoint
from .progress import Progress
from .tile_size import TileChoice

#: Rows that are converted to samples at a time, so that a wide band needs little memory beside itself.
_STRIP_ROWS = 64


@runtime_checkable
class TileSession(Session, Protocol):
    """A session that restores tiles in several places at a time, and keeps each as soon as it is done."""

    def kept_tiles(
        self,
        request: Request,
        choice: TileChoice,
        k: int | None,
        progress: Progress | None,
        checkpoint: Checkpoint | None,
        first: int,
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the tiles from `first` on, in order: those that are kept, and those that are computed.

        Parameters
        ----------
        request, choice, k, progress, checkpoint
            As for `restore_tiles`.
        first
            Place of the first tile in `Plan.tiles`.

        Yields
        ------
        float32[C, h, w]
            As `blend` takes it.
        """


def restore_tiles(
    session: Session,
    request: Request,
    writer: RegionWriter,
    choice: TileChoice,
    k: int | None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Restore a request with one choice of tiles, from top to bottom.

    Memory is needed for one row of tiles, whatever the height of the image.

    Parameters
    ----------
    session
        The model.
    request
        The image and its extra inputs.
    writer
        Takes the result, [h, w, C] of the request's type.
    choice
        Tiles, overlap and batch.
    k
        As `Session.run` takes it.
    progress
        Called after each batch of tiles.
    checkpoint
        Keeps the work done, and has that of an earlier run, which is not done again. None keeps nothing.

    Raises
    ------
    SessionMemoryError
        The batch does not fit in memory.
    NotFiniteError
        The model gave NaN or infinity.
    KeygraphError
        The model failed, or gave a tensor of another shape than its manifest says.
    """
    manifest, plan = session.manifest, choice.plan
    scale = manifest.scale
    height, width = request.height * scale, request.width * scale
    committed = 0 if checkpoint is None else checkpoint.start(choice)
    if committed == len(plan.rows.origins):
        return
    # Rows of tiles that are written already give their share of the pixels of the next one.
    first = plan.rows.first_overlapping(committed)
    begin = first * len(plan.columns.origins)
    kept_tiles = session.kept_tiles if isinstance(session, TileSession) else partial(_kept_tiles, session)
    restored = kept_tiles(request, choice, k, progress, checkpoint, begin)
    for row, (top, band) in enumerate(blend(plan, restored, scale, first), first):
        if row < committed:
            continue
        rows = min(band.shape[1], height - top)
        for start in range(0, rows, _STRIP_ROWS):
            pixels = np.moveaxis(band[:, start : min(start + _STRIP_ROWS, rows), :width], 0, 2)
            writer.write(top + start, 0, from_model(pixels, manifest, request.dtype))
        if checkpoint is not None:
            checkpoint.commit()


def _kept_tiles(
    session: Session,
    request: Request,
    choice: TileChoice,
    k: int | None,
    progress: Progress | None,
    checkpoint: Checkpoint | None,
    first: int,
) -> Iterator[NDArray[np.float32]]:
    """Yield float32[C, h, w] of every tile from `first` on: those that are saved, then those that are computed."""
    tile, count = first, choice.plan.count
    if checkpoint is not None:
        while tile < count and (saved := checkpoint.load(tile)) is not None:
            yield saved
            tile += 1
    if tile == count:
        return
    for number, restored in restored_tiles(session, request, choice, k, progress, tile):
        if number < tile:
            continue
        if checkpoint is not None:
            checkpoint.save(number, restored)
        yield restored


def tiles_together(choice: TileChoice, planes: int) -> int:
    """Return how many tiles run together: a batch is limited in planes, and a tile may have several."""
    return choice.batch if planes == 1 else max(1, choice.batch // planes)


def restored_tiles(
    session: Session,
    request: Request,
    choice: TileChoice,
    k: int | None,
    progress: Progress | None,
    first: int,
    end: int | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the place and float32[C, h, w] of tiles, checked, and valid until the next one is requested.

    The first is that of the batch with the tile `first`: the same tiles always run together, because a network's
    result may depend on it in the last bit.

    Parameters
    ----------
    session, request, choice, k, progress
        As for `restore_tiles`.
    first
        A tile of the first batch.
    end
        The first tile of the batch that is not restored any more; None to go on to the last tile.
    """
    manifest, plan = session.manifest, choice.plan
    rows, columns, planes = plan.rows.origins, plan.columns.origins, request.channels.planes
    count = len(rows) * len(columns)
    fixed_batch = manifest.shape is not None
    together = tiles_together(choice, planes)
    done = first // together * together
    corners = [
        (rows[one // len(columns)], columns[one % len(columns)]) for one in range(done, count if end is None else end)
    ]
    groups = [corners[start : start + together] for start in range(0, len(corners), together)]
    read = TileReader(request, plan.rows.length, plan.columns.length)

    def batches() -> Iterator[Inputs]:
        for group in groups:
            tiles = [read(y, x, plan.rows.tile, plan.columns.tile) for y, x in group]
            inputs = tuple(np.concatenate(of_tiles) for of_tiles in zip(*tiles, strict=True))
            yield from _split_batch(inputs, choice.max_batch or len(inputs[0]), fixed_batch)

    tile = plan.rows.tile * manifest.scale, plan.columns.tile * manifest.scale
    numbers = itertools.count(done)
    with closing(run_batches(session, batches(), k)) as results:
        for group in groups:
            images = len(group) * planes
            restored = _joined_batch(results, manifest, tile, images, choice.max_batch or images)
            done += len(group)
            if progress is not None:
                progress(done, count)
            restored = restored.reshape(len(group), planes, *restored.shape[1:])
            for (y, x), of_tile in zip(group, restored, strict=True):
                require_finite(of_tile, f"in the tile at row {y}, column {x}")
                yield next(numbers), request.channels.join(of_tile)


def _split_batch(inputs: Inputs, max_batch: int, fixed_batch: bool) -> Iterator[Inputs]:
    """Split a batch into parts of at most `max_batch`, or of exactly so many by repeating the last image."""
    count = len(inputs[0])
    for start in range(0, count, max_batch):
        lacking = max(0, start + max_batch - count) if fixed_batch else 0
        yield tuple(
            np.concatenate([values[start:], np.repeat(values[-1:], lacking, axis=0)])
            if lacking
            else values[start : start + max_batch]
            for values in inputs
        )


def _joined_batch(
    results: Iterator[NDArray[np.float32]], manifest: Manifest, tile: tuple[int, int], count: int, max_batch: int
) -> NDArray[np.float32]:
    """Join the results of the parts that `_split_batch` made of `count` images, and check their shapes."""
    parts = []
    for start in range(0, count, max_batch):
        part = next(results)
        size = max_batch if manifest.shape is not None else min(max_batch, count - start)
        expected = (size, manifest.out_channels, *tile)
        if part.shape != expected:
            raise KeygraphError(
                f"the model gave a tensor of shape {part.shape} where its manifest promises {expected}; export it again"
            )
        # A result is valid until the next one.
        parts.append(part.copy() if start + max_batch < count else part)
    return (parts[0] if len(parts) == 1 else np.concatenate(parts))[:count]
