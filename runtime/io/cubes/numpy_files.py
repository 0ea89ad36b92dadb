"""Cubes in NumPy's files: one array in ``.npy``, named arrays in ``.npz``."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .contents import Contents, Stored, native, stored


def open_npy(path: Path) -> Contents:
    """Open an ``.npy`` file."""
    with path.open("rb") as file:
        array = _header(file)
        end = file.tell()
    notices: tuple[str, ...] = ()
    if array.dtype is not None:
        if min(array.shape, default=0) < 0:
            raise ValueError(f"its shape is {array.shape}")
        end += math.prod(array.shape) * array.dtype.itemsize
        size = path.stat().st_size
        if size < end:
            raise ValueError(f"it has {size:,} bytes, and its header speaks of {end:,}")
        if size > end:
            notices = (f"the last {size - end:,} bytes of {path.name}, behind the first array, are not read",)
    return Contents({"": array}, lambda _: _native(np.load(path)), notices=notices)


def open_npz(path: Path) -> Contents:
    """Open an ``.npz`` file."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        if len(set(archive.namelist())) < len(archive.namelist()):
            raise ValueError("two of its arrays have one name")
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    arrays[member.removesuffix(".npy")] = _header(file)
    return Contents(arrays, lambda name: _load_member(path, name))


def write_npy(path: Path, pixels: NDArray[Any]) -> None:
    """Write an array; ``.npy`` cannot hold wavelengths."""
    with path.open("wb") as file:
        np.save(file, pixels, allow_pickle=False)


def write_npz(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays by name, uncompressed."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _load_member(path: Path, name: str) -> NDArray[Any]:
    with np.load(path) as archive:
        return _native(archive[name])


def _native(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(native(array.dtype), copy=False)


def _header(file: Any) -> Stored:
    """Read an array's header, without its samples."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        # Version 3 is for UTF-8 field names: a table, not a cube.
        return Stored((), None, "a table with named fields")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return stored(shape, dtype)
