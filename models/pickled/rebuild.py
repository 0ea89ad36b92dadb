"""The calls in a pickle that give real values: containers, tensors and NumPy arrays. Everything else is a `Stub`.

Each function here takes the arguments from the file, checks them, and never trusts a size: what it allocates is bounded
by what the file holds.
"""

from __future__ import annotations

import zlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from .values import DamagedPickleError, Log, Stub

#: An expanded or sparse tensor may have this many elements, or as many as its storage.
_EXPANDED = 1 << 24

_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

_STORAGES = {
    **{f"{name}Storage": getattr(torch, dtype) for name, dtype in (
        ("Double", "float64"), ("Float", "float32"), ("Half", "float16"), ("BFloat16", "bfloat16"),
        ("Long", "int64"), ("Int", "int32"), ("Short", "int16"), ("Char", "int8"), ("Byte", "uint8"), ("Bool", "bool"),
        ("ComplexDouble", "complex128"), ("ComplexFloat", "complex64"),
        ("QInt8", "int8"), ("QUInt8", "uint8"), ("QInt32", "int32"),
    )},
    "UntypedStorage": torch.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class StorageType:
    """The type of a storage, such as ``torch.FloatStorage``: what its elements are."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """The elements of one or more tensors."""

    dtype: torch.dtype
    data: torch.UntypedStorage


@dataclass(frozen=True)
class Quantization:
    """A quantization scheme of PyTorch, by name."""

    scheme: str


def constant(module: str, name: str) -> Any:
    """Return the value of a global that is no call, such as ``torch.float16``; None for others."""
    if name.endswith("Storage") and module.partition(".")[0] == "torch":
        dtype = _STORAGES.get(name)
        return StorageType(dtype) if dtype is not None else None
    if module == "torch":
        if name in _DTYPES:
            return _DTYPES[name]
        if name.startswith("per_"):
            return Quantization(name)
    return None


class Calls:
    """The calls that give values, by full name.

    Parameters
    ----------
    budget
        Entries that containers copied from others may have, together. A pickle of n bytes can define a list once and
        then ask for n copies of it.
    log
        Counts what was converted.
    nested
        Reads a storage that is stored as the bytes of a file of its own.
    """

    def __init__(self, budget: int, log: Log, nested: Callable[[bytes], Any] | None = None) -> None:
        self._budget = budget
        self._log = log
        self._nested = nested
        self.known: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": lambda pairs=(): OrderedDict(self._pairs(pairs)),
            "collections.Counter": lambda pairs=(): Counter(dict(self._pairs(pairs))),
            # Without the factory: it would be called for missing keys.
            "collections.defaultdict": lambda _factory=None, pairs=(): defaultdict(None, self._pairs(pairs)),
            "builtins.set": lambda values=(): set(map(check_key, self._copied(values))),
            "builtins.frozenset": lambda values=(): frozenset(map(check_key, self._copied(values))),
            "builtins.bytearray": self._bytearray,
            "builtins.complex": complex,
            "_codecs.encode": self._encode,
            "torch.Size": lambda sizes=(): tuple(self._copied(sizes)),
            "torch.device": lambda *arguments: Stub("torch.device", arguments),
            "torch.serialization._get_layout": lambda name: name,
            "torch.storage._load_from_bytes": self._load_from_bytes,
            "torch._utils._rebuild_tensor": tensor,
            "torch._utils._rebuild_tensor_v2": lambda *a: _with_bits(tensor(*a[:4]), *a[6:7]),
            "torch._utils._rebuild_tensor_v3": lambda *a: _with_bits(tensor(*a[:4], dtype=a[6]), *a[7:8]),
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "torch._utils._rebuild_qtensor": self._dequantized,
            "torch._utils._rebuild_sparse_tensor": sparse,
            "torch._utils._rebuild_meta_tensor_no_storage": lambda dtype, size, stride, *_: torch.empty_strided(
                _sizes(size), _sizes(stride), dtype=dtype, device="meta"
            ),
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda data, *_: data,
            "torch._utils._rebuild_device_tensor_from_numpy": lambda data, *_: data,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
            "torch._tensor._rebuild_from_type": self._from_type,
        }

    def _copied(self, values: Any) -> Any:
        self._budget -= len(values)
        if self._budget < 0:
            raise DamagedPickleError("it asks for many times more entries than it has bytes")
        return values

    def _pairs(self, pairs: Any) -> Iterable[tuple[Any, Any]]:
        found = self._copied(pairs.items() if isinstance(pairs, dict) else pairs)
        return [(check_key(key), value) for key, value in found]

    def _bytearray(self, values: Any = b"", encoding: str = "latin-1") -> bytearray:
        if isinstance(values, int):
            raise DamagedPickleError(f"a bytearray of {values} bytes that are not in the file")
        self._copied(values)
        return bytearray(values.encode("latin-1") if isinstance(values, str) else values)

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
            raise DamagedPickleError(f"bytes in the encoding {encoding!r:.40}")
        return str(self._copied(text)).encode(encoding)

    def _load_from_bytes(self, data: Any) -> Any:
        if self._nested is None or not isinstance(data, (bytes, bytearray)):
            raise DamagedPickleError("a storage within a storage")
        return self._nested(bytes(self._copied(data)))

    def _dequantized(self, *arguments: Any) -> Any:
        value = dequantized(*arguments)
        self._log.quantized += isinstance(value, torch.Tensor)
        return value

    def _from_type(self, function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
        """Return the tensor of a subclass of Tensor, without the subclass."""
        call = self.known.get(str(function))
        if call is None or call == self._from_type:
            return Stub(str(function), arguments)
        return call(*arguments)


def check_key(value: Any) -> Any:
    """Return a key of a dictionary or member of a set, if its hash is cheap.

    The hash of a tuple is computed anew each time from everything in it, so that a few nested ones take for ever.
    """

    def simple(item: Any, depth: int) -> bool:
        if isinstance(item, tuple):
            return depth < 3 and len(item) < 100 and all(simple(one, depth + 1) for one in item)
        return True

    if not simple(value, 0):
        raise DamagedPickleError("a nested tuple as a key")
    return value


def tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *_: Any, dtype: torch.dtype | None = None
) -> torch.Tensor | Stub:
    """Return a view of a storage; a record while the storages of an old file are not known yet.

    Parameters
    ----------
    storage
        The elements.
    offset, size, stride
        The view, in elements.
    dtype
        Type of the elements, where the storage has none.

    Raises
    ------
    DamagedPickleError
        The view reaches outside of the storage, or is far larger than it.
    """
    if isinstance(storage, Stub):
        return Stub("torch.Tensor")
    if not isinstance(storage, Storage):
        raise DamagedPickleError("a tensor without a storage")
    kind = dtype if dtype is not None else storage.dtype
    shape, strides = _sizes(size), _sizes(stride)
    held = storage.data.nbytes() // kind.itemsize
    if len(shape) != len(strides) or not isinstance(offset, int) or offset < 0:
        raise DamagedPickleError("a tensor with an invalid shape, stride or offset")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= held:
        raise DamagedPickleError(f"a tensor of shape {list(shape)} reaches beyond its storage of {held} elements")
    _check_size(shape, held)
    if 0 in shape:
        return torch.empty(shape, dtype=kind)
    return torch.empty(0, dtype=kind).set_(storage.data, offset, shape, strides)


def _with_bits(value: torch.Tensor | Stub, bits: Any = None) -> torch.Tensor | Stub:
    """Return a tensor with the bits by which PyTorch negates and conjugates without touching the storage."""
    if isinstance(value, Stub) or not bits:
        return value
    if not isinstance(bits, dict) or any(on for name, on in bits.items() if name not in ("neg", "conj")):
        raise DamagedPickleError(f"a tensor with the unknown metadata {bits!r:.60}")
    if bits.get("conj"):
        value = value.conj()
    return torch._neg_view(value) if bits.get("neg") else value


def check_read(storage: torch.UntypedStorage) -> None:
    """Check the CRC-32 of a storage that is mapped from an archive, if it has one.

    What is not used of a file is not read, and therefore not checked.

    Raises
    ------
    DamagedPickleError
        The bytes are not those that were written.
    """
    checksum = getattr(storage, "_keygraph_checksum", 0)
    if checksum and zlib.crc32(torch.empty(0, dtype=torch.uint8).set_(storage).numpy().data) != checksum:
        raise DamagedPickleError(
            f"a storage of {storage.nbytes():,} bytes is damaged: its CRC-32 is not the one that is stored with it"
        )


def dequantized(storage: Any, offset: Any, size: Any, stride: Any, parameters: Any, *_: Any) -> torch.Tensor | Stub:
    """Return a quantized tensor as float32: (value - zero point) * scale.

    Parameters
    ----------
    storage, offset, size, stride
        The integers, as for `tensor`.
    parameters
        Scheme, scale and zero point; for one scale per channel: scheme, scales, zero points and axis.
    """
    values = tensor(storage, offset, size, stride)
    if isinstance(values, Stub):
        return values
    check_read(storage.data)
    match parameters:
        case (Quantization("per_tensor_affine"), (int() | float()) as scale, int(zero)):
            return (values.to(torch.float64) - zero).mul(scale).float()
        case (Quantization("per_channel_affine"), scales, zeros, int(axis)) if -values.ndim <= axis < values.ndim:
            shape = [1] * values.ndim
            shape[axis] = -1
            factors, zero_points = (
                torch.as_tensor(part, dtype=torch.float64).reshape(shape) for part in (scales, zeros)
            )
            return ((values.to(torch.float64) - zero_points) * factors).float()
    raise DamagedPickleError("a quantized tensor of an unknown scheme")


def sparse(layout: Any, data: Any) -> torch.Tensor | Stub:
    """Return a sparse tensor, with its indices checked."""
    parts = [*data]
    if any(isinstance(part, Stub) for part in parts):
        return Stub("torch.Tensor")
    shape = _sizes(parts[2] if layout == "torch.sparse_coo" else parts[3])
    _check_size(shape, 0)
    if layout == "torch.sparse_coo":
        found = torch.sparse_coo_tensor(parts[0], parts[1], shape, check_invariants=True)
        return found._coalesced_(True) if parts[3:] == [True] else found
    layouts = {f"torch.sparse_{name}": getattr(torch, f"sparse_{name}") for name in ("csr", "csc", "bsr", "bsc")}
    if layout not in layouts:
        raise DamagedPickleError(f"a sparse tensor of the layout {layout!r:.40}")
    return torch.sparse_compressed_tensor(
        parts[0], parts[1], parts[2], size=shape, layout=layouts[layout], check_invariants=True
    )


def _check_size(shape: tuple[int, ...], held: int) -> None:
    if prod(shape) > max(held, _EXPANDED):
        raise DamagedPickleError(f"a tensor of shape {list(shape)} whose values are not in the file")


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > 64:
        raise DamagedPickleError("a shape that is no tuple")
    if not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in values):
        raise DamagedPickleError("a shape with a negative or enormous size")
    return tuple(values)
