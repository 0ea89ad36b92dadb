"""Read protobuf messages without generated code: fields as (number, value), sub-messages as views of the file.

The package onnx takes longer to import than a model takes to be checked, copies all weights, and is not needed to run a
model. Only what ONNX files use is supported; groups, which protobuf itself gave up, are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

#: A message or a field of bytes: a view of the file, so that weights are not copied.
Buffer = memoryview | bytes

#: Wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are not a complete protobuf message."""


def fields(message: Buffer) -> Iterator[tuple[int, int | Buffer]]:
    """Yield the fields of a message in the order of the file.

    Yields
    ------
    number : int
        Number of the field.
    value : int or Buffer
        An int for varints, bytes for all others: 4 or 8 bytes for fixed-width numbers.

    Raises
    ------
    WireError
        The message is cut off or is not protobuf.
    """
    position, end = 0, len(message)
    try:
        while position < end:
            key = message[position]
            position += 1
            if key > 127:
                key, position = _varint(message, position - 1)
            kind = key & 7
            if kind == _BYTES:
                size = message[position]
                position += 1
                if size > 127:
                    size, position = _varint(message, position - 1)
            elif kind == _VARINT:
                value, position = _varint(message, position)
                yield key >> 3, value
                continue
            elif kind in (_FIXED32, _FIXED64):
                size = 4 if kind == _FIXED32 else 8
            else:
                raise WireError(f"wire type {kind}")
            if position + size > end:
                raise WireError("cut off")
            yield key >> 3, message[position : position + size]
            position += size
    except IndexError:
        raise WireError("cut off") from None


def numbers(values: Iterable[int | Buffer], dtype: str) -> NDArray[np.generic]:
    """Return the values of a repeated field of numbers, packed or not.

    Parameters
    ----------
    values
        All values of the field in a message.
    dtype
        ``"<i8"`` or ``"<u8"`` for varints, ``"<f4"`` or ``"<f8"`` for fixed-width numbers.
    """
    parts = []
    for value in values:
        if isinstance(value, int):
            parts.append(np.array([value], "<u8").view(dtype))
        elif dtype in ("<f4", "<f8"):
            parts.append(np.frombuffer(value, dtype))
        else:
            parts.append(_packed_varints(value).view(dtype))
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def text(value: int | Buffer) -> str:
    """Return a field as text; bytes that are not UTF-8 are escaped."""
    return bytes(value).decode("utf-8", "backslashreplace") if not isinstance(value, int) else str(value)


def message_of(value: int | Buffer) -> Buffer:
    """Return a field that must be a message.

    Raises
    ------
    WireError
        It is a number.
    """
    if isinstance(value, int):
        raise WireError("a number in place of a message")
    return value


def number_of(value: int | Buffer) -> int:
    """Return a field that must be a signed integer.

    Raises
    ------
    WireError
        It is not a number.
    """
    if not isinstance(value, int):
        raise WireError("bytes in place of a number")
    return value - (1 << 64) if value >> 63 else value


def _varint(message: Buffer, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift > 63:
            raise WireError("a number of more than 64 bits")


def _packed_varints(data: Buffer) -> NDArray[np.uint64]:
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 128) + 1
    if len(octets) and (not len(ends) or ends[-1] != len(octets)):
        raise WireError("cut off")
    starts = np.concatenate([np.zeros(1, ends.dtype), ends[:-1]]) if len(ends) else ends
    lengths = ends - starts
    if len(lengths) and lengths.max() > 10:
        raise WireError("a number of more than 64 bits")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max()) if len(lengths) else 0):
        longer = lengths > place
        part = (octets[starts[longer] + place] & 127).astype(np.uint64)
        values[longer] |= part << np.uint64(7 * place)
    return values
