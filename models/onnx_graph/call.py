"""What the implementation of an operator gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from ...errors import InputError

#: Sizes and other small constants: of dtype object where some depend on the image's size (`torch.SymInt`).
Numbers: TypeAlias = NDArray[Any]

#: A value of the graph; None for an input that is left out.
Value: TypeAlias = "Tensor | Numbers | None"

#: ONNX element type -> PyTorch's.
DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


class UnsupportedError(InputError):
    """A form of an operator that is not imported."""


@dataclass(frozen=True)
class Call:
    """One execution of an ONNX node.

    Attributes
    ----------
    operator
        The node's operator.
    inputs
        Values; None where an optional input is left out.
    constants
        For each input its value where it is stored in the file, else None.
    attributes
        By name.
    opset
        Version of the standard operators in the file.
    outputs
        Number of results that the node names.
    """

    operator: str
    inputs: Sequence[Value]
    constants: Sequence[Numbers | None]
    attributes: dict[str, Any]
    opset: int
    outputs: int = 1

    def given(self, place: int) -> bool:
        """Tell whether there is an input at a place."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def tensor(self, place: int = 0) -> Tensor:
        """Return an input as a tensor."""
        if not self.given(place):
            raise UnsupportedError(f"input {place + 1} of {self.operator} is missing")
        return as_tensor(self.inputs[place])

    def optional(self, place: int) -> Tensor | None:
        """Return an input as a tensor, or None where it is left out."""
        return self.tensor(place) if self.given(place) else None

    def operand(self, place: int, rank: int) -> Any:
        """Return an input for arithmetic: a Python number where it is one, and of no higher rank than the other."""
        value = self.inputs[place]
        return value.item() if isinstance(value, np.ndarray) and _is_plain(value, rank) else as_tensor(value)

    def numbers(self, place: int, name: str = "") -> list[Any] | None:
        """Return an input as a list of numbers, or the attribute that it was in earlier opsets; None without either.

        Raises
        ------
        UnsupportedError
            They are computed from the values of the image.
        """
        if not self.given(place):
            found = self.attributes.get(name)
            return found if found is None or isinstance(found, list) else [found]
        value = self.inputs[place]
        constant = self.constants[place]
        if isinstance(value, np.ndarray):
            return list(value.reshape(-1).tolist())
        if constant is not None:
            return list(constant.reshape(-1).tolist())
        raise UnsupportedError(f"input {place + 1} of {self.operator} depends on the values of the image")

    def required(self, place: int, name: str = "") -> list[Any]:
        """Return `numbers`, which must be there."""
        found = self.numbers(place, name)
        if found is None:
            raise UnsupportedError(f"{name or f'input {place + 1}'} of {self.operator} is missing")
        return found

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.attributes.get(name, default)

    def refuse(self, what: str) -> UnsupportedError:
        """Return the error for a form of the operator that is not imported."""
        return UnsupportedError(f"{self.operator} {what} is not supported")


#: Implementation of an operator.
Operator: TypeAlias = Callable[[Call], "Value | Sequence[Value]"]


def as_tensor(value: Value) -> Tensor:
    """Return a value as a tensor."""
    if isinstance(value, Tensor):
        return value
    assert value is not None
    if value.dtype != object:
        return torch.from_numpy(np.array(value))
    numbers = [as_scalar(number) for number in value.reshape(-1)]
    return torch.stack(numbers).reshape(value.shape) if numbers else torch.zeros(value.shape, dtype=torch.int64)


def as_scalar(number: Any) -> Tensor:
    """Return a number, which may be symbolic, as a tensor without dimensions."""
    kind = torch.float32 if isinstance(number, float | torch.SymFloat) else torch.int64
    return torch.scalar_tensor(number, dtype=kind)


def _is_plain(value: Numbers, rank: int) -> bool:
    return value.size == 1 and value.ndim <= rank
