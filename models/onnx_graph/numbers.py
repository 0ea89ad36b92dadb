"""Operators on sizes and other small constants, which are computed when the network is traced and not when it runs.

Values are NumPy arrays; those that depend on the image's size hold `torch.SymInt` objects while `torch.export` traces.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import helper

from .call import Call, Numbers, Operator

#: Most numbers that are made of one.
_MOST = 256


def evaluate(call: Call) -> list[Numbers] | None:
    """Compute a node whose inputs are all numbers.

    Returns
    -------
    list or None
        Its results; None where it is to be computed with tensors.
    """
    function = _TABLE.get(call.operator)
    inputs = [value for value in call.inputs if value is not None]
    if function is None or not inputs or not all(isinstance(value, np.ndarray) for value in inputs):
        return None
    found: Any = function(call)
    if found is None:
        return None
    return [settled(value) for value in (found if isinstance(found, list) else [found])]


def settled(value: Any) -> Numbers:
    """Return an array of plain numbers where none of them is symbolic."""
    array = np.asarray(value)
    symbols = (torch.SymInt, torch.SymFloat, torch.SymBool)
    if array.dtype != object or any(isinstance(number, symbols) for number in array.reshape(-1)):
        return array
    numbers = array.reshape(-1).tolist()
    kind: Any = bool if numbers and all(isinstance(n, bool) for n in numbers) else np.int64
    if any(isinstance(number, float) for number in numbers):
        kind = np.float32
    return np.array(numbers, dtype=kind).reshape(array.shape)


def sizes_of(shape: Any) -> Numbers:
    """Return sizes, of which some may be symbolic, as numbers.

    Parameters
    ----------
    shape
        The sizes.
    """
    array = np.empty(len(shape), dtype=object)
    array[:] = list(shape)
    return settled(array)


def truncated(first: Any, second: Any) -> Any:
    """Divide integers as ONNX does: towards zero."""
    return -(-first // second) if (first < 0) != (second < 0) else first // second


def _on_each(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    each: Callable[..., Any] = np.frompyfunc(function, count, 1)
    return each


def _is_integer(value: Any) -> bool:
    array = np.asarray(value)
    if array.dtype != object:
        return bool(np.issubdtype(array.dtype, np.integer))
    return all(isinstance(number, int | torch.SymInt) for number in array.reshape(-1))


def _divide(first: Any, second: Any) -> Any:
    if _is_integer(first) and _is_integer(second):
        return _on_each(truncated, 2)(first, second)
    return np.true_divide(first, second)


def _either(plain: Callable[..., Any], symbolic: Callable[..., Any]) -> Operator:
    """Return an elementwise operator: NumPy's for plain numbers, another one for symbolic ones."""

    def compute(call: Call) -> Any:
        values: list[Any] = [value for value in call.inputs if value is not None]
        objects = any(value.dtype == object for value in values)
        function = _on_each(symbolic, len(values)) if objects else plain
        return function(*values)

    return compute


def _folded(plain: Callable[..., Any], symbolic: Callable[..., Any]) -> Operator:
    """Return an elementwise operator of any number of inputs."""

    def compute(call: Call) -> Any:
        first, *others = (np.asarray(value) for value in call.inputs)
        for other in others:
            objects = object in (first.dtype, other.dtype)
            first = np.asarray((_on_each(symbolic, 2) if objects else plain)(first, other))
        return first

    return compute


def _reduced(plain: Callable[..., Any], symbolic: Callable[..., Any]) -> Operator:
    def compute(call: Call) -> Any:
        value = np.asarray(call.inputs[0])
        axes = call.numbers(1, "axes")
        function: Any = _on_each(symbolic, 2) if value.dtype == object else plain
        keep = bool(call.attribute("keepdims", 1))
        for axis in sorted((axis % value.ndim for axis in axes or range(value.ndim)), reverse=True):
            value = np.asarray(function.reduce(value, axis=axis, keepdims=keep))
        return value

    return compute


def _cast(call: Call) -> Any:
    value = np.asarray(call.inputs[0])
    kind = helper.tensor_dtype_to_np_dtype(call.attribute("to"))
    if value.dtype != object:
        return value.astype(kind)
    if np.issubdtype(kind, np.floating):
        return _on_each(torch.sym_float, 1)(value)
    return _on_each(lambda number: number != 0 if kind == np.bool_ else torch.sym_int(number), 1)(value)


def _gather(call: Call) -> Any:
    value, index = np.asarray(call.inputs[0]), np.asarray(call.inputs[1])
    return np.take(value, index.astype(np.int64), axis=call.attribute("axis", 0)) if index.dtype != object else None


