"""Spectral cubes in files: MATLAB ``.mat``, NumPy ``.npy`` and ``.npz``, TIFF of many pages, and ENVI ``.hdr``.

A cube is height x width x bands, its samples of any real type, and its bands have wavelengths. What a file cannot hold
is never lost in silence: reading and writing return lines that say it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError, KeygraphError
from ....files import atomic_path, check_place, read_start
from . import envi, matlab, numpy_files, tiff
from .contents import DAMAGE, Contents, Stored, library, native
from .wavelengths import nanometres

FORMATS = {
    ".mat": "MATLAB",
    ".npy": "NumPy",
    ".npz": "NumPy archive",
    ".hdr": "ENVI",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}

#: What a cube is called in files that we write, as in NTIRE's data sets and in the results of the released MST++.
VARIABLE = "cube"

#: Names of variables that hold the bands' wavelengths; the first is the one that we write, and NTIRE's.
WAVELENGTH_VARIABLES = ("bands", "wavelengths", "wavelength", "lambda", "wl")

#: What MATLAB can call a variable; SciPy leaves others out.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}", re.ASCII)

_OPEN: dict[str, Callable[[Path], Contents]] = {
    "MATLAB": matlab.open_mat,
    "NumPy": numpy_files.open_npy,
    "NumPy archive": numpy_files.open_npz,
    "ENVI": envi.open_envi,
    "TIFF": tiff.open_tiff,
}

#: The libraries that writing needs, to be asked for before any work.
_LIBRARIES = {"MATLAB": ("scipy.io", "h5py"), "ENVI": ("spectral.io.envi",), "TIFF": ("tifffile",)}


#: Types of samples that a format does not have -> the next wider one that it has.
_WIDER = {
    "MATLAB": {"bool": "uint8", "float16": "float32"},
    "ENVI": {"bool": "uint8", "int8": "int16", "float16": "float32"},
    "TIFF": {"bool": "uint8"},
}


@dataclass(frozen=True)
class Header:
    """What a file says of its cube before the samples are read.

    Attributes
    ----------
    height, width, bands
        As `read` returns them: `bands` is 1 for an array of two dimensions.
    dtype
        Of the samples as `read` returns them.
    wavelengths
        Of the bands in nm; empty where the file does not tell.
    variable
        What the file calls the cube; the empty string where it has no names.
    notices
        What `read` will change, a line each.
    """

    height: int
    width: int
    bands: int
    dtype: np.dtype[Any]
    wavelengths: tuple[float, ...] = ()
    variable: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cube:
    """A spectral image.

    Attributes
    ----------
    pixels
        [H, W, C], or [H, W] for one band; a real type in native byte order, finite. May be a view with any strides.
    wavelengths
        Of the bands in nm; empty when unknown.
    variable
        What a file of several arrays calls it.
    notices
        What was changed in reading, a line each.
    """

    pixels: NDArray[Any]
    wavelengths: tuple[float, ...] = ()
    variable: str = VARIABLE
    notices: tuple[str, ...] = ()


def is_cube(path: str | os.PathLike[str]) -> bool:
    """Whether a file is for this module, by its suffix, and a TIFF by what it holds.

    A TIFF is a cube when it has several gray pages of one size, or more than four channels in a page; any other, and
    one that is not there yet, is a picture (`images`). Reads no samples and raises nothing.
    """
    name = FORMATS.get(Path(path).suffix.lower())
    return tiff.is_cube(Path(path)) if name == "TIFF" else name is not None


def describe_arrays(path: str | os.PathLike[str]) -> list[str]:
    """List the arrays of a file that holds several by name: sizes and types, a line each; raises as `read`."""
    arrays = _contents(Path(path)).arrays
    return [f"{name}: {_size(array)} {array.kind}" for name, array in arrays.items() if name]


def read_header(path: str | os.PathLike[str], variable: str | None = None, bands: int | None = None) -> Header:
    """Read what a file says of its cube, without its samples; parameters and errors are those of `read`."""
    file, contents, name = _opened(path, variable)
    array = contents.arrays[name]
    order, notices = _orientation(array.shape, bands)
    height, width, count = (*(array.shape[axis] for axis in order), 1)[:3]
    return Header(
        height,
        width,
        count,
        _dtype(array),
        _wavelengths(file, contents, count),
        name,
        (*contents.notices, *notices),
    )


def read(path: str | os.PathLike[str], variable: str | None = None, bands: int | None = None) -> Cube:
    """Read a cube.

    Parameters
    ----------
    path
        The file.
    variable
        The array to take, for files that hold several by name. When None it is the only one that can be a cube: real
        numbers in two or three dimensions, none of them 1 in an array of two.
    bands
        How many are expected. When the last axis has another length and the first has this one, the first is taken for
        the bands, and a notice says so. When None the last axis is.

    Returns
    -------
    The cube, as it is in the file; logical values become 0 and 1 in float32.

    Raises
    ------
    InputError
        The file is missing, empty, damaged, cut off or of another format; there is no such variable, none or several
        that can be a cube; it has another rank, or is text or complex; samples are NaN or infinite.
    MissingDependencyError
        The format's library is not installed.
    KeygraphError
        There is too little memory.
    """
    file, contents, name = _opened(path, variable)
    array = contents.arrays[name]
    order, notices = _orientation(array.shape, bands)
    with _reading(file):
        try:
            values = contents.load(name)
        except MemoryError as error:
            size = np.prod(array.shape) * _dtype(array).itemsize
            raise KeygraphError(
                f"{_words(file, name)} needs {size / 2**30:.1f} GiB of memory; cut it into parts"
            ) from error
    pixels = values.transpose(order).astype(_dtype(array), copy=False)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    _check_finite(pixels, _words(file, name))
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    return Cube(pixels, _wavelengths(file, contents, count), name or VARIABLE, (*contents.notices, *notices))


def check_target(path: str | os.PathLike[str], height: int, width: int, bands: int) -> None:
    """Check that a cube can be written to `path`, before any work.

    Raises
    ------
    InputError
        The format is unknown, the place cannot be written, or the cube has no samples.
    MissingDependencyError
        The format's library is not installed.
    """
    file = Path(path)
    for name in _LIBRARIES.get(_format_of(file), ()):
        library(name, file)
    if min(height, width, bands) < 1:
        raise InputError(f"{file}: a cube of {height} x {width} x {bands} holds no samples; give at least one of each")
    check_place(file)
    if _format_of(file) == "ENVI":
        check_place(file.with_suffix(envi.DATA_SUFFIX))
        if file.with_suffix("").is_file():
            raise InputError(
                f"{file} would belong to {file.with_suffix('')}, in which ENVI's readers look for samples first; "
                "choose another name"
            )


def write(path: str | os.PathLike[str], cube: Cube) -> list[str]:
    """Write a cube, whole or not at all.

    ``.mat`` is version 5, and 7.3 from 2 GiB on. ENVI is two files, band by band (bsq): the samples (``.img``) come
    first, then the header. Nothing is compressed.

    Returns
    -------
    What the format could not hold or was done otherwise, a line each.

    Raises
    ------
    InputError
        As `check_target`; or the disk is full.
    """
    file = Path(path)
    format_name = _format_of(file)
    pixels = cube.pixels if cube.pixels.ndim == 3 else cube.pixels[:, :, None]
    check_target(file, *pixels.shape)
    pixels, notices = _fitted(pixels, format_name)
    if format_name == "ENVI":
        envi.write_envi(file, pixels, cube.wavelengths)
        return notices
    name = cube.variable
    if format_name in ("MATLAB", "NumPy archive") and (not _NAME.fullmatch(name) or name in WAVELENGTH_VARIABLES):
        notices.append(f"the variable {name!r} is called {VARIABLE}: {format_name} has no such names for cubes")
        name = VARIABLE
    # A matrix for one band, as MATLAB would have it.
    named = {name: pixels if pixels.shape[2] > 1 else pixels[:, :, 0]}
    if cube.wavelengths:
        named[WAVELENGTH_VARIABLES[0]] = np.asarray(cube.wavelengths, dtype=np.float64)
    with atomic_path(file) as temporary:
        if format_name == "TIFF":
            tiff.write_tiff(temporary, pixels, cube.wavelengths)
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


def _format_of(path: Path) -> str:
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise InputError(f"{path} names no format of spectral cubes; choose one of {', '.join(FORMATS)}")
    return name


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what libraries say of a bad file into an `InputError`."""
    try:
        yield
    except DAMAGE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"{path} is damaged, cut off, or no {_format_of(path)} file ({reason}); give a whole "
            f"{path.suffix.lower()} file"
        ) from error


