"""Open a Zarr store: find its image, and say which axes are rows, columns and channels."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError, KeygraphError, MissingDependencyError
from ....files import holds_store
from ....installation import install_line
from .axes import read_region
from .multiscales import Multiscale, NotRead, parse

#: Most channels that an axis of an array without names has, unless the model takes as many.
_FEW = 4

#: Oldest Python that the library runs on.
_PYTHON = (3, 11)

#: Types of samples that pictures have.
_TYPES = (np.uint8, np.uint16, np.float32, np.float64)


@dataclass(frozen=True)
class Stored:
    """An image in a store.

    Attributes
    ----------
    array
        Its array, a `zarr.Array`.
    axes
        Names of the array's axes; those of a plain array are ``y``, ``x`` and ``c``.
    image
        What OME-Zarr says of it; None for a plain array.
    notices
        Lines to show to the user.
    levels
        Sizes of the levels, the largest first.
    """

    array: Any
    axes: tuple[str, ...]
    image: Multiscale | None
    notices: tuple[str, ...]
    levels: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        sizes = dict(zip(self.axes, self.array.shape, strict=True))
        return sizes["y"], sizes["x"], sizes.get("c", 1)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples in this machine's byte order."""
        native: np.dtype[Any] = np.dtype(self.array.dtype).newbyteorder("=")
        return native

    @property
    def step(self) -> tuple[int, int]:
        """Height and width of whole chunks that are read together: 512 pixels or more."""
        sizes = dict(zip(self.axes, self.array.chunks, strict=True))
        height, width = (size * max(1, 512 // size) for size in (sizes["y"], sizes["x"]))
        return height, width

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Return the rectangle at (`top`, `left`), [height, width, C]; see `RegionReader.read`.

        Parameters
        ----------
        top, left, height, width
            The rectangle in pixels.
        """
        return read_region(self.array, self.axes, top, left, height, width).astype(self.dtype, copy=False)


def library(path: Path) -> Any:
    """Import the package zarr.

    Parameters
    ----------
    path
        The store, for the message.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        return importlib.import_module("zarr")
    except ModuleNotFoundError as error:
        newer = f" (it takes Python {'.'.join(map(str, _PYTHON))})" if sys.version_info < _PYTHON else ""
        raise MissingDependencyError(
            f"{path} needs zarr{newer}; install it with: {install_line('zarr')}; or give a TIFF"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise `InputError` in place of the library's errors about a damaged store."""
    try:
        yield
    except NotRead as error:
        raise InputError(f"{path} {error}") from error
    except (KeygraphError, MemoryError):
        raise
    except Exception as error:  # Whatever the damage leads the library to.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
        raise InputError(f"{path} is damaged, or no Zarr store ({reason}); give a whole store") from error


def open_image(path: Path, channels: int | None = None) -> Stored:
    """Open the image of a store.

    Parameters
    ----------
    path
        The store, or a group or an array in it.
    channels
        Number of channels that the model takes, which tells the axes of a plain array.

    Raises
    ------
    InputError
        There is no image or there are several, it is a stack, its axes are not known, or its samples are of a type
        that is not read.
    MissingDependencyError
        The package zarr is not installed.
    """
    zarr = library(path)
    if not holds_store(path):
        raise InputError(f"{path} holds no zarr.json, .zgroup or .zarray, so it is no Zarr store; give a whole one")
    with reading(path):
        opened = zarr.open(os.fspath(path), mode="r")
        find = _plain if isinstance(opened, zarr.Array) else _in_group
        stored = find(path, opened, channels)
        if stored.dtype not in _TYPES:
            names = ", ".join(np.dtype(kind).name for kind in _TYPES)
            raise InputError(f"{path} holds samples of type {stored.array.dtype}; convert it to one of {names}")
        if 0 in stored.array.shape:
            raise InputError(f"{path} holds no samples ({_sizes(stored.array)})")
        return stored


def _in_group(path: Path, group: Any, channels: int | None) -> Stored:
    """Return the image of a group: by OME-Zarr's metadata, or the only array or image in it."""
    attributes = group.attrs.asdict()
    image = parse(attributes)
    if image is not None:
        return _levels(path, group, image)
    if {"plate", "well"} & {*attributes, *attributes.get("ome", ())}:
        raise InputError(f"{path} is a plate of many images; give one of them, such as {path}/A/1/0")
    arrays = {name: array for name, array in group.arrays()}  # noqa: C416 - a generator of pairs
    inner = [name for name, other in group.groups() if parse(other.attrs.asdict()) is not None]
    if len(arrays) + len(inner) != 1:
        what = "no image" if not arrays and not inner else "several images"
        listed = f"; give one of them: {', '.join(f'{path}/{name}' for name in sorted([*arrays, *inner]))}"
        raise InputError(f"{path} holds {what}{listed if arrays or inner else ''}")
    if inner:
        return _in_group(path / inner[0], group[inner[0]], channels)
    ((name, array),) = arrays.items()
    return _plain(path / name, array, channels)


def _levels(path: Path, group: Any, image: Multiscale) -> Stored:
    levels = [group[level] for level in image.paths]
    array = levels[0]
    if len(array.shape) != len(image.axes):
        raise NotRead(f"has damaged metadata ({len(image.axes)} axes, and an array of {_sizes(array)})")
    _check_one_plane(path, image.names, array)
    notices = []
    images = group.attrs.asdict().get("ome", group.attrs.asdict())["multiscales"]
    if len(images) > 1:
        notices.append(f"only the first of {len(images)} images")
    dropped = [name for name, _ in group.groups()]
    known = {"ome", "multiscales", "omero", "_creator"}
    dropped += [f"attribute {name}" for name in group.attrs.asdict() if name not in known]
    if dropped:
        notices.append(f"dropped: {', '.join(dropped)}")
    places = [image.names.index(name) for name in "yx"]
    shapes = tuple(tuple(int(level.shape[place]) for place in places) for level in levels)
    return Stored(array, image.names, image, tuple(notices), shapes)


def _check_one_plane(path: Path, axes: tuple[str, ...], array: Any) -> None:
    for name, size in zip(axes, array.shape, strict=True):
        if name not in ("y", "x", "c") and size != 1:
            raise InputError(
                f"{path} is a stack: {size} planes along {name}; a model restores one plane, so store each as an image"
            )


def _plain(path: Path, array: Any, channels: int | None) -> Stored:
    """Return an array without metadata of an image, and say how its axes are taken."""
    shape = array.shape
    attributes = array.attrs.asdict()
    names = getattr(array.metadata, "dimension_names", None) or attributes.pop("_ARRAY_DIMENSIONS", None)
    given = tuple(str(name).lower() for name in names or ())
    axes: tuple[str, ...]
    if len(given) == len(set(given)) == len(shape) and {"y", "x"} <= set(given):
        axes = given
        _check_one_plane(path, axes, array)
    elif len(shape) == 2:
        axes = ("y", "x")
    elif len(shape) == 3:
        axes = _guessed(path, array, channels)
    else:
        raise InputError(
            f"{path} has {len(shape)} dimensions ({_sizes(array)}); give [H, W], [H, W, C], [C, H, W] or an OME-Zarr"
        )
    notices = [] if len(shape) == 2 else [f"axes of {_sizes(array)} taken as {', '.join(axes)}"]
    if attributes:
        notices.append(f"dropped: attributes {', '.join(attributes)}")
    sizes = dict(zip(axes, shape, strict=True))
    return Stored(array, axes, None, tuple(notices), ((sizes["y"], sizes["x"]),))


def _guessed(path: Path, array: Any, channels: int | None) -> tuple[str, ...]:
    """Return the axes of an array without names: the channels are the first or the last axis, if only one is short."""
    first, last = (size <= _FEW or size == channels for size in (array.shape[0], array.shape[2]))
    if first != last:
        return ("c", "y", "x") if first else ("y", "x", "c")
    why = (
        "both its first and its last axis may be channels" if first else "neither its first nor its last axis is short"
    )
    raise InputError(
        f"{path} is {_sizes(array)}, and {why}; name the axes (dimension_names y, x and c), or store it as OME-Zarr"
    )


def _sizes(array: Any) -> str:
    return " x ".join(map(str, array.shape))
