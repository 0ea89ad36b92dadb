"""Restoring an image of any size with a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, KeygraphError
from ..manifest import IMAGE_INPUT, Manifest
from .backends.base import ClosableSession, DivisibleSession, Session, WithBlock, resolve_k
from .errors import ClosedError, SessionMemoryError
from .io.regions import ArrayWriter, RegionWriter
from .notices import warn
from .preprocess.request import Request, as_array, make_request
from .restore_options import RestoreKeywords, RestoreOptions
from .tiling.blend import Plan
from .tiling.progress import Progress
from .tiling.run import restore_tiles
from .tiling.tile_size import TileChoice, choose, smaller
from .tiling.whole_image import check_fits, run_pixels, runs_at_a_time, whole_pixels

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .tiling.exact.model import ExactModel


@dataclass(frozen=True)
class Restored:
    """A restored image, and how it was computed.

    Attributes
    ----------
    image
        [H * scale, W * scale] or [H * scale, W * scale, C], where the given image is larger than H x W by the model's
        margin. Of the given type, but float32 for spectra (`normalization.result_type`).
    k
        Neighbours of each node; None for a model without a key graph.
    plan
        The tiles; ``len(plan.tiles) == 1`` for a whole image. Exact tiles are listed without their halos.
    tile
        Height and width of a tile in pixels, with the halo of an exact one.
    overlap
        Least overlap of two tiles in pixels, with the halos of exact ones; 0 for a whole image.
    batch
        Tiles that ran together.
    padded
        True when the image was padded by reflection to the model's `size_multiple`, and cropped.
    sweeps
        Sweeps over the tiles for the exact result; 0 where tiles were blended, and for a whole image.
    notices
        Lines to show to the user.
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


