"""NumPy arrays, scalars and types in a pickle. Arrays of objects stay records."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch

from .values import DamagedPickleError, Stub

#: Kinds of NumPy types that are plain numbers: bool, signed, unsigned, float, complex.
_NUMBERS = "biufc"


class Type(Stub):
    """A NumPy type. Its byte order follows as its state."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
        super().__init__("numpy.dtype", (code,))
        self.dtype: np.dtype[Any] | None = None
        if isinstance(code, str) and len(code) <= 4 and code[:1] in _NUMBERS:
            self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Record the byte order, which is the second entry of the state."""
        if self.dtype is not None and isinstance(state, tuple) and state[1:2] == (">",):
            self.dtype = self.dtype.newbyteorder(">")


class Array(Stub):
    """A NumPy array; its `values` are None for an array of anything but numbers."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        super().__init__("numpy.ndarray")
        self.values: np.ndarray[Any, Any] | None = None

    def build(self, state: Any) -> None:
        """Take shape, type and bytes from the state."""
        match state:
            case (_, tuple() as shape, Type(dtype=np.dtype()) as kind, fortran, (bytes() | bytearray()) as data):
                self._fill(data, kind, shape, bool(fortran))

    def _fill(self, data: Any, kind: Type, shape: tuple[int, ...], fortran: bool) -> None:
        assert kind.dtype is not None
        if prod(shape) * kind.dtype.itemsize != len(data):
            raise DamagedPickleError(f"a NumPy array of shape {list(shape)} with {len(data)} bytes")
        values = np.frombuffer(data, kind.dtype) if data else np.empty(0, kind.dtype)
        self.values = values.reshape(shape, order="F" if fortran else "C")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any, *_: Any) -> Array:
    array = Array()
    if isinstance(kind, Type) and kind.dtype is not None and isinstance(data, (bytes, bytearray)):
        array._fill(data, kind, tuple(shape), order == "F")
    return array


def _scalar(kind: Any, data: Any = b"", *_: Any) -> Any:
    if isinstance(kind, Type) and kind.dtype is not None and isinstance(data, (bytes, bytearray)):
        return np.frombuffer(data, kind.dtype, 1)[0].item()
    return Stub("numpy.generic", (kind, data))


#: Calls by full name; NumPy 2 has ``_core`` where NumPy 1 had ``core``.
CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": Type,
    **{
        f"numpy.{core}.{name}": call
        for core in ("core", "_core")
        for name, call in (
            ("multiarray.scalar", _scalar),
            ("multiarray._reconstruct", lambda *_: Array()),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}


def as_tensor(value: Any) -> torch.Tensor | None:
    """Return a tensor, or an array of numbers as one; None for anything else."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Array) and value.values is not None:
        native = value.values.astype(value.values.dtype.newbyteorder("="))
        try:
            return torch.from_numpy(native)
        except TypeError:  # no such type in PyTorch
            return None
    return None