def _contents(file: Path) -> Contents:
    """Open a file of any format."""
    format_name = _format_of(file)
    read_start(file, f"a spectral cube ({', '.join(FORMATS)})")
    with _reading(file):
        return _OPEN[format_name](file)


def _opened(path: str | os.PathLike[str], variable: str | None) -> tuple[Path, Contents, str]:
    """Open a file and choose the array that is the cube."""
    file = Path(path)
    contents = _contents(file)
    name = _chosen(file, contents, variable)
    array = contents.arrays[name]
    if array.dtype is None:
        raise InputError(f"{_words(file, name)} is {array.kind}, not real numbers; {_choices(contents)}")
    if len(array.shape) not in (2, 3):
        raise InputError(
            f"{_words(file, name)} has {len(array.shape)} dimensions ({_size(array)}); give one image of height x "
            "width x bands"
        )
    if 0 in array.shape:
        raise InputError(f"{_words(file, name)} holds no samples ({_size(array)}); {_choices(contents)}")
    return file, contents, name


def _chosen(file: Path, contents: Contents, variable: str | None) -> str:
    """The name of the array to take."""
    if variable is not None:
        if variable not in contents.arrays:
            if "" in contents.arrays:
                raise InputError(f"{file} has no variables, so no {variable!r}; leave the name out")
            raise InputError(f"{file} has no variable {variable!r}; {_choices(contents)}")
        return variable
    if "" in contents.arrays:
        return ""
    fitting = [name for name, array in contents.arrays.items() if _may_be_cube(array)]
    if len(fitting) == 1:
        return fitting[0]
    found = "no array that can be a cube" if not fitting else f"{len(fitting)} arrays that can be cubes"
    example = fitting[0] if fitting else "NAME"
    raise InputError(f"{file} holds {found}; choose one with {file}:{example}; {_choices(contents)}")


