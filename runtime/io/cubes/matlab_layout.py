"""Check the layout of MATLAB's version 4 and 5 files before SciPy reads them.

SciPy trusts them: it follows negative sizes backwards for ever, and crashes on an unknown type of samples.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ....errors import InputError

#: Version 4: the largest number of a type, and the bytes of a sample by the type's digit of tens.
_VERSION_4_LARGEST = 5000
_VERSION_4_BYTES = (8, 4, 4, 2, 2, 1)

#: Version 5: types of elements that hold samples, and those that hold other things.
_SAMPLE_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}
_INT8, _MATRIX, _COMPRESSED = 1, 14, 15

#: Classes of numeric arrays, and the flag of complex ones.
_NUMERIC, _COMPLEX = range(6, 16), 0x800

#: Bytes of a variable in which everything is that precedes its samples; a name has at most 63.
_PREFIX = 4096


def is_version_4(path: Path) -> bool:
    """Return whether a file is of version 4, as SciPy decides it: version 5 starts with text."""
    with path.open("rb") as file:
        return 0 in file.read(4)


def check_version_4(path: Path) -> None:
    """Check that the variables of a version 4 file follow each other to its end.

    Raises
    ------
    ValueError
        They do not.
    """
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        start = int.from_bytes(file.read(4), "little", signed=True)
        order = "<" if 0 <= start <= _VERSION_4_LARGEST else ">"
        while position < size:
            file.seek(position)
            kind, rows, columns, is_complex, name = struct.unpack(f"{order}5i", file.read(20))
            sample, matrix = kind // 10 % 10, kind % 10
            if not 0 <= kind <= _VERSION_4_LARGEST or sample >= len(_VERSION_4_BYTES) or min(rows, columns, name) < 0:
                raise ValueError("it has a variable of a negative size, or of an unknown type")
            # Sparse matrices list the imaginary part as a column.
            parts = 2 if is_complex and matrix != 2 else 1
            position += 20 + name + rows * columns * _VERSION_4_BYTES[sample] * parts
    if position > size:
        raise ValueError(f"it has {size:,} bytes, and its variables {position:,}")


def check_samples(path: Path, name: str) -> None:
    """Check that the array of a name in a version 5 file has real samples of a type that exists.

    Raises
    ------
    InputError
        The array is complex.
    ValueError
        Its samples are of an unknown type, or the file is damaged.
    """
    with path.open("rb") as file:
        order = "<" if file.read(128)[126:] == b"IM" else ">"
        for start in _variables(file, order):
            flags, dimensions, found, samples = _parts(start, order)
            if found != name.encode("latin-1") or flags & 0xFF not in _NUMERIC:
                continue
            if flags & _COMPLEX:
                raise InputError(f"{path}:{name} is complex, not real numbers; save its real part or its magnitude")
            if samples not in _SAMPLE_TYPES:
                raise ValueError(f"the samples of {name} are of the unknown type {samples}")
            if len(dimensions) % 4:
                raise ValueError(f"the sizes of {name} are cut off")
            return
    raise ValueError(f"the array {name} is not where it should be")


def _variables(file: BinaryIO, order: str) -> Iterator[bytes]:
    """Yield the first bytes of each variable, without its tag."""
    while len(tag := file.read(8)) == 8:
        kind, size = struct.unpack(f"{order}II", tag)
        following = file.tell() + size
        start = file.read(min(size, _PREFIX))
        if kind == _COMPRESSED:
            start = zlib.decompressobj().decompress(start, _PREFIX)
            kind, start = struct.unpack(f"{order}I", start[:4])[0], start[8:]
        if kind == _MATRIX:
            yield start
        file.seek(following)


def _parts(start: bytes, order: str) -> tuple[int, bytes, bytes, int]:
    """Return flags, sizes and name of an array, and the type of its samples (0 where it has none)."""
    flags_type, flags, position = _element(start, 0, order)
    _, dimensions, position = _element(start, position, order)
    name_type, name, position = _element(start, position, order)
    if name_type != _INT8 or len(flags) < 4 or flags_type not in _SAMPLE_TYPES:
        raise ValueError("a variable has no name")
    samples = _element(start, position, order)[0] if position + 4 <= len(start) else 0
    return struct.unpack(f"{order}I", flags[:4])[0], dimensions, name, samples


def _element(data: bytes, position: int, order: str) -> tuple[int, bytes, int]:
    """Return type and content of an element, and where the next one begins."""
    (first,) = struct.unpack_from(f"{order}I", data, position)
    if first >> 16:  # A small element: size and type in one word, up to four bytes in the next one.
        return first & 0xFFFF, data[position + 4 : position + 4 + (first >> 16)], position + 8
    (size,) = struct.unpack_from(f"{order}I", data, position + 4)
    return first, data[position + 8 : position + 8 + size], position + 8 + size + -size % 8