class Restorer(WithBlock):
    """A model that restores images, for any number of threads.

    In a ``with`` block it is closed at the end. Without one, the model is freed when nothing refers to it any more.

    Parameters
    ----------
    session
        The model, ready to run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._closed = False

    def close(self) -> None:
        """Free the model now. Later calls raise `ClosedError`, as may calls that other threads have in progress."""
        self._closed = True
        if isinstance(self.session, ClosableSession):
            self.session.close()

    @property
    def manifest(self) -> Manifest:
        """The model's manifest."""
        return self.session.manifest

    @property
    def description(self) -> str:
        """One line that says what runs: engine, version, device, implementation of the operators."""
        return self.session.description

    def __call__(
        self,
        image: NDArray[Any],
        k: int | None = None,
        *,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        progress: Progress | None = None,
        **options: Unpack[RestoreKeywords],
    ) -> NDArray[Any]:
        """Return the restored image, and issue its notices as `KeygraphWarning`.

        Parameters
        ----------
        image, k, inputs, progress
            As for `restore`.
        **options
            `tile`, `overlap`, `batch`, `global_statistics` and `scratch`; see `RestoreOptions`.

        Returns
        -------
        `Restored.image`
        """
        restored = self.restore(image, k, inputs=inputs, progress=progress, **options)
        for notice in restored.notices:
            warn(notice)
        return restored.image

    def restore(
        self,
        image: NDArray[Any],
        k: int | None = None,
        *,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        progress: Progress | None = None,
        **options: Unpack[RestoreKeywords],
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
            The model's other inputs by name, in the image's geometry: the other views of the manifest's `views`, of
            the image's type; its `extra_inputs`, as they are.
        progress
            Called with (tiles done, tiles in all).
        **options
            `tile`, `overlap`, `batch`, `global_statistics` and `scratch`; see `RestoreOptions`.

        Returns
        -------
        Restored
            Integers are rounded to nearest, ties to even, and clipped to their range. Floats are clipped to the
            manifest's `clamp`, if there is one.

        Raises
        ------
        InputError
            The image, an input or an option is not possible, or the tile asked for does not fit in memory.
        NotFiniteError
            The model gave NaN or infinity.
        ClosedError
            The restorer has been closed.
        KeygraphError
            The model failed, or the image and its result do not fit in memory.
        """
        image = as_array(image, IMAGE_INPUT)
        checked = RestoreOptions(k, **options)
        checked.check(self.manifest)
        try:
            request = make_request(self.manifest, image, inputs)
            scale = self.manifest.scale
            result = np.empty((request.height * scale, request.width * scale, request.channels.channels), request.dtype)
        except MemoryError as error:
            raise KeygraphError(
                f"{_out_of_memory(error)} for an image of {' x '.join(map(str, image.shape))}; free memory, restore a "
                "part of the image, or its file with: keygraph restore"
            ) from error
        restored = self.restore_request(request, ArrayWriter(result), checked, progress)
        return replace(restored, image=result[:, :, 0] if image.ndim == 2 and result.shape[2] == 1 else result)

    def restore_request(
        self, request: Request, writer: RegionWriter, options: RestoreOptions, progress: Progress | None = None
    ) -> Restored:
        """Restore a request region by region, for images that need not fit in memory.

        Parameters
        ----------
        request
            The image and its extra inputs.
        writer
            Takes the result, [h, w, C] of the request's type. A region may be written more than once.
        options
            How it is restored.
        progress
            Called with (tiles done, tiles in all).

        Returns
        -------
        Restored
            Its image is empty.
        """
        if self._closed:
            raise ClosedError
        manifest = self.manifest
        height, width = request.height, request.width
        k = resolve_k(manifest, options.k)
        choice = self.choose_tiles(height, width, options)
        notices = [*request.notices, *_k_notices(manifest, k)]
        while True:
            exact = self._exact_model(choice, options, notices)
            try:
                if exact is not None:
                    from .tiling.exact.run import restore_exactly

                    choice = replace(choice, batch=1)
                    side, folder = max(choice.tile), options.scratch_folder
                    grid = restore_exactly(exact, manifest, request, writer, side, folder, progress)
                    plan, tile, overlap = grid.plan, grid.tile, grid.overlap
                else:
                    restore_tiles(self.session, request, writer, choice, k, progress)
                    plan, overlap = choice.plan, choice.overlap
                    tile = plan.rows.tile, plan.columns.tile
                break
            except (SessionMemoryError, MemoryError) as error:
                choice, notice = _smaller_choice(manifest, height, width, choice, error)
                notices.append(notice)
        if exact is None:
            notices += _tile_notices(manifest, choice)
        elif options.overlap != "auto":
            notices.append("the exact result determines how tiles overlap; the overlap asked for is ignored")
        neighbours = manifest.neighbours
        return Restored(
            image=np.empty(0),
            k=k if k is not None or neighbours is None else neighbours.default,
            plan=plan,
            tile=tile,
            overlap=overlap if len(plan.tiles) > 1 else 0,
            batch=choice.batch,
            padded=(plan.rows.length, plan.columns.length) != (height, width),
            sweeps=len(exact.plan.sweeps) if exact is not None else 0,
            notices=tuple(notices),
        )

    def choose_tiles(self, height: int, width: int, options: RestoreOptions) -> TileChoice:
        """Choose tiles, overlap and batch for an image.

        Parameters
        ----------
        height, width
            Size of the image in pixels, without the model's margin.
        options
            How it is restored.

        Raises
        ------
        InputError
            The options do not fit the model, the size, or the memory.
        """
        options.check(self.manifest)
        choice = choose(
            self.manifest,
            height,
            width,
            tile=options.tile,
            overlap=options.overlap,
            batch=options.batch,
            whole_pixels=whole_pixels(self.manifest, self.session),
            run_pixels=run_pixels(self.manifest, self.session),
            runs_at_a_time=runs_at_a_time(self.session),
        )
        check_fits(self.manifest, self.session, choice)
        return choice

    def restores_exactly(self, height: int, width: int, options: RestoreOptions) -> bool:
        """Return whether an image would be restored exactly in tiles, as far as its memory can be estimated.

        Parameters
        ----------
        height, width, options
            As for `choose_tiles`.
        """
        return self._exact_model(self.choose_tiles(height, width, options), options, []) is not None

    def _exact_model(self, choice: TileChoice, options: RestoreOptions, notices: list[str]) -> ExactModel | None:
        """Return the model for exact tiles, or None where the image is not tiled or exact tiles are not possible."""
        if len(choice.plan.tiles) == 1 or not self.manifest.global_statistics or options.global_statistics == "tile":
            return None
        try:
            return exact_model(self.session)
        except InputError as error:
            if options.global_statistics == "exact":
                raise
            notice = f"tiles are not exact: {error}"
            if notice not in notices:
                notices.append(notice)
            return None


def exact_model(session: Session) -> ExactModel:
    """Return a session's model for exact tiled inference.

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


def _smaller_choice(
    manifest: Manifest, height: int, width: int, choice: TileChoice, error: SessionMemoryError | MemoryError
) -> tuple[TileChoice, str]:
    """Return a choice that needs less memory, and the notice about it."""
    said = str(error) if isinstance(error, SessionMemoryError) else _out_of_memory(error)
    less = smaller(manifest, height, width, choice)
    tile = " x ".join(map(str, choice.tile))
    if less is None:
        advice = "free memory, or use a machine with more" if choice.automatic else "choose a smaller tile, or auto"
        raise InputError(f"{said} with tiles of {tile} one by one; {advice}") from error
    if less.batch < choice.batch:
        return less, f"{said} with {choice.batch} tiles of {tile} together: went on with {less.batch}"
    return less, f"{said} with tiles of {tile}: went on with tiles of {' x '.join(map(str, less.tile))}"


def _out_of_memory(error: MemoryError) -> str:
    """Return a `MemoryError` of NumPy or Python in words."""
    return f"out of memory ({error})" if str(error) else "out of memory"


def _k_notices(manifest: Manifest, k: int | None) -> list[str]:
    trained = manifest.neighbours.trained if manifest.neighbours else ()
    if k is None or not trained or min(trained) <= k <= max(trained):
        return []
    known = f"{min(trained)} to {max(trained)}" if len(set(trained)) > 1 else f"{trained[0]}"
    return [f"k is {k}, but the model was trained with {known}: the quality is unknown there"]


def _tile_notices(manifest: Manifest, choice: TileChoice) -> list[str]:
    if len(choice.plan.tiles) == 1:
        return []
    notices = []
    if manifest.global_statistics:
        measured = manifest.statistics.tilings if manifest.statistics is not None else ()
        nearest = min(measured, key=lambda tiling: abs(tiling.tile - max(choice.tile)), default=None)
        cost = f" (tiles of {nearest.tile}: {nearest.psnr:.0f} dB, as measured at export)" if nearest else ""
        notices.append(f"this model takes statistics over the whole image: tiles change its result{cost}")
    if choice.overlap == 0:
        notices.append("tiles do not overlap: seams are possible")
    return notices
