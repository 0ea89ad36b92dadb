"""Write images into Zarr stores, chunk by chunk: OME-Zarr with the levels of a pyramid, or a plain array."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ....files import STORE_SUFFIX, atomic_folder, check_parent, holds_store, is_folder, status
from ..encoding import Encoding
from ..images import Metadata, Picture
from ..images.metadata.fields import LEVELS
from ..regions import ArrayReader, RegionReader
from ..scratch_file import ScratchFile
from . import multiscales
from .axes import read_region, write_region
from .multiscales import Multiscale
from .opening import library
from .reading import CONTAINER, TITLE

#: What the name of an OME-Zarr ends with; other names that end in `STORE_SUFFIX` are plain arrays.
_OME_SUFFIX = f".ome{STORE_SUFFIX}"

#: Side of a chunk in pixels.
_CHUNK = 512

#: Most channels that are stored in one chunk.
_JOINED_CHANNELS = 4

#: Compressions, of `encoding.COMPRESSIONS`.
_COMPRESSIONS = ("none", "deflate", "zstd")

_DEFAULT = "zstd"


def is_target(path: Path) -> bool:
    """Return whether a result of this name is written as a Zarr store."""
    return path.suffix.lower() == STORE_SUFFIX


def check_target(path: Path) -> None:
    """Check that a store can be written, before any work. Only an earlier store is ever replaced.

    Raises
    ------
    InputError
        Something else has this name, or the store cannot be written there.
    MissingDependencyError
        The package zarr is not installed.
    """
    library(path)
    if status(path) is not None and not (is_folder(path) and (holds_store(path) or not any(path.iterdir()))):
        raise InputError(f"{path} exists and is no Zarr store; choose another name, or move it away")
    check_parent(path)


def check_encoding(path: Path, encoding: Encoding) -> None:
    """Check that a store can be encoded as was asked for.

    Parameters
    ----------
    path
        The store.
    encoding
        What was asked for.

    Raises
    ------
    InputError
        It cannot.
    """
    if encoding.compression not in (None, *_COMPRESSIONS):
        choices = ", ".join(_COMPRESSIONS)
        raise InputError(f"{path}: Zarr has no --compression {encoding.compression} here; take one of {choices}")
    if encoding.pyramid and not _is_ome(path):
        raise InputError(f"{path} is a plain array without levels; leave --pyramid out, or name it NAME{_OME_SUFFIX}")


def _is_ome(path: Path) -> bool:
    return path.name.lower().endswith(_OME_SUFFIX)


def write(path: Path, picture: Picture, encoding: Encoding) -> list[str]:
    """Write a picture, whole or not at all.

    Parameters
    ----------
    path
        The store.
    picture
        Its pixels are an array, or a `ScratchFile`, of which one chunk at a time is in memory.
    encoding
        What was asked for.

    Returns
    -------
    list[str]
        A line for everything that is not kept.

    Raises
    ------
    InputError
        As `check_target`; or the disk is full.
    """
    check_target(path)
    zarr = library(path)
    pixels, metadata = picture.pixels, picture.metadata
    source: RegionReader = cast(Any, pixels)
    if not isinstance(pixels, ScratchFile):
        values = pixels if pixels.ndim == 3 else pixels[:, :, None]
        pixels, source = values, ArrayReader(values)
    height, width, channels = pixels.shape
    dtype = np.dtype(pixels.dtype)
    ome = _is_ome(path)
    image = _described(path, metadata, (height, width, channels), dtype)
    axes = image.names if ome else _plain_axes(metadata, channels)
    with atomic_folder(path) as temporary:
        if ome:
            version = 2 if image.version == "0.4" else 3
            group = zarr.open_group(str(temporary), mode="w", zarr_format=version)
            paths = list[str]()
            while True:
                array = _create(zarr, group, str(len(paths)), axes, (height, width, channels), dtype, encoding, version)
                _fill(array, axes, source, (height, width))
                paths.append(str(len(paths)))
                if max(height, width) <= _CHUNK:
                    break
                source, height, width = _Halved(array, axes), max(1, height // 2), max(1, width // 2)
            group.attrs.update(multiscales.attributes(image, paths))
        else:
            array = _create(zarr, str(temporary), None, axes, (height, width, channels), dtype, encoding, 3)
            _fill(array, axes, source, (height, width))
    return _lost(picture, metadata, channels, ome)


def _described(path: Path, metadata: Metadata, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Multiscale:
    """Return what an OME-Zarr says of a result: what its source said, with the size of the result's pixels."""
    block = next((block for block in metadata.blocks if block.container == CONTAINER), None)
    if block is None:
        return multiscales.new(metadata.resolution, shape[2], dtype, path.name[: -len(_OME_SUFFIX)])
    image, height, width = multiscales.unpack(block.data)
    # A result may also lack a margin of the model's.
    factors = {"y": max(1, round(shape[0] / height)), "x": max(1, round(shape[1] / width))}
    scale = [value / factors.get(name, 1) for name, value in zip(image.names, image.scale, strict=True)]
    image = dataclasses.replace(image, scale=tuple(scale))
    if "c" not in image.names and shape[2] > 1:
        place = image.names.index("y")
        image = dataclasses.replace(
            image,
            axes=(*image.axes[:place], {"name": "c", "type": "channel"}, *image.axes[place:]),
            scale=(*image.scale[:place], 1.0, *image.scale[place:]),
            translation=(*image.translation[:place], 0.0, *image.translation[place:]),
        )
    known = image.omero.get("channels", ())
    return image if len(known) in (0, shape[2]) else dataclasses.replace(image, omero={})