def _slice(call: Call) -> Any:
    value = np.asarray(call.inputs[0])
    starts, ends = call.required(1, "starts"), call.required(2, "ends")
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    steps = call.numbers(4) or [1] * len(starts)
    if not all(isinstance(number, int) for number in (*starts, *ends)):
        return None
    index = [slice(None)] * value.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # From the last to the first one, the end lies before the first.
        beyond = step < 0 and end < -value.shape[axis]
        index[axis] = slice(start, None if beyond else end, step)
    return value[tuple(index)]


def _reshape(call: Call) -> Any:
    value = np.asarray(call.inputs[0])
    target = call.required(1)
    if not call.attribute("allowzero", 0):
        target = [value.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return value.reshape(target) if all(isinstance(size, int) for size in target) else None


def _unsqueeze(call: Call) -> Any:
    value = np.asarray(call.inputs[0])
    axes = call.required(1, "axes")
    return np.expand_dims(value, tuple(axes))


def _squeeze(call: Call) -> Any:
    axes = call.numbers(1, "axes")
    return np.squeeze(np.asarray(call.inputs[0]), tuple(axes) if axes is not None else None)


def _full(call: Call) -> Any:
    sizes = call.required(0)
    if not all(isinstance(size, int) for size in sizes) or math.prod(sizes) > _MOST:
        return None
    given = call.attribute("value")
    value = np.zeros(1, np.float32) if given is None else given
    return np.full(sizes, value.reshape(-1)[0], value.dtype) if np.issubdtype(value.dtype, np.integer) else None


def _range(call: Call) -> Any:
    start, limit, delta = (np.asarray(value) for value in call.inputs)
    if object in (start.dtype, limit.dtype, delta.dtype):
        return None
    found = np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)
    return found if found.size <= _MOST else None


def _split(call: Call) -> Any:
    value, axis = np.asarray(call.inputs[0]), call.attribute("axis", 0)
    parts = call.numbers(1, "split")
    return np.split(value, np.cumsum(parts)[:-1] if parts else call.outputs, axis=axis)


def _expand(call: Call) -> Any:
    value, target = np.asarray(call.inputs[0]), call.required(1)
    if not all(isinstance(size, int) for size in target) or math.prod(target) > _MOST:
        return None
    return np.broadcast_to(value, np.broadcast_shapes(value.shape, tuple(target)))


def _where(call: Call) -> Any:
    return np.where(*(np.asarray(value) for value in call.inputs))


_TABLE: dict[str, Operator] = {
    "Abs": _either(np.abs, abs),
    "Add": _folded(np.add, operator.add),
    "And": _either(np.logical_and, lambda a, b: bool(a) and bool(b)),
    "Cast": _cast,
    "Ceil": _either(np.ceil, math.ceil),
    "Concat": lambda call: np.concatenate([np.asarray(value) for value in call.inputs], call.attribute("axis")),
    "ConstantOfShape": _full,
    "Div": lambda call: _divide(*call.inputs),
    "Equal": _either(np.equal, lambda a, b: bool(a == b)),
    "Expand": _expand,
    "Floor": _either(np.floor, math.floor),
    "Gather": _gather,
    "Greater": _either(np.greater, lambda a, b: bool(a > b)),
    "GreaterOrEqual": _either(np.greater_equal, lambda a, b: bool(a >= b)),
    "Identity": lambda call: call.inputs[0],
    "Less": _either(np.less, lambda a, b: bool(a < b)),
    "LessOrEqual": _either(np.less_equal, lambda a, b: bool(a <= b)),
    "Max": _folded(np.maximum, torch.sym_max),
    "Min": _folded(np.minimum, torch.sym_min),
    "Mod": _either(np.mod, operator.mod),
    "Mul": _folded(np.multiply, operator.mul),
    "Neg": _either(np.negative, operator.neg),
    "Not": _either(np.logical_not, lambda a: not a),
    "Or": _either(np.logical_or, lambda a, b: bool(a) or bool(b)),
    "Pow": _either(lambda a, b: np.power(a, b).astype(a.dtype), operator.pow),
    "Range": _range,
    "Reciprocal": _either(np.reciprocal, lambda a: 1.0 / a),
    "ReduceMax": _reduced(np.maximum, torch.sym_max),
    "ReduceMin": _reduced(np.minimum, torch.sym_min),
    "ReduceProd": _reduced(np.multiply, operator.mul),
    "ReduceSum": _reduced(np.add, operator.add),
    "Reshape": _reshape,
    "Shape": lambda call: sizes_of(np.asarray(call.inputs[0]).shape),
    "Size": lambda call: np.asarray(np.asarray(call.inputs[0]).size),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _either(np.sqrt, torch.sym_sqrt if hasattr(torch, "sym_sqrt") else math.sqrt),
    "Squeeze": _squeeze,
    "Sub": _folded(np.subtract, operator.sub),
    "Sum": _folded(np.add, operator.add),
    "Transpose": lambda call: np.transpose(np.asarray(call.inputs[0]), call.attribute("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _either(np.logical_xor, lambda a, b: bool(a) != bool(b)),
}
