"""Cubes in TIFF files: one page for each band, or all bands in one page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import MissingDependencyError
from .contents import DAMAGE, Contents, Stored, library, stored
from .tiff_codecs import decode
from .wavelengths import nanometres

# Damaged files raise errors. Without a handler Python would also print what tifffile logs about them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_cube(path: Path, bands: int | None = None) -> bool:
    """Return whether a TIFF is a cube: gray pages of one size that are bands, or more than four channels in a page.

    Gray pages are bands where the file says so, as those that `write_tiff` writes do; else where the model takes as
    many bands as there are pages, and those are neither gray nor RGB: three gray pages of a scan are no picture in
    colour.
    False for unreadable files, and where tifffile is not installed: `images` then reports what is wrong.

    Parameters
    ----------
    path
        The file.
    bands
        Number of channels that the model takes; None where there is no model: any number of pages may be bands then.
    """
    try:
        with _opened(path) as file:
            page = file.pages.first
            gray = page.samplesperpixel == 1 and page.photometric.name in ("MINISBLACK", "MINISWHITE")
            if not gray or len(file.pages) == 1 or len(file.series) > 1:
                return bool(page.samplesperpixel > 4)
            # Smaller copies and masks of a page are no bands.
            count = sum(not one.subfiletype & 5 for one in file.pages)
            described: Any = file.shaped_metadata or ({},)
            return bool(
                count > 1
                and (bands is None or "C" in str(described[0].get("axes", "")) or bands == count not in (1, 3))
            )
    except (MissingDependencyError, *DAMAGE):
        return False


def open_tiff(path: Path) -> Contents:
    """Open a TIFF file whose pages, all of one size, are the bands."""
    with _opened(path) as file:
        series = file.series[0]
        if len(file.series) > 1:
            sizes = " and ".join(str(tuple(one.shape)) for one in file.series[:3])
            raise ValueError(f"its pages are of different kinds, {sizes}")
        array = stored(series.shape, series.dtype)
        axes, shape = _squeezed(series.axes, array.shape)
        described: Any = file.shaped_metadata or ({},)
        values = described[0].get("wavelengths", ())
    order = _order(axes)
    shape = tuple(shape[axis] for axis in order)
    return Contents({"": Stored(shape, array.dtype, array.kind)}, lambda _: _load(path, order), nanometres(values))


def write_tiff(path: Path, pixels: NDArray[Any], wavelengths: tuple[float, ...]) -> None:
    """Write one page for each band, uncompressed; needs memory for one more band.

    Parameters
    ----------
    path
        The file.
    pixels
        [H, W, C]
    wavelengths
        Wavelengths of the bands in nm; empty where unknown.
    """
    height, width, bands = pixels.shape
    library("tifffile", path).imwrite(
        path,
        _pages(pixels),
        shape=(bands, height, width),
        dtype=pixels.dtype,
        photometric="minisblack",
        metadata={"axes": "CYX", **({"wavelengths": list(wavelengths), "unit": "nm"} if wavelengths else {})},
        bigtiff=pixels.nbytes > 2**31,
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    tifffile = library("tifffile", path)
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except tifffile.TiffFileError as error:  # No ValueError in older versions.
        raise ValueError(str(error)) from error


def _pages(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for band in range(pixels.shape[2]):
        yield np.ascontiguousarray(pixels[:, :, band])


def _load(path: Path, order: tuple[int, ...]) -> NDArray[Any]:
    with _opened(path) as file:
        series = file.series[0]
        values = decode(path, series)
        _, shape = _squeezed(series.axes, values.shape)
    bands_last: NDArray[Any] = values.reshape(shape).transpose(order)
    return bands_last


def _squeezed(axes: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Drop axes of length 1 other than rows (Y) and columns (X)."""
    kept = [(name, size) for name, size in zip(axes, shape, strict=True) if size > 1 or name in "YX"]
    return "".join(name for name, _ in kept), tuple(size for _, size in kept)


def _order(axes: str) -> tuple[int, ...]:
    """Return the order rows, columns, bands (any other axes)."""
    rows, columns = axes.index("Y"), axes.index("X")
    return (rows, columns, *(axis for axis in range(len(axes)) if axis not in (rows, columns)))
