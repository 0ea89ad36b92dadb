"""Restoring an image of any size with a model."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, KeygraphError
from ..manifest import IMAGE_INPUT, Manifest
from .backends.base import ClosableSession, IdentifiedSession, Session, WithBlock, exact_model, resolve_k
from .backends.micro_batches import MicroBatches
from .device.budget import parse_size
from .errors import ClosedError, SessionMemoryError
from .io.regions import ArrayWriter, RegionWriter
from .notices import warn
from .preprocess.arrays import given_images, hint
from .preprocess.request import Request, expected_channels, make_request
from .reservation import SessionBudget
from .restore_notices import k_notices, out_of_memory, smaller_choice, tile_notices
from .restore_options import RestoreKeywords, RestoreOptions
from .restored import Restored
from .tiling.checkpoint import Checkpoint, require_kept_tiles
from .tiling.progress import CancelToken, Progress, check_cancelled, checked, part_of
from .tiling.run import restore_tiles
from .tiling.tile_size import TileChoice, choose
from .tiling.whole_image import check_fits, run_pixels, runs_at_a_time, whole_pixels

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .tiling.exact.model import ExactModel

_log = logging.getLogger(__name__)


class Restorer(WithBlock):
    """A model that restores images, for any number of threads.

    In a ``with`` block it is closed at the end. Without one, the model is freed when nothing refers to it any more.

    Parameters
    ----------
    session
        The model, ready to run.
    memory
        Most memory that all calls in progress need together, as far as it can be estimated: bytes, or text such as
        ``"4G"``. Calls wait for each other where it does not suffice. Counted are the tiles that are computed and the
        results, not the model and the given images. With a GPU, the memory of the host. None for no limit.

    Raises
    ------
    InputError
        `memory` is no size.
    """

    def __init__(self, session: Session, memory: int | str | None = None) -> None:
        self.session = session
        self._budget = SessionBudget(session, None if memory is None else parse_size(memory))
        self._batches = MicroBatches(session)
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest and of the model's content, as far as the session knows it."""
        content = self.session.content if isinstance(self.session, IdentifiedSession) else ""
        return hashlib.sha256(f"{self.manifest.to_json()}\n{content}".encode()).hexdigest()

    @property
    def usual_in_flight(self) -> int:
        """Images to restore at the same time: 2, or twice the batch that an engine was built for."""
        return 2 * self._batches.usual

    def __call__(
        self,
        image: ArrayLike,
        k: int | None = None,
        *,
        inputs: Mapping[str, ArrayLike] | None = None,
        layout: str = "HWC",
        alpha: bool = False,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
        **options: Unpack[RestoreKeywords],
    ) -> NDArray[Any]:
        """Return the restored image, and issue its notices as `KeygraphWarning`.

        Parameters
        ----------
        image, k, inputs, layout, alpha, progress, cancel
            As for `restore`.
        **options
            `tile`, `overlap`, `batch`, `global_statistics` and `scratch`; see `RestoreOptions`.

        Returns
        -------
        `Restored.image`
        """
        restored = self.restore(
            image, k, inputs=inputs, layout=layout, alpha=alpha, progress=progress, cancel=cancel, **options
        )
        for notice in restored.notices:
            warn(notice)
        return restored.image

    def restore(
        self,
        image: ArrayLike,
        k: int | None = None,
        *,
        inputs: Mapping[str, ArrayLike] | None = None,
        layout: str = "HWC",
        alpha: bool = False,
        progress: Progress | None = None,
        cancel: CancelToken | None = None,
        **options: Unpack[RestoreKeywords],
    ) -> Restored:
        """Restore one image, or a batch of images of one size.

        Parameters
        ----------
        image
            [H, W] (gray) or [H, W, C]: uint8 (0 to 255), uint16 (0 to 65535), or float16, float32, float64 (0 to 1). A
            model that normalises images by their own range, or not at all (the manifest's `normalisation`), takes any
            real numbers. Computed in float32. An array of any package, also on a GPU, or a PIL image; see
            `preprocess.arrays.as_array`.
        k
            Neighbours of each node, from 1 to the nodes of a window; None for the model's default.
        inputs
            The model's other inputs by name, in the image's geometry and layout: the other views of the manifest's
            `views`, of the image's type; its `extra_inputs`, as they are.
        layout
            The axes of the image and of the result: ``"HWC"``, ``"CHW"``, ``"NHWC"`` or ``"NCHW"``. The images of a
            batch are restored one after the other.
        alpha
            True when the image's last channel is alpha. It is not restored: the result has it as it was, or resampled
            (bicubic) where the result has another size. That of a PIL image is known without this.
        progress
            Called with (tiles done, tiles in all).
        cancel
            A `threading.Event`, for instance: once it is set, the call ends before its next tile.
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
        CancelledError
            `cancel` was set.
        ClosedError
            The restorer has been closed.
        KeygraphError
            The model failed, or the image and its result do not fit in memory.
        """
        given = given_images(image, inputs, layout, alpha)
        checked_options = RestoreOptions(k, **options)
        checked_options.check(self.manifest)
        count = len(given.images)
        advice = partial(hint, layout, alpha, expected_channels(self.manifest, IMAGE_INPUT))
        results = [
            self._restore_array(one, others, checked_options, part_of(progress, index, count), cancel, advice)
            for index, (one, others) in enumerate(zip(given.images, given.inputs, strict=True))
        ]
        joined, notices = given.joined([one.image for one in results])
        lines = dict.fromkeys([*(line for one in results for line in one.notices), *notices])
        return replace(results[-1], image=joined, notices=tuple(lines))

    def many(
        self,
        images: Iterable[Any],
        k: int | None = None,
        *,
        layout: str = "HWC",
        alpha: bool = False,
        in_flight: int | None = None,
        return_exceptions: bool = False,
        cancel: CancelToken | None = None,
        **options: Unpack[RestoreKeywords],
    ) -> Generator[Any, None, None]:
        """Restore many images, in order, while the caller works with the results.

        Parameters
        ----------
        images
            Images, as for `restore`, or pairs (image, inputs). They are taken in the caller's thread, when needed.
        k, layout, alpha, cancel
            As for `restore`.
        in_flight
            Images that are restored at the same time, at least 1. None for 2, or with an engine for twice the batch
            that it was built for: images of one size that need no tiles then run in batches.
        return_exceptions
            True to yield a `KeygraphError` in the place of an image that cannot be restored, and to go on.
        **options
            As for `restore`.

        Yields
        ------
        numpy.ndarray
            As `__call__` returns it. Notices are issued as `KeygraphWarning`.

        Raises
        ------
        KeygraphError
            An image cannot be restored: in its place, after the results before it. This ends the iteration.
        """
        from .restore_many import restore_many

        in_flight = self.usual_in_flight if in_flight is None else in_flight
        one = partial(self.restore, k=k, layout=layout, alpha=alpha, **options)
        return restore_many(one, images, in_flight, return_exceptions=return_exceptions, cancel=cancel)

    def _restore_array(
        self,
        image: NDArray[Any],
        inputs: Mapping[str, NDArray[Any]],
        options: RestoreOptions,
        progress: Progress | None,
        cancel: CancelToken | None,
        advice: Callable[[NDArray[Any]], str],
    ) -> Restored:
        """Restore [H, W] or [H, W, C]; `advice` is for an image that does not fit the model."""
        try:
            try:
                request = make_request(self.manifest, image, inputs)
            except InputError as error:
                raise InputError(f"{error}{advice(image)}") from error
            scale = self.manifest.scale
            result = np.empty((request.height * scale, request.width * scale, request.channels.channels), request.dtype)
        except MemoryError as error:
            raise KeygraphError(
                f"{out_of_memory(error)} for an image of {' x '.join(map(str, image.shape))}; free memory, restore a "
                "part of the image, or its file with: keygraph restore"
            ) from error
        restored = self.restore_request(request, ArrayWriter(result), options, progress, cancel=cancel)
        return replace(restored, image=result[:, :, 0] if image.ndim == 2 and result.shape[2] == 1 else result)

    def restore_request(
        self,
        request: Request,
        writer: RegionWriter,
        options: RestoreOptions,
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
        cancel: CancelToken | None = None,
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
        progress, cancel
            As for `restore`.
        checkpoint
            Keeps the work done in tiles, and has that of an earlier run; its tiles are then taken. Whole images do
            not use it.

        Returns
        -------
        Restored
            Its image is empty.
        """
        check = partial(self._check, cancel)
        check()
        began = time.perf_counter()
        kept = checkpoint.choice if checkpoint is not None else None
        choice = kept or self.choose_tiles(request.height, request.width, options)
        with self._budget.reserved(request, writer, choice, check) as fitting:
            require_kept_tiles(
                checkpoint, choice, fitting, "the budget of memory is smaller than that of the earlier run"
            )
            restored = self._restore_request(request, writer, options, checked(progress, check), fitting, checkpoint)
        _log.debug(
            "restored %d x %d in %.3f s: tiles %d of %s, batch %d",
            *(request.height, request.width, time.perf_counter() - began),
            *(restored.plan.count, restored.tile, restored.batch),
        )
        return restored

    def _check(self, cancel: CancelToken | None) -> None:
        """Raise what ends a call: it was cancelled, or the model closed."""
        if self._closed:
            raise ClosedError
        check_cancelled(cancel)

    def _restore_request(
        self,
        request: Request,
        writer: RegionWriter,
        options: RestoreOptions,
        progress: Progress,
        choice: TileChoice,
        checkpoint: Checkpoint | None,
    ) -> Restored:
        """Restore a request, beginning with one choice of tiles."""
        manifest = self.manifest
        height, width = request.height, request.width
        k = resolve_k(manifest, options.k)
        notices = [*request.notices, *k_notices(manifest, k)]
        while True:
            exact = self._exact_model(choice, options, notices)
            try:
                if exact is not None:
                    from .tiling.exact.run import restore_exactly

                    choice = replace(choice, batch=1)
                    sweeps = None
                    if checkpoint is not None:
                        checkpoint.start(choice)
                        sweeps = checkpoint.sweeps
                    side, folder = max(choice.tile), options.scratch_folder
                    grid = restore_exactly(exact, manifest, request, writer, side, folder, progress, sweeps)
                    plan, tile, overlap = grid.plan, grid.tile, grid.overlap
                else:
                    alone = choice.plan.count == 1
                    session = self._batches.joined(choice.batch) if alone else self.session
                    restore_tiles(session, request, writer, choice, k, progress, checkpoint)
                    plan, overlap = choice.plan, choice.overlap
                    tile = plan.rows.tile, plan.columns.tile
                break
            except (SessionMemoryError, MemoryError) as error:
                less, notice = smaller_choice(manifest, height, width, choice, error)
                require_kept_tiles(checkpoint, choice, less, str(error))
                choice = less
                _log.warning("%s", notice)
                notices.append(notice)
        if exact is None:
            notices += tile_notices(manifest, choice)
        elif options.overlap != "auto":
            notices.append("the exact result determines how tiles overlap; the overlap asked for is ignored")
        neighbours = manifest.neighbours
        return Restored(
            image=np.empty(0),
            k=k if k is not None or neighbours is None else neighbours.default,
            plan=plan,
            tile=tile,
            overlap=overlap if plan.count > 1 else 0,
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
        most = self._budget.run_pixels
        choice = choose(
            self.manifest,
            height,
            width,
            tile=options.tile,
            overlap=options.overlap,
            batch=options.batch,
            whole_pixels=whole_pixels(self.manifest, self.session, most),
            run_pixels=run_pixels(self.manifest, self.session, most),
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
        if choice.plan.count == 1 or not self.manifest.global_statistics or options.global_statistics == "tile":
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
