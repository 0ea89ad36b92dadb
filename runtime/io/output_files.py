"""Files to write: a result becomes a picture or a spectral cube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from . import cubes, images, zarr_stores
from .cubes import Cube
from .encoding import DEFAULT, Encoding
from .images import Picture, streaming

#: Format -> bytes of a sample at most, and the least share that compressed photographs usually take.
_COMPRESSED = {"PNG": (2, 0.3), "TIFF": (4, 0.3), "WebP": (1, 0.25), "JPEG": (1, 0.1)}


def holds_cube(path: Path, spectrum: bool) -> bool:
    """Return whether a result is written as a cube: every spectrum, and pictures in formats for arrays only.

    A Zarr store holds any number of channels, and so both in one way.
    """
    suffix = path.suffix.lower()
    if zarr_stores.is_target(path):
        return False
    return spectrum or (suffix in cubes.FORMATS and suffix not in images.FORMATS)


def check_target(path: Path, size: tuple[int, int, int], as_cube: bool) -> None:
    """Check that a result can be written, before any work.

    Parameters
    ----------
    path
        The file.
    size
        Height, width and channels of the result.
    as_cube
        What `holds_cube` returned.

    Raises
    ------
    InputError
        The format is unknown or cannot hold the result, or the file cannot be written there.
    """
    if zarr_stores.is_target(path):
        zarr_stores.check_target(path)
    elif as_cube:
        cubes.check_target(path, *size)
    else:
        images.check_target(path, *size)


def check_encoding(
    path: Path, size: tuple[int, int, int], dtype: np.dtype[Any], as_cube: bool, encoding: Encoding
) -> None:
    """Check that a result can be encoded as was asked for, before any work.

    Parameters
    ----------
    path, size, as_cube
        As for `check_target`.
    dtype
        Type of the samples.
    encoding
        What was asked for.

    Raises
    ------
    InputError
        The format has no such option, or cannot hold the result with it.
    """
    if zarr_stores.is_target(path):
        zarr_stores.check_encoding(path, encoding)
    elif not as_cube:
        images.check_encoding(path, size[2], dtype, encoding)
    elif encoding != DEFAULT:
        raise InputError(
            f"{path}: arrays and spectral cubes are stored without compression and levels; leave {encoding.asked} out"
        )


def estimated_bytes(
    path: Path, size: tuple[int, int, int], dtype: np.dtype[Any], as_cube: bool, encoding: Encoding = DEFAULT
) -> int:
    """Return an estimate of the bytes of a result in its file, rather too few than too many.

    Parameters
    ----------
    path, size, as_cube
        As for `check_target`.
    dtype, encoding
        As for `check_encoding`.
    """
    samples = size[0] * size[1] * size[2]
    if as_cube:
        return samples * dtype.itemsize  # Not compressed.
    if zarr_stores.is_target(path):
        return int(samples * dtype.itemsize * (1.0 if encoding.compression == "none" else _COMPRESSED["TIFF"][1]))
    bytes_per_sample, share = _COMPRESSED.get(images.FORMATS.get(path.suffix.lower(), ""), (0, 0))
    share = {"none": 1.0, "jpeg": _COMPRESSED["JPEG"][1]}.get(encoding.compression or "", share)
    return int(samples * min(dtype.itemsize, bytes_per_sample) * share)


def write(
    path: Path,
    pixels: NDArray[Any],
    source: Picture | Cube,
    *,
    as_cube: bool,
    wavelengths: tuple[float, ...],
    encoding: Encoding = DEFAULT,
) -> list[str]:
    """Write a result, with the alpha plane and metadata of the picture that it was restored from.

    Parameters
    ----------
    path
        The file.
    pixels
        [H, W] or [H, W, C]
    source
        What was restored.
    as_cube
        What `holds_cube` returned.
    wavelengths
        Wavelengths of the bands in nm; empty where unknown.
    encoding
        What was asked for beside the format.

    Returns
    -------
    list[str]
        A line for everything that was lost.

    Raises
    ------
    InputError
        As `check_target`, or the disk is full.
    """
    if isinstance(source, Cube):
        cube, lost = cubes.restored_cube(source, pixels, wavelengths)
        if as_cube:
            return lost + cubes.write(path, cube)
        if cube.fields:
            lost.append(cubes.dropped_fields(cube, "pictures"))
        wavelengths = cube.wavelengths
        picture = Picture(pixels)
    else:
        picture = images.with_pixels(source, pixels)
        lost = list(picture.notices[len(source.notices) :])
    if not as_cube and wavelengths:
        lost.append(f"wavelengths dropped: not kept in {'Zarr' if zarr_stores.is_target(path) else 'pictures'}")
    if zarr_stores.is_target(path):
        return lost + zarr_stores.write(path, picture, encoding)
    if not as_cube:
        return lost + images.write(path, picture, encoding)
    if picture.alpha is not None:
        lost.append(f"{'band beside the colours' if picture.alpha_is_band else 'alpha'} dropped: a cube has none")
    if titles := picture.metadata.titles():
        lost.append(f"{', '.join(titles)} dropped: not kept in a cube")
    return lost + cubes.write(path, Cube(pixels, wavelengths))


def write_streaming(path: Path, picture: Picture, folder: Path, encoding: Encoding = DEFAULT) -> list[str]:
    """Write a picture whose pixels and alpha are scratch files; errors are those of `write`.

    Parameters
    ----------
    path
        The file, or the Zarr store.
    picture
        As `InputHeader.read_streaming` returns it.
    folder
        Folder for one more scratch file.
    encoding
        What was asked for beside the format.

    Returns
    -------
    list[str]
        A line for everything that was lost.
    """
    if zarr_stores.is_target(path):
        return zarr_stores.write(path, picture, encoding)
    return streaming.write(path, picture, folder, encoding)
