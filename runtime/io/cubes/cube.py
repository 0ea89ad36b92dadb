"""Spectral cubes in memory, and the formats of their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError

#: Suffix -> name of the format.
FORMATS = {
    ".mat": "MATLAB",
    ".npy": "NumPy",
    ".npz": "NumPy archive",
    ".hdr": "ENVI",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}

#: Name of the cube in files that we write, as in NTIRE's data sets and in the results of the released MST++.
VARIABLE = "cube"

#: Names of variables that hold the bands' wavelengths. The first is the one that we write, and NTIRE's.
WAVELENGTH_VARIABLES = ("bands", "wavelengths", "wavelength", "lambda", "wl")


#: What must be unchanged for a field to be true of a result: nothing, the height and width, the bands, or the samples.
#: ``"file"``: it belongs to the file, not to the cube, and is never copied.
HoldsFor = Literal["always", "size", "bands", "samples", "file"]


@dataclass(frozen=True)
class Field:
    """Something that a file says beside its samples and wavelengths.

    Attributes
    ----------
    value
        As the format's writer takes it.
    holds_for
        What a result must have in common with the cube for the field to be true of it.
    """

    value: Any
    holds_for: HoldsFor


@dataclass(frozen=True)
class Header:
    """What a file says about its cube before its samples are read.

    Attributes
    ----------
    height, width, bands
        Size of the cube as `read` returns it: `bands` is 1 for an array of two dimensions.
    dtype
        Type of the samples as `read` returns them.
    wavelengths
        Wavelengths of the bands in nm; empty where the file has none.
    variable
        Name of the cube in the file; the empty string where the format has no names.
    notices
        A line for everything that `read` changes.
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
    """A spectral image in memory.

    Attributes
    ----------
    pixels
        [H, W, C], or [H, W] for one band; a real type in native byte order, finite. May be a view with any strides.
    wavelengths
        Wavelengths of the bands in nm; empty when unknown.
    variable
        Name of the cube in a file with several arrays.
    notices
        A line for everything that was changed in reading.
    fields
        What the file says besides, by the format's own names: ``"map info"``.
    fields_format
        Name of that format, one of the values of `FORMATS`.
    """

    pixels: NDArray[Any]
    wavelengths: tuple[float, ...] = ()
    variable: str = VARIABLE
    notices: tuple[str, ...] = ()
    fields: Mapping[str, Field] = field(default_factory=dict)
    fields_format: str = ""


def format_of(path: Path) -> str:
    """Return the format of a file by its suffix.

    Raises
    ------
    InputError
        The suffix is not in `FORMATS`.
    """
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise InputError(f"{path} names no format of spectral cubes; choose one of {', '.join(FORMATS)}")
    return name
