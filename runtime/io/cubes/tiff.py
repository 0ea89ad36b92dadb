"""Cubes in TIFF files: one page for each band, or all bands in one page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from .contents import Contents, Stored, library, stored
from .cube import Field, HoldsFor
from .tiff_codecs import decode
from .wavelengths import nanometres

#: Tags that say how the samples are stored.
_STORAGE_TAGS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 288, 289, 292, 293, 317),
    *(322, 323, 324, 325, 330, 332, 334, 338, 339, 347, 512, 513, 514, 515, 517, 519, 520, 521, 529, 530, 531, 532),
}

#: Tags of the resolution, which make one field.
_RESOLUTION_TAGS = (282, 283, 296)

#: Orientation -> how rows and columns, the first two axes, are turned upright. From 5 on, rows become columns.
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}

# Damaged files raise errors. Without a handler Python would also print what tifffile logs about them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

#: Tags beside the samples that are kept or reported: code -> title, and what a result must share to have them.
_KEPT_TAGS: dict[int, tuple[str, HoldsFor]] = {
    270: ("description", "file"),  # tifffile's writer needs its place.
    306: ("date", "always"),
    315: ("artist", "always"),
    33432: ("copyright", "always"),
    33550: ("GeoTIFF pixel scale", "size"),
    33922: ("GeoTIFF tie points", "size"),
    34264: ("GeoTIFF transformation", "size"),
    34735: ("GeoTIFF keys", "size"),
    34736: ("GeoTIFF numbers", "size"),
    34737: ("GeoTIFF texts", "size"),
    34675: ("ICC profile", "file"),
    42112: ("GDAL metadata", "samples"),
    42113: ("nodata", "samples"),
}


def is_cube(path: Path, bands: int | None = None) -> bool:
    """Return whether a TIFF is a cube: gray pages of one size that are bands, or more than four channels in a page.

    Five channels of RGB or CMYK with alpha are a picture, except for a model that takes five.
    Gray pages are bands where the file says so, as those that `write_tiff` writes and OME-TIFF do; else where the model
    takes as many bands as there are pages, and those are neither gray nor RGB: three gray pages of a scan are no
    picture in colour.
    False for unreadable files, and where tifffile is not installed: `images` then reports what is wrong.

    Parameters
    ----------
    path
        The file.
    bands
        Number of channels that the model takes; None where there is no model: any number of pages may be bands then.
    """
    if not path.is_file():
        return False
    try:
        with _opened(path) as file:
            page = file.pages.first
            gray = page.samplesperpixel == 1 and page.photometric.name in ("MINISBLACK", "MINISWHITE")
            if not gray or len(file.pages) == 1 or len(file.series) > 1:
                return bool(page.samplesperpixel > 4 and not _is_picture(page, bands))
            # Smaller copies and masks of a page are no bands. A page that tifffile reads in short has its keyframe's.
            count = sum(not one.keyframe.subfiletype & 5 for one in file.pages)
            described: Any = file.shaped_metadata or ({},)
            axes = str(described[0].get("axes", ""))
            if file.is_ome:
                axes, _ = _squeezed(file.series[0].axes, file.series[0].shape)
            says_so = "C" in axes and not (file.is_ome and len(axes) > 3)
            return bool(count > 1 and (bands is None or says_so or bands == count not in (1, 3)))
    except Exception:  # whatever the damage leads tifffile to
        return False


def _is_picture(page: Any, bands: int | None) -> bool:
    """Return whether five channels of a page are RGB or CMYK with others, and not bands for a model that takes five."""
    coloured = page.photometric.name in ("RGB", "SEPARATED") and page.samplesperpixel == 5
    has_alpha = bool({1, 2} & set(page.extrasamples))
    return bool(coloured and (has_alpha if bands is None else bands != 5))


def open_tiff(path: Path) -> Contents:
    """Open a TIFF file whose pages, all of one size, are the bands."""
    with _opened(path) as file:
        series = _image(file)
        array = stored(series.shape, series.dtype)
        axes, shape = _squeezed(series.axes, array.shape)
        described: Any = file.shaped_metadata or ({},)
        page, notices = series.keyframe, []
        values = described[0].get("wavelengths", ())
        if not _are_numbers(values):
            notices.append("wavelengths in the description are no list of numbers, and not taken")
            values = ()
        if page.photometric.name == "MINISWHITE" and array.dtype is not None:
            if array.dtype.kind not in "bu":
                raise InputError(
                    f"{path} says that 0 is white (PhotometricInterpretation 0), and for {array.kind} not what black "
                    "is; if larger samples are brighter, set the tag to 1, for instance with: tiffset -s 262 1"
                )
            notices.append("samples inverted: in this file 0 is white (PhotometricInterpretation 0)")
        if len(file.series) > 1 or len(series.levels) > 1:
            notices.append("reduced copies and masks in the file left out")
        fields = {title: Field(tag, holds_for) for title, tag, holds_for in _tags(page)}
        turned = _orientation(page)
    if 'role="scale"' in str(fields.get("GDAL metadata")) or 'role="offset"' in str(fields.get("GDAL metadata")):
        notices.append("the file's scale and offset (GDAL metadata) are not applied")
    if "nodata" in fields:
        notices.append(f"samples of {fields['nodata'].value[3]}, for the file no data, are taken like any others")
    order = _order(axes)
    shape = tuple(shape[axis] for axis in order)
    if turned in _UPRIGHT:
        notices.append(f"turned upright (the file's orientation is {turned})")
        shape = (shape[1], shape[0], *shape[2:]) if turned > 4 else shape
        # They are true of the rows and columns as they are stored.
        fields = {
            name: replace(field, holds_for="file") if field.holds_for == "size" else field
            for name, field in fields.items()
        }
    return Contents(
        {"": Stored(shape, array.dtype, array.kind)},
        lambda _: _load(path, order),
        nanometres(values),
        tuple(notices),
        fields=fields,
    )


def write_tiff(
    path: Path, pixels: NDArray[Any], wavelengths: tuple[float, ...], fields: dict[str, Field] | None = None
) -> None:
    """Write one page for each band, uncompressed; needs memory for one more band.

    Parameters
    ----------
    path
        The file.
    pixels
        [H, W, C]
    wavelengths
        Wavelengths of the bands in nm; empty where unknown.
    fields
        Tags of the first page, from `open_tiff`.
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
        # The last item: of the first page only.
        extratags=[(*field.value, True) for field in (fields or {}).values() if field.value is not None],
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