def _may_be_cube(array: Stored) -> bool:
    return array.dtype is not None and (len(array.shape) == 3 or (len(array.shape) == 2 and min(array.shape) > 1))


def _choices(contents: Contents) -> str:
    if "" in contents.arrays:
        return "give a file of real numbers"
    listed = ", ".join(f"{name} ({_size(array)} {array.kind})" for name, array in contents.arrays.items())
    return f"it holds {listed}" if listed else "it holds nothing"


def _words(file: Path, name: str) -> str:
    return f"{file}:{name}" if name else str(file)


def _size(array: Stored) -> str:
    return " x ".join(str(size) for size in array.shape) or "a scalar"


def _dtype(array: Stored) -> np.dtype[Any]:
    """The type of an array after `read`."""
    assert array.dtype is not None
    return np.dtype(np.float32) if array.dtype.kind == "b" else array.dtype


def _orientation(shape: tuple[int, ...], bands: int | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The axes that are rows, columns and bands, and what was decided."""
    if len(shape) == 2:
        return (0, 1), ()
    if bands is not None and shape[2] != bands and shape[0] == bands:
        sizes = " x ".join(str(size) for size in shape)
        return (1, 2, 0), (f"the first axis of {sizes} taken for the {bands} bands",)
    return (0, 1, 2), ()


def _wavelengths(file: Path, contents: Contents, bands: int) -> tuple[float, ...]:
    """The bands' wavelengths in nm, from the format's own place or from a variable beside the cube."""
    if contents.wavelengths:
        return contents.wavelengths if len(contents.wavelengths) == bands else ()
    lower = {name.lower(): name for name in contents.arrays}
    for name in (lower[known] for known in WAVELENGTH_VARIABLES if known in lower):
        array = contents.arrays[name]
        if array.dtype is not None and np.prod(array.shape) == bands == max(array.shape, default=0):
            with _reading(file):
                return nanometres(contents.load(name).ravel().tolist())
    return ()


def _check_finite(pixels: NDArray[Any], words: str) -> None:
    if pixels.dtype.kind != "f":
        return
    finite = np.isfinite(pixels)
    if finite.all():
        return
    first = np.unravel_index(int(np.argmin(finite)), finite.shape)
    place = ", ".join(f"{axis} {at}" for axis, at in zip(("row", "column", "band"), first, strict=False))
    count = finite.size - int(np.count_nonzero(finite))
    raise InputError(
        f"{words} has {count:,} samples that are NaN or infinite, the first at {place} (counted from 0); "
        "fill or cut them off first"
    )


def _fitted(pixels: NDArray[Any], format_name: str) -> tuple[NDArray[Any], list[str]]:
    """Samples of a type that a format can hold, none of them changed."""
    to = _WIDER.get(format_name, {}).get(pixels.dtype.name)
    if to is None:
        return pixels.astype(native(pixels.dtype), copy=False), []
    return pixels.astype(to), [f"{pixels.dtype.name} stored as {to}: {format_name} has no such numbers"]
