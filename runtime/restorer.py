"""Restoring an array, whatever its size: pad, cut, run, check, join."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, KeygraphError
from ..manifest import Manifest
from .channels import Channels, adapt
from .notices import warn
from .padding import reflected
from .session import Inputs, Session, SessionMemoryError, resolve_k, run_batches
from .sizing import Sizing, choose, smaller
from .tiling import Plan, blend

#: Elements of one array; many libraries below count them in 32 bits.
MAX_ELEMENTS = 2**31 - 1

#: Floating-point images go from 0 to 1. Noise leaves that range, but not by this much.
FLOAT_LIMIT = 8.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Restored:
    """A restored image and how it came about.

    Attributes
    ----------
    image
        [H * scale, W * scale] or [H * scale, W * scale, C], of the type that was given.
    k
        Neighbours of each node, None for a model without a key graph.
    plan
        The tiles; ``len(plan.tiles) == 1`` for a whole image.
    overlap
        The least overlap of two tiles in pixels; 0 for a whole image.
    batch
        Tiles that ran together.
    padded
        True when the image was reflected at its edges to fit the model's size rule, and cut back.
    notices
        Lines that a user should see.
    """

    image: NDArray[Any]
    k: int | None
    plan: Plan
    overlap: int
    batch: int
    padded: bool
    notices: tuple[str, ...]


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
        tile: int | str = "auto",
        overlap: int | str = "auto",
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Return the restored image; its notices become `KeygraphWarning`. For the rest see `restore`."""
        restored = self.restore(image, k, tile=tile, overlap=overlap, batch=batch, progress=progress)
        for notice in restored.notices:
            warn(notice)
        return restored.image

    def restore(
        self,
        image: NDArray[Any],
        k: int | None = None,
        *,
        tile: int | str = "auto",
        overlap: int | str = "auto",
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Restored:
        """Restore one image.

        Parameters
        ----------
        image
            [H, W] (gray) or [H, W, C], without alpha: uint8 (0 to 255), uint16 (0 to 65535), or float16, float32,
            float64 (0 to 1). Computed in float32.
        k
            Neighbours of each node, from 1 to the nodes of a window; None for the model's default.
        tile
            Side of the tiles, a multiple of the model's size rule; ``"none"`` for the whole image at once; ``"auto"``
            chooses, and takes smaller ones when memory runs out. A tile that was asked for is never changed.
        overlap
            Least overlap of neighbouring tiles, a multiple of the size rule, at most half a tile; or ``"auto"``.
        batch
            Tiles that run together, at least 1; None chooses. It does not change the result, and is halved when memory
            runs out.
        progress
            Called with (tiles done, tiles in all).

        Returns
        -------
        Integers are rounded to nearest, ties to even, and clipped to their range. Floats are not clipped.

        Raises
        ------
        InputError
            The image, k, tile, overlap or batch is not possible, or memory does not suffice for the tile asked for.
        KeygraphError
            The model gave NaN or infinity, or failed.
        """
        image = np.asarray(image)
        number = resolve_k(self.manifest, k)
        channels = check_image(self.manifest, image)
        pixels = image[:, :, None] if image.ndim == 2 else image
        height, width = image.shape[:2]
        sizing = choose(self.manifest, height, width, tile=tile, overlap=overlap, batch=batch)
        notices = [channels.notice] if channels.notice else []
        notices += _k_notices(self.manifest, number)
        while True:
            try:
                result = self._run(pixels, channels, sizing, number, progress)
                break
            except SessionMemoryError as error:
                sizing, notice = _retreat(self.manifest, height, width, sizing, error)
                notices.append(notice)
        notices += _tile_notices(self.manifest, sizing)
        neighbours = self.manifest.neighbours
        return Restored(
            image=result[:, :, 0] if image.ndim == 2 and result.shape[2] == 1 else result,
            k=number if number is not None or neighbours is None else neighbours.default,
            plan=sizing.plan,
            overlap=sizing.overlap if len(sizing.plan.tiles) > 1 else 0,
            batch=sizing.batch,
            padded=(sizing.plan.rows.length, sizing.plan.columns.length) != (height, width),
            notices=tuple(notices),
        )

    def _run(
        self,
        image: NDArray[Any],
        channels: Channels,
        sizing: Sizing,
        k: int | None,
        progress: Progress | None,
    ) -> NDArray[Any]:
        """Restore [H, W, C] with one way of cutting."""
        scale = self.manifest.scale
        height, width = image.shape[0] * scale, image.shape[1] * scale
        result = np.empty((height, width, channels.channels), dtype=image.dtype)
        tiles = self._restored_tiles(image, channels, sizing, k, progress)
        for top, band in blend(sizing.plan, tiles, scale):
            rows = min(band.shape[1], height - top)
            if rows > 0:
                result[top : top + rows] = from_model(
                    np.moveaxis(band[:, :rows, :width], 0, 2), self.manifest, image.dtype
                )
        return result

    def _restored_tiles(
        self,
        image: NDArray[Any],
        channels: Channels,
        sizing: Sizing,
        k: int | None,
        progress: Progress | None,
    ) -> Iterator[NDArray[np.float32]]:
        """Yield float32[channels, h, w] for every tile, each checked and valid until the next one is asked for."""
        plan, corners = sizing.plan, sizing.plan.tiles
        planes, filled = channels.planes, self.manifest.shape is not None
        # What limits a batch counts planes, however many of them make a tile.
        together = sizing.batch if planes == 1 else max(1, sizing.batch // planes)
        groups = [corners[start : start + together] for start in range(0, len(corners), together)]
        cut = Cutter(image, plan)

        def batches() -> Iterator[Inputs]:
            for group in groups:
                images = np.concatenate([channels.split(to_model(cut(y, x), self.manifest)) for y, x in group])
                for part in _parts(images, sizing.most or len(images), filled):
                    yield (part,)

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
                    if not np.isfinite(of_tile).all():
                        raise KeygraphError(
                            f"the model gave NaN or infinity in the tile at row {y}, column {x}; "
                            "look for the cause with: keygraph compare MODEL CHECKPOINT --inputs IMAGE"
                        )
                    yield channels.join(of_tile)

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


class Cutter:
    """Cuts tiles out of an image that is reflected at its bottom and right edge.

    Parameters
    ----------
    image
        [H, W, C].
    plan
        The tiles.
    """

    def __init__(self, image: NDArray[Any], plan: Plan) -> None:
        self._image, self._plan = image, plan
        self._rows = reflected(image.shape[0], plan.rows.length)
        self._columns = reflected(image.shape[1], plan.columns.length)

    def __call__(self, y: int, x: int) -> NDArray[Any]:
        """Return the tile with this corner; a view of the image where nothing is reflected."""
        bottom, right = y + self._plan.rows.tile, x + self._plan.columns.tile
        height, width = self._image.shape[:2]
        if bottom <= height and right <= width:
            return self._image[y:bottom, x:right]
        return self._image[self._rows[y:bottom, None], self._columns[x:right]]


def _parts(images: NDArray[np.float32], most: int, filled: bool) -> Iterator[NDArray[np.float32]]:
    """Cut images into batches of at most so many; `filled`: exactly so many, the last image repeated as need be."""
    for start in range(0, len(images), most):
        part = images[start : start + most]
        lacking = most - len(part) if filled else 0
        yield np.concatenate([part, np.repeat(part[-1:], lacking, axis=0)]) if lacking else part


def check_image(manifest: Manifest, image: NDArray[Any]) -> Channels:
    """Check that a model can restore an array, before any work.

    Raises
    ------
    InputError
        Its type, rank, size, channels or values are not possible.
    """
    white_level(image.dtype)
    if image.ndim not in (2, 3):
        raise InputError(f"the image has shape {image.shape}; give [H, W] or [H, W, C]")
    if 0 in image.shape:
        raise InputError(f"the image is empty: its shape is {image.shape}")
    channels = check_size(manifest, image.shape[0], image.shape[1], 1 if image.ndim == 2 else image.shape[2])
    if image.dtype.kind == "f":
        low, high = float(image.min()), float(image.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError("the image holds NaN or infinity; replace those values")
        if max(-low, high) > FLOAT_LIMIT:
            raise InputError(
                f"the image holds values from {low:g} to {high:g}, but floating-point images go from 0 to 1; "
                "divide it by its white level"
            )
    return channels


def check_size(manifest: Manifest, height: int, width: int, channels: int) -> Channels:
    """Check what a model makes of an image's size and channels; raises `InputError`."""
    adapted = adapt(manifest, channels)
    elements = height * width * manifest.scale**2 * adapted.channels
    if elements > MAX_ELEMENTS:
        raise InputError(
            f"the restored image would have {elements:,} values, more than {MAX_ELEMENTS:,}; "
            "cut the image into parts first"
        )
    return adapted


def white_level(dtype: np.dtype[Any]) -> float:
    """Return the value of white in arrays of a type; raises `InputError` for a type that images do not have."""
    if dtype.kind == "u" and dtype.itemsize in (1, 2):
        return float(np.iinfo(dtype).max)
    if dtype.kind == "f" and dtype.itemsize in (2, 4, 8):
        return 1.0
    raise InputError(f"the image's type is {dtype}; it must be uint8, uint16, float16, float32 or float64")


def to_model(pixels: NDArray[Any], manifest: Manifest) -> NDArray[np.float32]:
    """Map an image's values to the manifest's `value_range`, in float32."""
    low, high = manifest.value_range
    values = pixels.astype(np.float32)
    values /= np.float32(white_level(pixels.dtype))
    if (low, high) != (0.0, 1.0):
        values = values * np.float32(high - low) + np.float32(low)
    return values


def from_model(values: NDArray[np.float32], manifest: Manifest, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Map model values back to an image's type: integers rounded to nearest even and clipped, floats as they are."""
    low, high = manifest.value_range
    if (low, high) != (0.0, 1.0):
        values = (values - np.float32(low)) / np.float32(high - low)
    if dtype.kind == "u":
        white = np.float32(white_level(dtype))
        values = np.rint(np.clip(values * white, 0, white))
    return values.astype(dtype)


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
        notices.append("this model takes statistics over the whole image: tiles change its result")
    if sizing.overlap == 0:
        notices.append("tiles do not overlap: seams are possible")
    return notices
