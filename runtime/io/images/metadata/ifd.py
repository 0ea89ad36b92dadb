"""TIFF structures (TIFF 6.0 and BigTIFF): the directories of a TIFF file, and of an EXIF block."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import BinaryIO

from .fields import aspect_of

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, IFD, LONG8 = 1, 2, 3, 4, 5, 7, 13, 16

#: Type of a field -> bytes of one value.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

#: Types whose values are two numbers.
_PAIRS = (5, 10)

#: Types of whole numbers, and their letters in `struct`.
_LETTERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

#: Most bytes of a field that are read; the largest are tables of strips.
_LARGEST_FIELD = 1 << 28

#: Largest number above or below the line of a rational.
_LARGEST_LONG = 2**32 - 2

#: Most directories of a file; beyond this a chain is taken for a damaged one.
_MOST_DIRECTORIES = 100_000


class StructureError(ValueError):
    """A structure that is damaged, cut off, or of another kind."""


@dataclass(frozen=True)
class Field:
    """A field of a directory, by its place in the file.

    Attributes
    ----------
    tag, kind, count
        Number, type, and number of values.
    place
        Where its values start.
    entry
        Where its entry in the directory starts.
    """

    tag: int
    kind: int
    count: int
    place: int
    entry: int

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return SIZES.get(self.kind, 1) * self.count


@dataclass(frozen=True)
class Directory:
    """A directory: its fields by tag, where it starts, where the next one starts, and where that is stored."""

    fields: Mapping[int, Field]
    place: int
    following: int
    link: int


@dataclass(frozen=True)
class Value:
    """A field to be written.

    Attributes
    ----------
    tag, kind
        Number and type.
    data
        Its values in the byte order of the structure.
    children
        The fields of the directory to which it points; `data` is not used then.
    """

    tag: int
    kind: int
    data: bytes = b""
    children: tuple[Value, ...] | None = field(default=None)


class Reader:
    """Read a TIFF structure.

    Parameters
    ----------
    file
        The file, from its start.

    Raises
    ------
    StructureError
        The file is no TIFF structure.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = self.bytes_at(0, 8)
        if start[:4] in (b"II*\0", b"MM\0*"):
            self.big = False
        elif start[:4] in (b"II+\0", b"MM\0+"):
            self.big = True
        else:
            raise StructureError("no TIFF structure")
        self.order = "<" if start[:2] == b"II" else ">"
        self.first = self._offset(8 if self.big else 4)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._file.seek(0, 2)

    def bytes_at(self, place: int, count: int) -> bytes:
        """Return `count` bytes at an offset.

        Raises
        ------
        StructureError
            The file ends before.
        """
        if count > _LARGEST_FIELD:
            raise StructureError("a field is too long")
        self._file.seek(place)
        data = self._file.read(count)
        if len(data) < count:
            raise StructureError("cut off")
        return data

    def _offset(self, place: int) -> int:
        size, letter = (8, "Q") if self.big else (4, "I")
        (value,) = struct.unpack(self.order + letter, self.bytes_at(place, size))
        return int(value)

    def directories(self) -> Iterator[Directory]:
        """Yield the directories of the chain that starts in the header."""
        place, seen = self.first, set[int]()
        while place:
            if place in seen or len(seen) > _MOST_DIRECTORIES:
                raise StructureError("its directories form a circle")
            seen.add(place)
            directory = self.directory(place)
            yield directory
            place = directory.following

    def directory(self, place: int) -> Directory:
        """Read the directory at an offset."""
        head, letter, entry, slot = (8, "Q", 20, 8) if self.big else (2, "H", 12, 4)
        (count,) = struct.unpack(self.order + letter, self.bytes_at(place, head))
        if count > 0xFFFF:
            raise StructureError("a directory is too long")
        table = self.bytes_at(place + head, count * entry)
        fields = {}
        for index in range(count):
            tag, kind, values = struct.unpack_from(self.order + ("HHQ" if self.big else "HHI"), table, index * entry)
            start = place + head + index * entry
            at = start + entry - slot
            if SIZES.get(kind, 1) * values > slot:
                at = self._offset(at)
            fields[tag] = Field(tag, kind, values, at, start)
        link = place + head + count * entry
        return Directory(fields, place, self._offset(link), link)

    def data(self, one: Field) -> bytes:
        """Return the values of a field as stored."""
        return self.bytes_at(one.place, one.size)

    def numbers(self, directory: Directory, tag: int) -> tuple[int, ...]:
        """Return the whole numbers of a field; empty where it is absent or of another type."""
        one = directory.fields.get(tag)
        if one is None or one.kind not in _LETTERS:
            return ()
        return struct.unpack(f"{self.order}{one.count}{_LETTERS[one.kind]}", self.data(one))

    def number(self, directory: Directory, tag: int, default: int) -> int:
        """Return the first number of a field.

        Parameters
        ----------
        directory, tag
            The field.
        default
            What is returned where it is absent.
        """
        return next(iter(self.numbers(directory, tag)), default)

    def text(self, directory: Directory, tag: int) -> bytes:
        """Return a field of text or bytes without its final NUL; empty where it is absent."""
        one = directory.fields.get(tag)
        return b"" if one is None else self.data(one).rstrip(b"\0")

    def rational(self, directory: Directory, tag: int) -> float | None:
        """Return the first rational number of a field; None where it is absent or not above 0."""
        one = directory.fields.get(tag)
        if one is None or one.kind != RATIONAL or one.count < 1:
            return None
        above, below = struct.unpack_from(self.order + "II", self.data(one))
        return above / below if above and below else None

    def resolution(self, directory: Directory) -> tuple[float, float] | None:
        """Return pixels per millimetre along x and y; None where the directory names no unit of length."""
        x, y = self.rational(directory, 282), self.rational(directory, 283)
        length = {2: 25.4, 3: 10.0}.get(self.number(directory, 296, 2))
        return None if x is None or length is None else (x / length, (y or x) / length)

    def aspect(self, directory: Directory) -> Fraction | None:
        """Return pixels along x to pixels along y where the directory names no unit of length; None if equal."""
        x, y = self.rational(directory, 282), self.rational(directory, 283)
        return None if self.number(directory, 296, 2) != 1 or x is None or y is None else aspect_of(x, y)

    def value(self, one: Field) -> Value:
        """Return a field to be written as it is."""
        return Value(one.tag, one.kind, self.data(one))


