"""A restoration request: an image and the model's extra inputs, checked against the manifest, and read tile by tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError
from ...manifest import IMAGE_INPUT, Manifest
from ..backends.base import Inputs
from ..io.scratch_file import ScratchFile
from .arrays import as_array
from .channels import Channels, adapt, count
from .normalization import Normalisation, fractions, normalisation, result_type
from .padding import reflected

#: Height, width and channels, without alpha.
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Request:
    """The image to restore and the model's extra inputs, checked against the manifest.

    Attributes
    ----------
    image
        [H + margin, W + margin, C] for a result of (H, W) times the manifest's scale. Several views are concatenated
        along C. A `ScratchFile` where the image is not kept in memory.
    extras
        float32[H + margin, W + margin, C] for each of the manifest's `extra_inputs`, each with its own margin.
    margins
        (rows, columns) of the image and of each extra input.
    channels
        How the image's channels map to the model's.
    normalise
        Maps samples to the model's value range.
    dtype
        Type of the result.
    notices
        Lines to show to the user.
    """

    image: NDArray[Any] | ScratchFile
    extras: tuple[NDArray[np.float32], ...]
    margins: tuple[tuple[int, int], ...]
    channels: Channels
    normalise: Normalisation
    dtype: np.dtype[Any]
    notices: tuple[str, ...]

    @property
    def height(self) -> int:
        """Height of the result, divided by the manifest's scale."""
        return int(self.image.shape[0]) - self.margins[0][0]

    @property
    def width(self) -> int:
        """Width of the result, divided by the manifest's scale."""
        return int(self.image.shape[1]) - self.margins[0][1]


def make_request(
    manifest: Manifest, image: ArrayLike | ScratchFile, inputs: Mapping[str, ArrayLike] | None = None
) -> Request:
    """Check an image and the extra inputs against a model, before any work.

    Parameters
    ----------
    manifest
        The model's manifest.
    image
        [H, W] or [H, W, C] without alpha; the first of the manifest's `views`, where it has any.
    inputs
        The other views and the `extra_inputs` by name, [H, W] or [H, W, C] each.

    Returns
    -------
    Request

    Raises
    ------
    InputError
        An input is missing or unknown, or its type, rank, size, channels or values do not fit the model.
    """
    check_names(manifest, inputs or {})
    given = {IMAGE_INPUT: image, **(inputs or {})}
    arrays = {name: _with_channels(name, values) for name, values in given.items()}
    channels = check_sizes(manifest, {name: values.shape for name, values in arrays.items()})
    joined = _joined_views(manifest, arrays)
    normalise = normalisation(manifest, joined)
    extras = [fractions(cast("NDArray[Any]", arrays[extra.name]), extra.name) for extra in manifest.extra_inputs]
    notices = (channels.notice, normalise.notice, *(notice for _, notice in extras))
    return Request(
        image=joined,
        extras=tuple(values for values, _ in extras),
        margins=(manifest.margin, *(extra.margin for extra in manifest.extra_inputs)),
        channels=channels,
        normalise=normalise,
        dtype=result_type(manifest, joined.dtype),
        notices=tuple(line for line in notices if line),
    )


