"""Values of an ONNX file's tensors as bytes, wherever they are stored: in the model, or in a file beside it."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ....errors import InputError
from .wire import Buffer, fields, message_of, number_of, numbers, text

#: Fields of TensorProto.
_DIMS, _TYPE, _FLOATS, _INT32S, _STRINGS, _INT64S, _NAME, _RAW = 1, 2, 4, 5, 6, 7, 8, 9
_DOUBLES, _UINT64S, _EXTERNAL = 10, 11, 13

#: ONNX's type of string tensors.
STRING = 8

#: ONNX's number of a type -> bits of an element. Types that are not listed are newer than this table.
_BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}


@dataclass(frozen=True)
class ExternalTensor:
    """Where the values of a tensor lie in a file beside the model: `length` is None for all that follows `offset`."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True)
class Tensor:
    """A TensorProto.

    Attributes
    ----------
    name
        Empty for tensors in attributes.
    dtype
        ONNX's number of the element type.
    dims
        The shape.
    values
        The elements in ONNX's raw layout: little endian, row-major, elements below 8 bits packed. For strings, each
        with its length before it.
    external
        Where the values are, if they are not in the model.
    """

    name: str
    dtype: int
    dims: tuple[int, ...]
    values: Buffer
    external: ExternalTensor | None = None

    @property
    def size(self) -> int | None:
        """Bytes of the elements; None for strings and for types that this version does not know."""
        bits = _BITS.get(self.dtype)
        return None if bits is None else (math.prod(self.dims) * bits + 7) // 8


@dataclass
class ExternalData:
    """The files beside a model that store its weights, each opened once.

    Attributes
    ----------
    model
        The model file.
    files
        The files that were read, by their location in the model.
    """

    model: Path
    files: dict[str, Path] = field(default_factory=dict)
    _views: dict[str, memoryview] = field(default_factory=dict)

    def read(self, tensor: Tensor) -> Buffer:
        """Return a tensor's values, from the file that it refers to.

        Raises
        ------
        InputError
            The file is missing, lies outside the model's folder, or is too short; or the model itself lacks values.
        """
        values, wanted = tensor.values, tensor.size
        if tensor.external is not None:
            values = self._read(tensor, tensor.external)
        if wanted is not None and len(values) != wanted:
            raise InputError(
                f"{self.model} is damaged: its weight {tensor.name or 'in a constant'} has {len(values):,} bytes where "
                f"its shape {list(tensor.dims)} needs {wanted:,}; export or download it again"
            )
        return values

    def _read(self, tensor: Tensor, external: ExternalTensor) -> Buffer:
        view = self._views.get(external.location)
        if view is None:
            path = self._locate(external.location)
            view = self._views[external.location] = map_file(path)
            self.files[external.location] = path
        length = external.length if external.length is not None else len(view) - external.offset
        end = external.offset + length
        if external.offset < 0 or length < 0 or end > len(view):
            raise InputError(
                f"{self.files[external.location]} is cut off or belongs to another model: it has {len(view):,} bytes, "
                f"and the weight {tensor.name} of {self.model.name} lies at {external.offset:,} to {end:,}; copy or "
                "download both files again"
            )
        return view[external.offset : end]

    def _locate(self, location: str) -> Path:
        """Return the path of a data file; only files in the model's folder, or below it, are read."""
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise InputError(
                f"{self.model} stores weights in {location}, outside its own folder, which is not allowed; store it "
                "again with its data file beside it"
            )
        path = self.model.parent / location
        try:
            found, link = path.is_file(), path.is_symlink()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; it stores weights of {self.model.name}") from error
        if found:
            return path
        if link:
            raise InputError(
                f"{path}, which stores weights of {self.model.name}, is a broken link to {path.readlink()}; restore "
                "the file that it links to"
            )
        raise InputError(f"{path} is missing: it stores weights of {self.model.name}; keep the two files together")


def map_file(path: Path) -> memoryview:
    """Return a file's content without copying it.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            # An empty file cannot be mapped.
            size = file.seek(0, 2)
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def read_tensor(message: Buffer) -> Tensor:
    """Read a TensorProto; values that are not raw are converted to raw ones."""
    dtype, name, raw = 0, "", None
    data: dict[int, list[int | Buffer]] = {}
    external: dict[str, str] = {}
    for number, value in fields(message):
        if number == _TYPE:
            dtype = number_of(value)
        elif number == _NAME:
            name = text(value)
        elif number == _RAW:
            raw = message_of(value)
        elif number == _EXTERNAL:
            entry = {key: text(part) for key, part in fields(message_of(value))}
            external[entry.get(1, "")] = entry.get(2, "")
        else:
            data.setdefault(number, []).append(value)
    dims = tuple(int(size) for size in numbers(data.get(_DIMS, ()), "<i8"))
    where = _external(external) if external else None
    return Tensor(name, dtype, dims, raw if raw is not None else _typed(dtype, data), where)


def _external(entries: Mapping[str, str]) -> ExternalTensor | None:
    length = entries.get("length")
    try:
        return ExternalTensor(
            entries.get("location", ""), int(entries.get("offset") or 0), int(length) if length else None
        )
    except ValueError:
        raise InputError(f"external data at {dict(entries)} cannot be read; export the model again") from None


def _typed(dtype: int, data: Mapping[int, list[int | Buffer]]) -> bytes:
    """Return the raw form of values in the fields for typed data."""
    if dtype == STRING:
        strings = [bytes(message_of(value)) for value in data.get(_STRINGS, ())]
        return b"".join(len(one).to_bytes(8, "little") + one for one in strings)
    if _INT32S in data:
        width = {8: "<u1", 16: "<u2"}.get(_BITS.get(dtype, 32), "<i4" if _BITS.get(dtype) == 32 else "<u1")
        return numbers(data[_INT32S], "<i8").astype(width).tobytes()
    if _UINT64S in data:
        return numbers(data[_UINT64S], "<u8").astype("<u4" if _BITS.get(dtype) == 32 else "<u8").tobytes()
    for number, kind in ((_FLOATS, "<f4"), (_DOUBLES, "<f8"), (_INT64S, "<i8")):
        if number in data:
            return numbers(data[number], kind).tobytes()
    return b""
