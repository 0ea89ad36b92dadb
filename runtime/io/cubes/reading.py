"""Read spectral cubes: the header alone, or all of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError, KeygraphError
from ....files import read_start
from ...device import memory
from . import envi, matlab, numpy_files, tiff
from .contents import Contents, Stored
from .cube import FORMATS, VARIABLE, WAVELENGTH_VARIABLES, Cube, Field, Header, format_of
from .wavelengths import nanometres

_OPEN: dict[str, Callable[[Path], Contents]] = {
    "MATLAB": matlab.open_mat,
    "NumPy": numpy_files.open_npy,
    "NumPy archive": numpy_files.open_npz,
    "ENVI": envi.open_envi,
    "TIFF": tiff.open_tiff,
}


def is_cube(path: str | os.PathLike[str], bands: int | None = None) -> bool:
    """Return whether a file holds a cube, judged by its suffix, and a TIFF by its header.

    A TIFF is a cube when it has several gray pages of one size that are bands (see `tiff.is_cube`), or more than four
    channels in a page; otherwise, and if it does not exist, it is a picture (`images`). No samples are read, and
    nothing is raised.

    Parameters
    ----------
    path
        The file.
    bands
        Number of channels that the model takes; None where there is no model.
    """
    name = FORMATS.get(Path(path).suffix.lower())
    return tiff.is_cube(Path(path), bands) if name == "TIFF" else name is not None


def describe_arrays(path: str | os.PathLike[str]) -> list[str]:
    """Return a line with size and type for each named array of a file; errors are those of `read`."""
    arrays = _contents(Path(path)).arrays
    return [f"{name}: {_shape_words(array)} {array.kind}" for name, array in arrays.items() if name]


def read_header(path: str | os.PathLike[str], variable: str | None = None, bands: int | None = None) -> Header:
    """Read what a file says about its cube, without its samples.

    Parameters
    ----------
    path, variable, bands
        As for `read`.

    Raises
    ------
    InputError
        As `read`, but samples are not checked.
    """
    file, contents, name = _open_variable(path, variable)
    array = contents.arrays[name]
    order, notices = _axis_order(array.shape, bands)
    height, width, count = (*(array.shape[axis] for axis in order), 1)[:3]
    return Header(
        height,
        width,
        count,
        _sample_type(array),
        _wavelengths(file, contents, count),
        name,
        (*contents.notices, *contents.notices_of.get(name, ()), *notices),
    )


def read(path: str | os.PathLike[str], variable: str | None = None, bands: int | None = None) -> Cube:
    """Read a cube.

    Parameters
    ----------
    path
        The file.
    variable
        Name of the array, for files with several. When None, the only array that can be a cube is read: real numbers in
        two or three dimensions, with no side of 1 in an array of two.
    bands
        Number of bands expected. When the first axis has this length and the last has not, the first is taken as the
        band axis, and a notice says so. When None, the last axis is the band axis.

    Returns
    -------
    Cube
        The samples as they are in the file; logical values become 0 and 1 in float32.

    Raises
    ------
    InputError
        The file is missing, empty, damaged, cut off or of another format; it has no such variable, or none or several
        that can be a cube; the variable has another rank, or is text or complex; samples are NaN or infinite.
    MissingDependencyError
        The format's library is not installed.
    KeygraphError
        There is not enough memory.
    """
    file, contents, name = _open_variable(path, variable)
    array = contents.arrays[name]
    order, notices = _axis_order(array.shape, bands)
    size = math.prod(array.shape) * _sample_type(array).itemsize
    too_large = f"{_location(file, name)} needs {size / 2**30:.1f} GiB of memory; cut it into parts"
    # A small damaged or compressed file may speak of any number of samples.
    free = memory.available()
    if free is not None and size > free:
        raise KeygraphError(f"{too_large} ({free / 2**30:.1f} GiB are free)")
    with _reading(file):
        try:
            values = contents.load(name)
        except MemoryError as error:
            raise KeygraphError(too_large) from error
    pixels = values.transpose(order).astype(_sample_type(array), copy=False)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    _check_finite(pixels, _location(file, name))
    count = pixels.shape[2] if pixels.ndim == 3 else 1
    wavelengths = _wavelengths(file, contents, count)
    return Cube(
        pixels,
        wavelengths,
        name or VARIABLE,
        (*contents.notices, *contents.notices_of.get(name, ()), *notices),
        {**contents.fields, **contents.fields_of.get(name, {}), **_other_arrays(contents, name, bool(wavelengths))},
        format_of(file),
    )


def _other_arrays(contents: Contents, name: str, wavelengths: bool) -> dict[str, Field]:
    """Return the arrays beside the cube, without those that gave its wavelengths."""
    used = WAVELENGTH_VARIABLES if wavelengths else ()
    others = [other for other in contents.arrays if other != name and other.lower() not in used]
    return {f"variable {other}": Field(None, "file") for other in others}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise `InputError` in place of the libraries' errors about a damaged file.

    They raise whatever the damage leads them to: SciPy even `UnboundLocalError`.
    """
    try:
        yield
    except (KeygraphError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:200]
        raise InputError(
            f"{path} is damaged, cut off, or no {format_of(path)} file ({reason}); give a whole "
            f"{path.suffix.lower()} file"
        ) from error