def swapped(value: Value) -> Value:
    """Return a field in the other byte order."""
    if value.children is not None:
        return Value(value.tag, value.kind, b"", tuple(swapped(child) for child in value.children))
    size = SIZES[value.kind] // (2 if value.kind in _PAIRS else 1)
    data = b"".join(value.data[i : i + size][::-1] for i in range(0, len(value.data), size))
    return Value(value.tag, value.kind, data)


def shorts(order: str, tag: int, *values: int) -> Value:
    """Return a field of 16-bit numbers."""
    return Value(tag, SHORT, struct.pack(f"{order}{len(values)}H", *values))


def resolution_values(
    order: str, resolution: tuple[float, float] | None, aspect: Fraction | None = None
) -> list[Value]:
    """Return the fields that say pixels per millimetre, in inches; without a resolution, that there is none.

    Parameters
    ----------
    order
        ``"<"`` or ``">"``.
    resolution
        Pixels per millimetre along x and y.
    aspect
        Their ratio, which is written where there is no resolution.
    """
    if resolution is None:
        x, y = (struct.pack(order + "II", value, 1) for value in (aspect or Fraction(1)).as_integer_ratio())
        return [Value(282, RATIONAL, x), Value(283, RATIONAL, y), shorts(order, 296, 1)]
    inches = [per_inch(value) for value in resolution]
    parts = [Fraction(value).limit_denominator(max(1, min(10_000, int(_LARGEST_LONG / value)))) for value in inches]
    x, y = (struct.pack(order + "II", part.numerator, part.denominator) for part in parts)
    return [Value(282, RATIONAL, x), Value(283, RATIONAL, y), shorts(order, 296, 2)]


def per_inch(resolution: float) -> float:
    """Convert pixels per millimetre to pixels per inch; whole numbers that formats in metres round become whole."""
    value = resolution * 25.4
    return float(round(value)) if abs(value - round(value)) < 0.02 else value


def pack(fields: Sequence[Value], order: str, big: bool, start: int, following: int = 0) -> bytes:
    """Return a directory and everything it points to, as it is stored at the offset `start`.

    Parameters
    ----------
    fields
        Its fields in any order.
    order
        ``"<"`` or ``">"``.
    big
        True for BigTIFF.
    start
        Offset in the file.
    following
        Offset of the next directory; 0 for none.
    """
    entry, slot = (20, 8) if big else (12, 4)
    letter = "Q" if big else "I"
    head = struct.pack(order + ("Q" if big else "H"), len(fields))
    beyond_start = start + len(head) + entry * len(fields) + slot
    table, beyond = b"", bytearray()
    for one in sorted(fields, key=lambda value: value.tag):
        beyond += bytes(-len(beyond) % 8)
        place = struct.pack(order + letter, beyond_start + len(beyond))
        if one.children is not None:
            beyond += pack(one.children, order, big, beyond_start + len(beyond))
            kind, count, stored = (LONG8 if big else LONG), 1, place
        else:
            kind, count = one.kind, len(one.data) // SIZES[one.kind]
            if len(one.data) <= slot:
                stored = one.data.ljust(slot, b"\0")
            else:
                beyond += one.data
                stored = place
        table += struct.pack(order + "HH" + letter, one.tag, kind, count) + stored
    return head + table + struct.pack(order + letter, following) + bytes(beyond)
