"""Everything that one restoration is made from: the image, what the model takes beside it, and how both are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...manifest import IMAGE_INPUT, Manifest
from ..backends.base import Inputs
from .channels import Channels, adapt, count
from .normalization import Normalisation, fractions, normalisation, result_type
from .padding import reflected

#: Elements of one array; many libraries below count them in 32 bits.
MAX_ELEMENTS = 2**31 - 1

#: Height, width and channels (without alpha).
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """What is restored, checked against a model's manifest.

    Attributes
    ----------
    image
        [H + margin, W + margin, C] for a result of H x W over the manifest's scale; the views of several pictures are
        joined in C.
    extras
        float32[H + margin, W + margin, C] for each of the manifest's `extra_inputs`, each with its own margin.
    margins
        Of the image and of the extras.
    channels, normalise
        How the image's samples become a model's tensor.
    dtype
        Of the result.
    notices
        Lines that a user should see.
    """

    image: NDArray[Any]
    extras: tuple[NDArray[np.float32], ...]
    margins: tuple[tuple[int, int], ...]
    channels: Channels
    normalise: Normalisation
    dtype: np.dtype[Any]
    notices: tuple[str, ...]

    @property
    def height(self) -> int:
        """Of the result, over the manifest's scale."""
        return self.image.shape[0] - self.margins[0][0]

    @property
    def width(self) -> int:
        """Of the result, over the manifest's scale."""
        return self.image.shape[1] - self.margins[0][1]


def scene(manifest: Manifest, image: NDArray[Any], inputs: Mapping[str, NDArray[Any]] | None = None) -> Scene:
    """Check what a user gives, before any work.

    Parameters
    ----------
    manifest
        The model's.
    image
        [H, W] or [H, W, C] without alpha; the first of the manifest's `views`, where it has any.
    inputs
        The other views and the `extra_inputs` by name, [H, W] or [H, W, C] each.

    Raises
    ------
    InputError
        One is missing or unknown, or its type, rank, size, channels or values are not possible.
    """
    check_names(manifest, inputs or {})
    given = {IMAGE_INPUT: image, **(inputs or {})}
    planes = {name: _planes(name, np.asarray(values)) for name, values in given.items()}
    channels = check_sizes(manifest, {name: values.shape for name, values in planes.items()})
    views = [planes[IMAGE_INPUT], *(planes[name] for name in manifest.views[1:])]
    for name, view in zip(manifest.views[1:], views[1:], strict=True):
        if view.dtype != views[0].dtype:
            raise InputError(f"the {name} view is {view.dtype}, but the image {views[0].dtype}; give both in one type")
    joined = views[0] if len(views) == 1 else np.concatenate(views, axis=2)
    normalise = normalisation(manifest, joined)
    extras = [fractions(planes[extra.name], extra.name) for extra in manifest.extra_inputs]
    said = (channels.notice, normalise.notice, *(notice for _, notice in extras))
    return Scene(
        image=joined,
        extras=tuple(values for values, _ in extras),
        margins=(manifest.margin, *(extra.margin for extra in manifest.extra_inputs)),
        channels=channels,
        normalise=normalise,
        dtype=result_type(manifest, joined.dtype),
        notices=tuple(line for line in said if line),
    )


def streamed_scene(manifest: Manifest, image: Any) -> Scene:
    """A scene of one image that is not in memory: something with an array's shape, type, slices, minimum and maximum.

    Raises
    ------
    InputError
        As `scene`.
    """
    check_names(manifest, {})
    channels = check_sizes(manifest, {IMAGE_INPUT: image.shape})
    normalise = normalisation(manifest, image)
    return Scene(
        image=image,
        extras=(),
        margins=(manifest.margin,),
        channels=channels,
        normalise=normalise,
        dtype=result_type(manifest, image.dtype),
        notices=tuple(line for line in (channels.notice, normalise.notice) if line),
    )


def input_names(manifest: Manifest) -> tuple[str, ...]:
    """What a model takes beside the image, in the order in which a user should hear of it."""
    return (*manifest.views[1:], *(extra.name for extra in manifest.extra_inputs))


