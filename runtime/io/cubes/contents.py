"""What a file of arrays holds, before and while it is read; every format's module returns these."""

from __future__ import annotations

import importlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import MissingDependencyError

#: What the libraries raise when a file is damaged.
DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Stored:
    """An array in a file, as far as the file tells without reading its samples.

    Attributes
    ----------
    shape
        In the order of the axes that `Contents.load` returns.
    dtype
        Of the samples in native byte order; None for text, cells, objects and other things that are no numbers.
    kind
        What the file calls the type, for messages: ``"single"``, ``"char"``, ``"complex128"``.
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
        Name -> array; a format that holds one array only calls it by the empty string.
    load
        Name -> its samples, in native byte order.
    wavelengths
        Of the bands in nm, where the format itself has a place for them; empty where it has none or the file says none.
    notices
        What a reader of the samples should know, a line each.
    """

    arrays: Mapping[str, Stored]
    load: Callable[[str], NDArray[Any]]
    wavelengths: tuple[float, ...] = ()
    notices: tuple[str, ...] = ()


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The same type in this machine's byte order."""
    return dtype.newbyteorder("=")


def stored(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Stored:
    """Describe an array of a NumPy type."""
    return Stored(tuple(int(size) for size in shape), native(dtype) if dtype.kind in "buif" else None, dtype.name)


def library(name: str, file: object) -> ModuleType:
    """Import a library that only files of some formats need.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{file} needs {error.name}; install it with: pip install 'keygraph[spectral]', or use .npy or .npz"
        ) from error
