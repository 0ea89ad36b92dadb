"""The arrays in an opened file, which every format's module returns as `Contents`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import MissingDependencyError
from ....installation import install_line
from .cube import Field


@dataclass(frozen=True)
class Stored:
    """An array in a file, described without reading its samples.

    Attributes
    ----------
    shape
        In the axis order that `Contents.load` returns.
    dtype
        Type of the samples in native byte order; None for text, cells, objects and anything else that is not real
        numbers.
    kind
        The file's name of the type, for messages: ``"single"``, ``"char"``, ``"complex128"``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    kind: str


@dataclass(frozen=True)
class Contents:
    """An opened file.

    Attributes
    ----------
    arrays
        Name -> array. In formats with one array only, its name is the empty string.
    load
        Name -> its samples, in native byte order.
    wavelengths
        Wavelengths of the bands in nm from the format's own field; empty where there are none.
    notices
        Lines to show to whoever reads the samples.
    notices_of
        Such lines for some of the arrays, by name.
    fields
        What the file says besides, by the format's own names.
    fields_of
        What it says of some of the arrays, by the array's name.
    """

    arrays: Mapping[str, Stored]
    load: Callable[[str], NDArray[Any]]
    wavelengths: tuple[float, ...] = ()
    notices: tuple[str, ...] = ()
    notices_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fields: Mapping[str, Field] = field(default_factory=dict)
    fields_of: Mapping[str, Mapping[str, Field]] = field(default_factory=dict)


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in this machine's byte order."""
    converted: np.dtype[Any] = dtype.newbyteorder("=")
    return converted


def stored(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Stored:
    """Return the description of an array of a NumPy type."""
    return Stored(tuple(int(size) for size in shape), native(dtype) if dtype.kind in "buif" else None, dtype.name)


def library(name: str, file: object) -> ModuleType:
    """Import an optional library that a format needs.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{file} needs {error.name}; install it with: {install_line('spectral')}; or use .npy or .npz"
        ) from error