def input_names(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of a model's inputs other than the image: views first, then extra inputs."""
    return (*manifest.views[1:], *(extra.name for extra in manifest.extra_inputs))


def expected_channels(manifest: Manifest, name: str) -> int:
    """Return how many channels a model expects of ``"image"`` or of another input."""
    extras = {extra.name: extra.channels for extra in manifest.extra_inputs}
    of_each_view = manifest.in_channels // (len(manifest.views) or 1)
    return of_each_view if name == IMAGE_INPUT else extras.get(name, of_each_view)


def check_names(manifest: Manifest, names: Mapping[str, Any]) -> None:
    """Check that the inputs given beside the image are those that the model takes.

    Raises
    ------
    InputError
        One is missing or unknown.
    """
    wanted = input_names(manifest)
    missing = [name for name in wanted if name not in names]
    if missing:
        options = " ".join(f"--input {name}=FILE" for name in missing) + f" (in Python: inputs={{{missing[0]!r}: ...}})"
        raise InputError(
            f"this model ({manifest.architecture}) takes {_listed(wanted)} beside the image, and {_listed(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; give {options}"
        )
    unknown = [name for name in names if name not in wanted]
    if unknown:
        takes = f"it takes {_listed(wanted) if wanted else 'nothing'} beside the image"
        itself = f", which is the {manifest.views[0]} view itself" if manifest.views else ""
        raise InputError(f"this model ({manifest.architecture}) has no input {unknown[0]}; {takes}{itself}")


def check_sizes(manifest: Manifest, sizes: Mapping[str, Size]) -> Channels:
    """Check the sizes of the image and of all other inputs; file headers give them before anything is decoded.

    Parameters
    ----------
    manifest
        The model's manifest.
    sizes
        Sizes of ``"image"`` and of each of `input_names`.

    Returns
    -------
    Channels
        How the image's channels map to the model's.

    Raises
    ------
    InputError
        The sizes do not match each other or the model.
    """
    image = sizes[IMAGE_INPUT]
    for name in manifest.views[1:]:
        if sizes[name] != image:
            raise InputError(
                f"the {name} view is {_words(sizes[name])}, but the image ({manifest.views[0]}) is {_words(image)}; "
                "give views of one size"
            )
    channels = adapt(manifest, image[2])
    height, width = result_size(manifest, image[0], image[1])
    for extra in manifest.extra_inputs:
        expected = (height + extra.margin[0], width + extra.margin[1], extra.channels)
        if sizes[extra.name] != expected:
            raise InputError(
                f"the {extra.name} is {_words(sizes[extra.name])}, but for an image of {_words(image)} it must be "
                f"{_words(expected)}"
            )
    return channels


def result_size(manifest: Manifest, height: int, width: int) -> tuple[int, int]:
    """Return the height and width of an image without the manifest's margin.

    Parameters
    ----------
    manifest
        The model's manifest.
    height, width
        Size of the image in pixels.

    Raises
    ------
    InputError
        The image is not larger than the margin.
    """
    down, across = manifest.margin
    if height <= down or width <= across:
        raise InputError(
            f"the image is {height} x {width} (height x width), but this model's images are {down} x {across} larger "
            f"than their results; give at least {down + 1} x {across + 1}"
        )
    return height - down, width - across


class TileReader:
    """Reads tiles of a request as the model takes them: normalised, and padded by reflection at the bottom and right.

    Parameters
    ----------
    request
        The image and its extra inputs.
    height, width
        Padded size of the result, divided by the manifest's scale.
    """

    def __init__(self, request: Request, height: int, width: int) -> None:
        self._request = request
        self._sources = [
            (
                values,
                margin,
                reflected(values.shape[0], height + margin[0]),
                reflected(values.shape[1], width + margin[1]),
            )
            for values, margin in zip((request.image, *request.extras), request.margins, strict=True)
        ]

    def __call__(self, top: int, left: int, height: int, width: int) -> Inputs:
        """Return the model's inputs for one tile of the result.

        Parameters
        ----------
        top, left, height, width
            The tile in pixels of the padded result, divided by the manifest's scale.

        Returns
        -------
        float32[planes, C, height + margin, width + margin] for the image, and the same with one plane for each extra
        input.
        """
        image, *extras = (
            _padded_part(values, rows[top : top + height + down], columns[left : left + width + across])
            for values, (down, across), rows, columns in self._sources
        )
        images = self._request.channels.split(self._request.normalise(image))
        return (images, *(np.moveaxis(extra, 2, 0)[None] for extra in extras))


def _padded_part(values: NDArray[Any] | ScratchFile, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
    """Return these rows and columns; a view of an array where nothing is reflected."""
    top, left = rows.min(), columns.min()
    # Slices first: they are all that a `ScratchFile` supports.
    around: NDArray[Any] = values[top : rows.max() + 1, left : columns.max() + 1]
    if around.shape[:2] == (len(rows), len(columns)) and rows[0] == top and columns[0] == left:
        return around
    part: NDArray[Any] = around[rows[:, None] - top, columns - left]
    return part


def _with_channels(name: str, values: ArrayLike | ScratchFile) -> NDArray[Any] | ScratchFile:
    """Return [H, W] as [H, W, 1]; raise `InputError` for what is neither [H, W] nor [H, W, C]."""
    if isinstance(values, ScratchFile):
        return values
    array = values if type(values) is np.ndarray else as_array(values, name)
    if array.ndim not in (2, 3):
        raise InputError(f"the {name} has shape {array.shape}; give [H, W] or [H, W, C]")
    if 0 in array.shape:
        raise InputError(f"the {name} is empty: its shape is {array.shape}")
    return array[:, :, None] if array.ndim == 2 else array


def _joined_views(manifest: Manifest, arrays: Mapping[str, NDArray[Any] | ScratchFile]) -> NDArray[Any] | ScratchFile:
    """Concatenate the views along the channels."""
    image = arrays[IMAGE_INPUT]
    others = {name: arrays[name] for name in manifest.views[1:]}
    for name, view in others.items():
        if view.dtype != image.dtype:
            raise InputError(f"the {name} view is {view.dtype}, but the image {image.dtype}; give both in one type")
    if not others:
        return image
    return np.concatenate([cast("NDArray[Any]", view) for view in (image, *others.values())], axis=2)


def _words(size: Size) -> str:
    return f"{size[0]} x {size[1]} (height x width) with {count(size[2])}"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(names)
