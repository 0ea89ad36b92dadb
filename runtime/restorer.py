"""Restoring an array, whatever its size: pad, cut, run, check, join."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, KeygraphError
from ..manifest import Manifest
from .backends.base import DivisibleSession, Inputs, Session, resolve_k, run_batches
from .errors import SessionMemoryError, require_finite
from .io.regions import ArraySink, Sink
from .notices import warn
from .preprocess.normalization import from_model
from .preprocess.request import Scene, Windows, scene
from .tiling.blend import Plan, blend
from .tiling.tile_size import Sizing, choose, smaller
from .tiling.whole_image import whole_pixels

if TYPE_CHECKING:
    from .tiling.exact.model import ExactModel
    from .tiling.exact.run import Grid

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Restored:
    """A restored image and how it came about.

    Attributes
    ----------
    image
        [H * scale, W * scale] or [H * scale, W * scale, C], for an image that is larger than H x W by the model's
        margin. Of the type that was given, but float32 for spectra (`values.result_type`).
    k
        Neighbours of each node, None for a model without a key graph.
    plan
        The tiles; ``len(plan.tiles) == 1`` for a whole image.
        Exact tiles are given without their halos: as what each adds to the result.
    tile
        Height and width of a tile, with its halo if it is an exact one.
    overlap
        The least overlap of two tiles in pixels, with their halos if they are exact; 0 for a whole image.
    batch
        Tiles that ran together.
    padded
        True when the image was reflected at its edges to fit the model's size rule, and cut back.
    sweeps
        How often the tiles were gone over for the exact result; 0 where that was not needed, or not asked for.
    notices
        Lines that a user should see.
    """

    image: NDArray[Any]
    k: int | None
    plan: Plan
    tile: tuple[int, int]
    overlap: int
    batch: int
    padded: bool
    sweeps: int
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """How an image is restored; see `Restorer.restore`."""

    tile: int | str = "auto"
    overlap: int | str = "auto"
    batch: int | None = None
    global_statistics: str | None = None
    scratch: str | os.PathLike[str] | None = None

    @property
    def folder(self) -> Path:
        """Where features are kept."""
        return Path(tempfile.gettempdir() if self.scratch is None else self.scratch)


class Restorer:
    """A model that restores images.

    Parameters
    ----------
    session
        Where it runs.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""
        return self.session.manifest

    @property
    def description(self) -> str:
        """One line that says what really runs."""
        return self.session.description

    def __call__(
        self,
        image: NDArray[Any],
        k: int | None = None,
        *,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        tile: int | str = "auto",
        overlap: int | str = "auto",
        batch: int | None = None,
        global_statistics: str | None = None,
        scratch: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Return the restored image; its notices become `KeygraphWarning`. For the rest see `restore`."""
        restored = self.restore(
            image,
            k,
            inputs=inputs,
            tile=tile,
            overlap=overlap,
            batch=batch,
            global_statistics=global_statistics,
            scratch=scratch,
            progress=progress,
        )
        for notice in restored.notices:
            warn(notice)
        return restored.image

    def restore(
        self,
        image: NDArray[Any],
        k: int | None = None,
        *,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        tile: int | str = "auto",
        overlap: int | str = "auto",
        batch: int | None = None,
        global_statistics: str | None = None,
        scratch: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Restored:
        """Restore one image.

        Parameters
        ----------
        image
            [H, W] (gray) or [H, W, C], without alpha: uint8 (0 to 255), uint16 (0 to 65535), or float16, float32,
            float64 (0 to 1). A model that normalises images by their own range, or not at all (the manifest's
            `normalisation`), takes any real numbers. Computed in float32.
        k
            Neighbours of each node, from 1 to the nodes of a window; None for the model's default.
        inputs
            What the model takes beside the image, by name and in the image's geometry: the other views of the
            manifest's `views`, as the image; its `extra_inputs`, as they are.
        tile
            Side of the tiles, a multiple of the model's size rule; ``"none"`` for the whole image at once; ``"auto"``
            chooses, and takes smaller ones when memory runs out. A tile that was asked for is never changed.
        overlap
            Least overlap of neighbouring tiles, a multiple of the size rule, at most half a tile; or ``"auto"``.
        batch
            Tiles that run together, at least 1; None chooses. It does not change the result, and is halved when memory
            runs out.
        global_statistics
            For a model with statistics over the whole image, and an image that is cut: ``"exact"`` goes over the tiles
            several times, with features on disk in between, for the whole image's result; ``"tile"`` takes each tile
            for a whole image. None: exact where the session can.
        scratch
            Folder for the features, None for the system's temporary one.
        progress
            Called with (tiles done, tiles in all).

        Returns
        -------
        Integers are rounded to nearest, ties to even, and clipped to their range. Floats are cut to the manifest's
        `clamp`, if there is one.

        Raises
        ------
        InputError
            The image, an input, k, tile, overlap or batch is not possible, or memory does not suffice for the tile
            asked for.
        NotFiniteError
            The model gave NaN or infinity.
        KeygraphError
            The model failed.
        """
        image = np.asarray(image)
        number = resolve_k(self.manifest, k)
        given = scene(self.manifest, image, inputs)
        scale = self.manifest.scale
        result = np.empty((given.height * scale, given.width * scale, given.channels.channels), given.dtype)
        options = Options(tile, overlap, batch, global_statistics, scratch)
        restored = self.restore_scene(given, ArraySink(result), number, options, progress)
        return replace(restored, image=result[:, :, 0] if image.ndim == 2 and result.shape[2] == 1 else result)

    def restore_scene(
        self, given: Scene, sink: Sink, k: int | None, options: Options, progress: Progress | None = None
    ) -> Restored:
        """Restore a scene piece by piece; what `restore` does, for images that need not be in memory.

        Parameters
        ----------
        given
            What is restored.
        sink
            Takes the result, [h, w, C] of the scene's type; a place may be written again.
        k
            What `resolve_k` returned.
        options, progress
            See `restore`.

        Returns
        -------
        How it came about; its image is empty.
        """
        manifest = self.manifest
        height, width = given.height, given.width
        sizing = self.sizing(height, width, options)
        notices = [*given.notices, *_k_notices(manifest, k)]
        while True:
            exact = self._exact(sizing, options, notices)
            try:
                if exact is not None:
                    sizing = replace(sizing, batch=1)
                    grid = self._run_exactly(exact, given, sink, sizing, options, progress)
                    plan, tile, overlap = grid.plan, grid.tile, grid.overlap
                else:
                    plan, overlap = sizing.plan, sizing.overlap
                    tile = plan.rows.tile, plan.columns.tile
                    self._run(given, sink, sizing, k, progress)
                break
            except SessionMemoryError as error:
                sizing, notice = _retreat(manifest, height, width, sizing, error)
                notices.append(notice)
        if exact is None:
            notices += _tile_notices(manifest, sizing)
        elif options.overlap != "auto":
            notices.append("tiles overlap by what the exact result takes, whatever was asked for")
        neighbours = manifest.neighbours
        return Restored(
            image=np.empty(0),
            k=k if k is not None or neighbours is None else neighbours.default,
            plan=plan,
            tile=tile,
            overlap=overlap if len(plan.tiles) > 1 else 0,
            batch=sizing.batch,
            padded=(plan.rows.length, plan.columns.length) != (height, width),
            sweeps=len(exact.plan.sweeps) if exact is not None else 0,
            notices=tuple(notices),
        )

    def sizing(self, height: int, width: int, options: Options) -> Sizing:
        """How an image of this size is cut; raises `InputError` for options that cannot be."""
        manifest, wish = self.manifest, options.global_statistics
        if wish not in (None, "exact", "tile"):
            raise InputError(f"global statistics are {wish!r}; give exact or tile")
        if wish is not None and not manifest.global_statistics:
            raise InputError(
                f"this model ({manifest.architecture}) takes no statistics over the whole image, so tiles need no "
                "other way; leave --global-statistics out"
            )
        return choose(
            manifest,
            height,
            width,
            tile=options.tile,
            overlap=options.overlap,
            batch=options.batch,
            whole_pixels=whole_pixels(manifest, self.session),
        )

    def runs_exactly(self, height: int, width: int, options: Options) -> bool:
        """Whether an image of this size would be restored exactly in tiles, as far as memory is foreseen."""
        return self._exact(self.sizing(height, width, options), options, []) is not None

    def _exact(self, sizing: Sizing, options: Options, notices: list[str]) -> ExactModel | None:
        """The model for exact tiled inference, where an image is cut and that is wanted and possible."""
        if len(sizing.plan.tiles) == 1 or not self.manifest.global_statistics or options.global_statistics == "tile":
            return None
        wanted = options.global_statistics == "exact"
        try:
            return exact_model(self.session)
        except InputError as error:
            if wanted:
                raise
            notice = f"tiles are not exact: {error}"
            if notice not in notices:
                notices.append(notice)
            return None

    def _run_exactly(
        self,
        exact: ExactModel,
        given: Scene,
        sink: Sink,
        sizing: Sizing,
        options: Options,
        progress: Progress | None,
    ) -> Grid:
        """Restore a scene exactly in tiles; return the last sweep's."""
        from .tiling.exact.run import restore_exactly

        return restore_exactly(exact, self.manifest, given, sink, max(sizing.tile), options.folder, progress)

    def _run(self, given: Scene, sink: Sink, sizing: Sizing, k: int | None, progress: Progress | None) -> None:
        """Restore a scene with one way of cutting."""
        scale = self.manifest.scale
        height, width = given.height * scale, given.width * scale
        tiles = self._restored_tiles(given, sizing, k, progress)
        for top, band in blend(sizing.plan, tiles, scale):
            rows = min(band.shape[1], height - top)
            if rows > 0:
                pixels = np.moveaxis(band[:, :rows, :width], 0, 2)
                sink.write(top, 0, from_model(pixels, self.manifest, given.dtype))

    def _restored_tiles(
        self, given: Scene, sizing: Sizing, k: int | None, progress: Progress | None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield float32[channels, h, w] for every tile, each checked and valid until the next one is asked for."""
        plan, corners = sizing.plan, sizing.plan.tiles
        planes, filled = given.channels.planes, self.manifest.shape is not None
        # What limits a batch counts planes, however many of them make a tile.
        together = sizing.batch if planes == 1 else max(1, sizing.batch // planes)
        groups = [corners[start : start + together] for start in range(0, len(corners), together)]
        cut = Windows(given, plan.rows.length, plan.columns.length)

        def batches() -> Iterator[Inputs]:
            for group in groups:
                tiles = [cut(y, x, plan.rows.tile, plan.columns.tile) for y, x in group]
                inputs = tuple(np.concatenate(of_tiles) for of_tiles in zip(*tiles, strict=True))
                yield from _parts(inputs, sizing.most or len(inputs[0]), filled)

        done = 0
        with closing(run_batches(self.session, batches(), k)) as results:
            for group in groups:
                count = len(group) * planes
                restored = self._take(results, count, sizing.most or count, filled, plan)
                done += len(group)
                if progress is not None:
                    progress(done, len(corners))
                restored = restored.reshape(len(group), planes, *restored.shape[1:])
                for (y, x), of_tile in zip(group, restored, strict=True):
                    require_finite(of_tile, f"in the tile at row {y}, column {x}")
                    yield given.channels.join(of_tile)

    def _take(
        self, results: Iterator[NDArray[np.float32]], count: int, most: int, filled: bool, plan: Plan
    ) -> NDArray[np.float32]:
        """Take the results of what `_parts` made of `count` images, and check their shapes."""
        manifest, parts = self.manifest, []
        height, width = plan.rows.tile * manifest.scale, plan.columns.tile * manifest.scale
        for start in range(0, count, most):
            part = next(results)
            size = most if filled else min(most, count - start)
            expected = (size, manifest.out_channels, height, width)
            if part.shape != expected:
                raise KeygraphError(
                    f"the model gave a tensor of shape {part.shape} where its manifest promises {expected}; "
                    "export it again"
                )
            parts.append(part.copy() if start + most < count else part)  # A result is valid until the next one.
        return (parts[0] if len(parts) == 1 else np.concatenate(parts))[:count]


def exact_model(session: Session) -> ExactModel:
    """Take a session's network apart for exact tiled inference.

    Raises
    ------
    InputError
        This session's network cannot be run exactly in tiles; the message says why.
    """
    if not isinstance(session, DivisibleSession):
        raise InputError(
            "exact tiles are for .onnx files in ONNX Runtime: restore with the one that export-model wrote, or "
            "take --global-statistics tile"
        )
    exact = session.exact()
    exact.prepare()
    return exact


def _parts(inputs: Inputs, most: int, filled: bool) -> Iterator[Inputs]:
    """Cut a batch into ones of at most so many; `filled`: exactly so many, the last one repeated as need be."""
    count = len(inputs[0])
    for start in range(0, count, most):
        lacking = max(0, start + most - count) if filled else 0
        yield tuple(
            np.concatenate([values[start:], np.repeat(values[-1:], lacking, axis=0)])
            if lacking
            else values[start : start + most]
            for values in inputs
        )


def _retreat(
    manifest: Manifest, height: int, width: int, sizing: Sizing, error: SessionMemoryError
) -> tuple[Sizing, str]:
    """Choose a smaller way to cut, and the line that says so."""
    less = smaller(manifest, height, width, sizing)
    tile = " x ".join(map(str, sizing.tile))
    if less is None:
        advice = "free memory, or use a machine with more" if sizing.automatic else "choose a smaller tile, or auto"
        raise InputError(f"{error} with tiles of {tile} one by one; {advice}") from error
    if less.batch < sizing.batch:
        return less, f"{error} with {sizing.batch} tiles of {tile} together: went on with {less.batch}"
    return less, f"{error} with tiles of {tile}: went on with tiles of {' x '.join(map(str, less.tile))}"


def _k_notices(manifest: Manifest, k: int | None) -> list[str]:
    trained = manifest.neighbours.trained if manifest.neighbours else ()
    if k is None or not trained or min(trained) <= k <= max(trained):
        return []
    return [f"k is {k}, but the model was trained with {min(trained)} to {max(trained)}: the quality is unknown there"]


def _tile_notices(manifest: Manifest, sizing: Sizing) -> list[str]:
    if len(sizing.plan.tiles) == 1:
        return []
    notices = []
    if manifest.global_statistics:
        measured = manifest.statistics.tilings if manifest.statistics is not None else ()
        nearest = min(measured, key=lambda tiling: abs(tiling.tile - max(sizing.tile)), default=None)
        cost = f" (tiles of {nearest.tile}: {nearest.psnr:.0f} dB, as measured at export)" if nearest else ""
        notices.append(f"this model takes statistics over the whole image: tiles change its result{cost}")
    if sizing.overlap == 0:
        notices.append("tiles do not overlap: seams are possible")
    return notices
