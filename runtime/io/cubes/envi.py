"""Cubes in ENVI files: a text header (``.hdr``), and a file of raw samples beside it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....files import temporary_path, unwritable
from ...companion_files import SAMPLES_SUFFIX
from .contents import Contents, library, native, stored
from .wavelengths import nanometres


def open_envi(path: Path) -> Contents:
    """Open an ENVI header and its file of samples, of any interleave, byte order and offset."""
    header, image = _opened(path)
    scale = _scale(header)
    dtype = native(np.dtype(image.dtype))
    needed = image.offset + image.nrows * image.ncols * image.nbands * dtype.itemsize
    there = Path(image.filename).stat().st_size
    if there < needed:
        raise ValueError(f"{image.filename} has {there:,} bytes, and the header speaks of {needed:,}")
    if str(header["interleave"]).lower() not in _AXES:
        raise ValueError(f"its interleave is {header['interleave']}, not {', '.join(_AXES)}")
    array = stored((image.nrows, image.ncols, image.nbands), np.dtype(np.float32) if scale != 1 else dtype)
    notices = []
    if scale != 1:
        notices.append(f"samples divided by the header's reflectance scale factor, {scale:g}")
    if "data ignore value" in header:
        notices.append(f"samples of {header['data ignore value']}, for the header no data, are taken like any others")
    return Contents({"": array}, lambda _: _load(path, scale), _wavelengths(header), tuple(notices))


def write_envi(path: Path, pixels: NDArray[Any], wavelengths: tuple[float, ...]) -> None:
    """Write a cube band by band (bsq): the samples first, then the header, each whole or not at all.

    Parameters
    ----------
    path
        The header; its folder gets the file of samples, too.
    pixels
        [H, W, C]
    wavelengths
        Wavelengths of the bands in nm; empty where unknown.

    Raises
    ------
    InputError
        The files cannot be written.
    """
    envi = library("spectral.io.envi", path)
    height, width, bands = pixels.shape
    header: dict[str, Any] = {
        "samples": width,
        "lines": height,
        "bands": bands,
        "header offset": 0,
        "file type": "ENVI Standard",
        "data type": envi.dtype_to_envi[pixels.dtype.char],
        "interleave": "bsq",
        "byte order": 0 if np.little_endian else 1,
    }
    if wavelengths:
        header |= {"wavelength units": "Nanometers", "wavelength": [f"{value:g}" for value in wavelengths]}
    samples, text = temporary_path(path.with_suffix(SAMPLES_SUFFIX)), temporary_path(path)
    try:
        with samples.open("xb") as file:
            for band in range(bands):
                file.write(np.ascontiguousarray(pixels[:, :, band]).data)
        envi.write_envi_header(str(text), header)
        os.replace(samples, path.with_suffix(SAMPLES_SUFFIX))
        os.replace(text, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        samples.unlink(missing_ok=True)
        text.unlink(missing_ok=True)


def _opened(path: Path) -> tuple[dict[str, Any], Any]:
    envi = library("spectral.io.envi", path)
    with warnings.catch_warnings():
        # It warns about capital letters in a header's names, which are common and harmless.
        warnings.simplefilter("ignore")
        try:
            header = envi.read_envi_header(path)
            image = envi.open(str(path.absolute()))
        except envi.EnviException as error:
            raise ValueError(str(error)) from error
    if not hasattr(image, "nbands"):
        raise ValueError("it is a spectral library, not an image")
    return header, image


def _load(path: Path, scale: float) -> NDArray[Any]:
    header, image = _opened(path)
    sizes = {"rows": image.nrows, "columns": image.ncols, "bands": image.nbands}
    axes = _AXES[str(header["interleave"]).lower()]
    count = image.nrows * image.ncols * image.nbands
    values: NDArray[Any] = np.fromfile(image.filename, image.dtype, count, offset=image.offset).reshape(
        [sizes[name] for name in axes]
    )
    values = values.transpose([axes.index(name) for name in sizes])
    if scale != 1:
        values = values.astype(np.float32) / np.float32(scale)
    return values.astype(native(values.dtype), copy=False)


#: Interleave -> axes in the file, the slowest first.
_AXES = {
    "bsq": ("bands", "rows", "columns"),
    "bil": ("rows", "bands", "columns"),
    "bip": ("rows", "columns", "bands"),
}


def _scale(header: dict[str, Any]) -> float:
    scale = float(header.get("reflectance scale factor", 1))
    if not 0 < scale < float("inf"):
        raise ValueError(f"its reflectance scale factor is {scale:g}")
    return scale


def _wavelengths(header: dict[str, Any]) -> tuple[float, ...]:
    values = header.get("wavelength", ())
    try:
        return nanometres([float(value) for value in values], str(header.get("wavelength units", "")))
    except ValueError:
        return ()