def _image(file: Any) -> Any:
    """Return the series of pages that is the image, without reduced copies (overviews) and masks.

    Raises
    ------
    ValueError
        There is none, or there are several.
    """
    whole = [series for series in file.series if not (series.keyframe.is_reduced or series.keyframe.is_mask)]
    if len(whole) != 1:
        sizes = " and ".join(str(tuple(one.shape)) for one in whole[:3])
        raise ValueError(f"its pages are of different kinds, {sizes}" if whole else "it has no page of an image")
    return whole[0]


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def _orientation(page: Any) -> int:
    """Return a page's orientation, 1 (upright) where it is none."""
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None and tag.value in _UPRIGHT else 1


def _tags(page: Any) -> Iterator[tuple[str, tuple[int, int, int, Any] | None, HoldsFor]]:
    """Yield title, (code, type, count, value) and what it holds for, of each tag of a page that is not about storage.

    Tags that are not in `_KEPT_TAGS` have None in place of their values: they are only reported.
    """
    for code, (title, holds_for) in _KEPT_TAGS.items():
        tag = page.tags.get(code)
        # tifffile's own description has the shape, and our wavelengths: they are written anew.
        if tag is not None and not (code == 270 and page.is_shaped):
            yield title, (code, int(tag.dtype), tag.count, tag.value), holds_for
    resolution = [page.tags[code].value for code in _RESOLUTION_TAGS if code in page.tags]
    if resolution and resolution != [(1, 1), (1, 1), 1]:  # as tifffile writes where there is none
        yield "resolution", None, "file"
    for tag in page.tags.values():
        ours = tag.code == 305 and str(tag.value) == "tifffile.py"
        if not (ours or tag.code in _STORAGE_TAGS or tag.code in _KEPT_TAGS or tag.code in _RESOLUTION_TAGS):
            yield f"tag {tag.name}", None, "file"


def _load(path: Path, order: tuple[int, ...]) -> NDArray[Any]:
    with _opened(path) as file:
        series = _image(file)
        values = decode(path, series)
        if series.keyframe.photometric.name == "MINISWHITE":
            values = ~values if values.dtype.kind == "b" else (2**series.keyframe.bitspersample - 1) - values
        _, shape = _squeezed(series.axes, values.shape)
        turned = _orientation(series.keyframe)
    bands_last: NDArray[Any] = values.reshape(shape).transpose(order)
    return _UPRIGHT[turned](bands_last) if turned in _UPRIGHT else bands_last


def _squeezed(axes: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Drop axes of length 1 other than rows (Y) and columns (X)."""
    kept = [(name, size) for name, size in zip(axes, shape, strict=True) if size > 1 or name in "YX"]
    return "".join(name for name, _ in kept), tuple(size for _, size in kept)


def _order(axes: str) -> tuple[int, ...]:
    """Return the order rows, columns, bands (any other axes)."""
    rows, columns = axes.index("Y"), axes.index("X")
    return (rows, columns, *(axis for axis in range(len(axes)) if axis not in (rows, columns)))