def _plain_axes(metadata: Metadata, channels: int) -> tuple[str, ...]:
    """Return the axes of a plain array: those of a plain source, or rows, columns, channels."""
    if sorted(metadata.axes) == ["c", "x", "y"]:
        return metadata.axes
    return ("y", "x") if channels == 1 else ("y", "x", "c")


def _create(
    zarr: Any,
    place: Any,
    name: str | None,
    axes: tuple[str, ...],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    encoding: Encoding,
    version: int,
) -> Any:
    """Create an array in a group, or in a folder where it has no name."""
    sizes = dict(zip("yxc", shape, strict=True))
    chunks = {"y": min(_CHUNK, shape[0]), "x": min(_CHUNK, shape[1])}
    chunks["c"] = shape[2] if shape[2] <= _JOINED_CHANNELS else 1
    options: dict[str, Any] = {
        "shape": tuple(sizes.get(axis, 1) for axis in axes),
        "chunks": tuple(chunks.get(axis, 1) for axis in axes),
        "dtype": dtype,
        "compressors": _compressor(encoding.compression or _DEFAULT, version),
        "fill_value": 0,
    }
    if version == 3:
        options["dimension_names"] = axes
    else:
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    if name is None:
        return zarr.create_array(store=place, zarr_format=version, **options)
    return place.create_array(name=name, **options)


def _compressor(name: str, version: int) -> Any:
    if name == "none":
        return None
    if version == 3:
        from zarr import codecs

        return codecs.ZstdCodec(level=3) if name == "zstd" else codecs.GzipCodec(level=6)
    import numcodecs

    return numcodecs.Zstd(level=3) if name == "zstd" else numcodecs.Zlib(level=6)


def _fill(array: Any, axes: tuple[str, ...], source: RegionReader, size: tuple[int, int]) -> None:
    """Write all chunks of an array."""
    for top in range(0, size[0], _CHUNK):
        for left in range(0, size[1], _CHUNK):
            values = source.read(top, left, min(_CHUNK, size[0] - top), min(_CHUNK, size[1] - left))
            write_region(array, axes, top, left, values)


class _Halved:
    """A `RegionReader` of a level's half: each pixel is the mean of four, rounded to nearest."""

    def __init__(self, array: Any, axes: tuple[str, ...]) -> None:
        self._array, self._axes = array, axes
        sizes = dict(zip(axes, array.shape, strict=True))
        self._height, self._width = sizes["y"], sizes["x"]

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
        """Return a rectangle of the half; see `RegionReader.read`.

        Parameters
        ----------
        top, left, height, width
            The rectangle in pixels of the half.
        """
        bottom, right = min(2 * (top + height), self._height), min(2 * (left + width), self._width)
        values = read_region(self._array, self._axes, 2 * top, 2 * left, bottom - 2 * top, right - 2 * left)
        # A side of one pixel has no second.
        down, across = (2 if size > 1 else 1 for size in (self._height, self._width))
        means = values.reshape(height, down, width, across, -1).mean((1, 3), dtype=np.float64)
        halved: NDArray[Any] = (means if values.dtype.kind == "f" else np.rint(means)).astype(values.dtype)
        return halved


def _lost(picture: Picture, metadata: Metadata, channels: int, ome: bool) -> list[str]:
    """Return a line for everything of a picture that a store does not keep."""
    name = "OME-Zarr" if ome else "a plain Zarr array"
    kept = {"resolution", LEVELS, TITLE} if ome else set()
    lost = [title for title in metadata.titles() if title not in kept]
    if picture.alpha is not None:
        lost.insert(0, "band beside the colours" if picture.alpha_is_band else "alpha")
    block = next((block for block in metadata.blocks if block.container == CONTAINER), None)
    if ome and block is not None:
        known = multiscales.unpack(block.data)[0].omero.get("channels", ())
        if len(known) not in (0, channels):
            lost.append(f"names and colours of {len(known)} channels")
    return [f"{', '.join(lost)} dropped: not kept in {name}"] if lost else []
