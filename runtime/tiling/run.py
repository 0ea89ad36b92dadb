"""Tiled inference with blending: run a request in batches of overlapping tiles, and blend the results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

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
from .progress import Progress
from .tile_size import TileChoice


def restore_tiles(
    session: Session,
    request: Request,
    writer: RegionWriter,
    choice: TileChoice,
    k: int | None,
    progress: Progress | None = None,
) -> None:
    """Restore a request with one choice of tiles.

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

    Raises
    ------
    SessionMemoryError
        The batch does not fit in memory.
    NotFiniteError
        The model gave NaN or infinity.
    KeygraphError
        The model failed, or gave a tensor of another shape than its manifest says.
    """
    manifest = session.manifest
    scale = manifest.scale
    height, width = request.height * scale, request.width * scale
    restored = _restored_tiles(session, request, choice, k, progress)
    for top, band in blend(choice.plan, restored, scale):
        rows = min(band.shape[1], height - top)
        if rows > 0:
            pixels = np.moveaxis(band[:, :rows, :width], 0, 2)
            writer.write(top, 0, from_model(pixels, manifest, request.dtype))


def _restored_tiles(
    session: Session, request: Request, choice: TileChoice, k: int | None, progress: Progress | None
) -> Iterator[NDArray[np.float32]]:
    """Yield float32[channels, h, w] of every tile, checked, and valid until the next one is requested."""
    manifest, plan = session.manifest, choice.plan
    corners, planes = plan.tiles, request.channels.planes
    fixed_batch = manifest.shape is not None
    # A batch is limited in planes, and a tile may have several.
    together = choice.batch if planes == 1 else max(1, choice.batch // planes)
    groups = [corners[start : start + together] for start in range(0, len(corners), together)]
    read = TileReader(request, plan.rows.length, plan.columns.length)

    def batches() -> Iterator[Inputs]:
        for group in groups:
            tiles = [read(y, x, plan.rows.tile, plan.columns.tile) for y, x in group]
            inputs = tuple(np.concatenate(of_tiles) for of_tiles in zip(*tiles, strict=True))
            yield from _split_batch(inputs, choice.max_batch or len(inputs[0]), fixed_batch)

    tile = plan.rows.tile * manifest.scale, plan.columns.tile * manifest.scale
    done = 0
    with closing(run_batches(session, batches(), k)) as results:
        for group in groups:
            count = len(group) * planes
            restored = _joined_batch(results, manifest, tile, count, choice.max_batch or count)
            done += len(group)
            if progress is not None:
                progress(done, len(corners))
            restored = restored.reshape(len(group), planes, *restored.shape[1:])
            for (y, x), of_tile in zip(group, restored, strict=True):
                require_finite(of_tile, f"in the tile at row {y}, column {x}")
                yield request.channels.join(of_tile)


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