def check_names(manifest: Manifest, names: Mapping[str, Any]) -> None:
    """Check that what is given beside the image is what the model takes; raises `InputError`."""
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
    """Check the sizes of the image and of all other inputs, which a file tells before it is decoded.

    Parameters
    ----------
    manifest
        The model's.
    sizes
        ``"image"`` and each of `input_names`.

    Returns
    -------
    The way of the image's channels through the model.

    Raises
    ------
    InputError
        They do not go together, or not with the model, or the result would be too large.
    """
    image = sizes[IMAGE_INPUT]
    for name in manifest.views[1:]:
        if sizes[name] != image:
            raise InputError(
                f"the {name} view is {_words(sizes[name])}, but the image ({manifest.views[0]}) is {_words(image)}; "
                "give views of one size"
            )
    channels = adapt(manifest, image[2])
    height, width = result_size(manifest, *image[:2])
    for extra in manifest.extra_inputs:
        expected = (height + extra.margin[0], width + extra.margin[1], extra.channels)
        if sizes[extra.name] != expected:
            raise InputError(
                f"the {extra.name} is {_words(sizes[extra.name])}, but for an image of {_words(image)} it must be "
                f"{_words(expected)}"
            )
    elements = height * width * manifest.scale**2 * channels.channels
    if elements > MAX_ELEMENTS:
        raise InputError(
            f"the restored image would have {elements:,} values, more than {MAX_ELEMENTS:,}; "
            "cut the image into parts first"
        )
    return channels


def result_size(manifest: Manifest, height: int, width: int) -> tuple[int, int]:
    """Height and width of an image without the manifest's margin; raises `InputError` where nothing is left."""
    down, across = manifest.margin
    if height <= down or width <= across:
        raise InputError(
            f"the image is {height} x {width} (height x width), but this model's images are {down} x {across} larger "
            f"than their results; give at least {down + 1} x {across + 1}"
        )
    return height - down, width - across


class Windows:
    """Cuts a scene that is reflected at its bottom and right edge; what is cut out is as the model takes it.

    Parameters
    ----------
    given
        What is cut.
    height, width
        Padded size of the result, over the manifest's scale.
    """

    def __init__(self, given: Scene, height: int, width: int) -> None:
        self._given = given
        self._sources = [
            (
                values,
                margin,
                reflected(values.shape[0], height + margin[0]),
                reflected(values.shape[1], width + margin[1]),
            )
            for values, margin in zip((given.image, *given.extras), given.margins, strict=True)
        ]

    def __call__(self, top: int, left: int, height: int, width: int) -> Inputs:
        """Return what the model needs for a window of the result: the image's planes, and 1 plane of every extra.

        float32[planes, C, height + margin, width + margin] each.
        """
        image, *extras = (
            _cut(values, rows[top : top + height + down], columns[left : left + width + across])
            for values, (down, across), rows, columns in self._sources
        )
        images = self._given.channels.split(self._given.normalise(image))
        return (images, *(np.moveaxis(extra, 2, 0)[None] for extra in extras))


def _cut(values: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
    """These rows and columns; a view where nothing is reflected."""
    top, left = rows.min(), columns.min()
    # By slices first: what is no array, but a file, can be cut in no other way.
    around = values[top : rows.max() + 1, left : columns.max() + 1]
    if around.shape[:2] == (len(rows), len(columns)) and rows[0] == top and columns[0] == left:
        return around
    return around[rows[:, None] - top, columns - left]


def _planes(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """[H, W] as [H, W, 1]; raises `InputError` for what is neither [H, W] nor [H, W, C]."""
    if values.ndim not in (2, 3):
        raise InputError(f"the {name} has shape {values.shape}; give [H, W] or [H, W, C]")
    if 0 in values.shape:
        raise InputError(f"the {name} is empty: its shape is {values.shape}")
    return values[:, :, None] if values.ndim == 2 else values


def _words(size: Size) -> str:
    return f"{size[0]} x {size[1]} (height x width) with {count(size[2])}"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return " and ".join(names)
