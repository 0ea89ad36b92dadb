"""Write spectral cubes, with samples converted to a type that the format has."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ....files import atomic_path, check_place
from ...companion_files import check_outputs, written_with
from . import envi, matlab, numpy_files, tiff
from .carry_over import fitted_fields
from .contents import library, native
from .cube import VARIABLE, WAVELENGTH_VARIABLES, Cube, format_of

#: What MATLAB accepts as the name of a variable; SciPy silently leaves out others.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}", re.ASCII)

#: The libraries that writing a format needs.
_LIBRARIES = {"MATLAB": ("scipy.io", "h5py"), "TIFF": ("tifffile",)}

#: Sample types that a format does not have -> the next wider one that it has.
WIDER_TYPES = {
    "MATLAB": {"bool": "uint8", "float16": "float32"},
    "ENVI": {"bool": "uint8", "int8": "int16", "float16": "float32"},
    "TIFF": {"bool": "uint8"},
}


def check_target(path: str | os.PathLike[str], height: int, width: int, bands: int) -> None:
    """Check that a cube can be written, before any work.

    Parameters
    ----------
    path
        The file.
    height, width, bands
        Size of the cube.

    Raises
    ------
    InputError
        The format is unknown, the file cannot be written there, or the cube has no samples.
    MissingDependencyError
        The format's library is not installed.
    """
    file = Path(path)
    for name in _LIBRARIES.get(format_of(file), ()):
        library(name, file)
    if min(height, width, bands) < 1:
        raise InputError(f"{file}: a cube of {height} x {width} x {bands} holds no samples; give at least one of each")
    for written in written_with(file):
        check_place(written)
    check_outputs([file], [])
    if format_of(file) == "ENVI" and file.with_suffix("").is_file():
        raise InputError(
            f"{file} would belong to {file.with_suffix('')}, in which ENVI's readers look for samples first; "
            "choose another name"
        )


def write(path: str | os.PathLike[str], cube: Cube) -> list[str]:
    """Write a cube, whole or not at all.

    ``.mat`` is version 5, and 7.3 from 2 GiB on. ENVI is two files: the samples band by band (bsq, ``.img``), written
    first, and the header. Nothing is compressed.

    Returns
    -------
    list[str]
        A line for everything that the format cannot hold or that was changed.

    Raises
    ------
    InputError
        As `check_target`; or the disk is full.
    """
    file = Path(path)
    format_name = format_of(file)
    pixels = cube.pixels if cube.pixels.ndim == 3 else cube.pixels[:, :, None]
    check_target(file, *pixels.shape)
    pixels, notices = _fitted(pixels, format_name)
    fields, dropped = fitted_fields(cube, format_name)
    notices += dropped
    if format_name == "ENVI":
        envi.write_envi(file, pixels, cube.wavelengths, fields)
        return notices
    name = cube.variable
    if format_name in ("MATLAB", "NumPy archive") and (not _NAME.fullmatch(name) or name in WAVELENGTH_VARIABLES):
        notices.append(f"the variable {name!r} is called {VARIABLE}: {format_name} has no such names for cubes")
        name = VARIABLE
    # One band is a matrix, as in MATLAB.
    named = {name: pixels if pixels.shape[2] > 1 else pixels[:, :, 0]}
    if cube.wavelengths:
        named[WAVELENGTH_VARIABLES[0]] = np.asarray(cube.wavelengths, dtype=np.float64)
    with atomic_path(file) as temporary:
        if format_name == "TIFF":
            tiff.write_tiff(temporary, pixels, cube.wavelengths, fields)
        elif format_name == "NumPy archive":
            numpy_files.write_npz(temporary, named)
        elif format_name == "NumPy":
            numpy_files.write_npy(temporary, named[name])
            if cube.wavelengths:
                notices.append("wavelengths dropped: .npy has no place for them (.npz has)")
        elif pixels.nbytes >= matlab.VERSION_5_BYTES:
            matlab.write_version_7_3(temporary, named)
            notices.append("written as .mat version 7.3 (HDF5): version 5 holds less than 2 GiB")
        else:
            matlab.write_version_5(temporary, named)
    return notices


def _fitted(pixels: NDArray[Any], format_name: str) -> tuple[NDArray[Any], list[str]]:
    """Return the samples in a type that the format has, with unchanged values, and a notice where it is wider."""
    to = WIDER_TYPES.get(format_name, {}).get(pixels.dtype.name)
    if to is None:
        return pixels.astype(native(pixels.dtype), copy=False), []
    return pixels.astype(to), [f"{pixels.dtype.name} stored as {to}: {format_name} has no such numbers"]