def _contents(file: Path) -> Contents:
    """Open a file of any format."""
    format_name = format_of(file)
    read_start(file, f"a spectral cube ({', '.join(FORMATS)})")
    with _reading(file):
        return _OPEN[format_name](file)


def _open_variable(path: str | os.PathLike[str], variable: str | None) -> tuple[Path, Contents, str]:
    """Open a file, and choose and check the array that is the cube."""
    file = Path(path)
    contents = _contents(file)
    name = _choose_variable(file, contents, variable)
    array = contents.arrays[name]
    if array.dtype is None:
        raise InputError(f"{_location(file, name)} is {array.kind}, not real numbers; {_choices(contents)}")
    if len(array.shape) not in (2, 3):
        raise InputError(
            f"{_location(file, name)} has {len(array.shape)} dimensions ({_shape_words(array)}); give one image of "
            "height x width x bands"
        )
    if 0 in array.shape:
        raise InputError(f"{_location(file, name)} holds no samples ({_shape_words(array)}); {_choices(contents)}")
    return file, contents, name


def _choose_variable(file: Path, contents: Contents, variable: str | None) -> str:
    """Return the name of the array to read."""
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
    listed = ", ".join(f"{name} ({_shape_words(array)} {array.kind})" for name, array in contents.arrays.items())
    return f"it holds {listed}" if listed else "it holds nothing"


def _location(file: Path, name: str) -> str:
    return f"{file}:{name}" if name else str(file)


def _shape_words(array: Stored) -> str:
    return " x ".join(str(size) for size in array.shape) or "a scalar"


def _sample_type(array: Stored) -> np.dtype[Any]:
    """Return the type of an array after `read`."""
    assert array.dtype is not None
    return np.dtype(np.float32) if array.dtype.kind == "b" else array.dtype


def _axis_order(shape: tuple[int, ...], bands: int | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return which axes are rows, columns and bands, and a notice where the first one was taken as bands."""
    if len(shape) == 2:
        return (0, 1), ()
    if bands is not None and shape[2] != bands and shape[0] == bands:
        sizes = " x ".join(str(size) for size in shape)
        return (1, 2, 0), (f"the first axis of {sizes} taken for the {bands} bands",)
    return (0, 1, 2), ()


def _wavelengths(file: Path, contents: Contents, bands: int) -> tuple[float, ...]:
    """Return the wavelengths in nm, from the format's own field or from a variable beside the cube."""
    if contents.wavelengths:
        return contents.wavelengths if len(contents.wavelengths) == bands else ()
    lower = {name.lower(): name for name in contents.arrays}
    for name in (lower[known] for known in WAVELENGTH_VARIABLES if known in lower):
        array = contents.arrays[name]
        if array.dtype is not None and math.prod(array.shape) == bands == max(array.shape, default=0):
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
