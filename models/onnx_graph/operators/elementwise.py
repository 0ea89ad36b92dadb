"""Elementwise operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import DTYPES, Call, Operator, as_tensor


def _unary(function: Callable[..., Tensor], **defaults: tuple[str, Any]) -> Operator:
    """Return an operator of one tensor.

    Parameters
    ----------
    function
        PyTorch's.
    **defaults
        Name of each of its arguments -> name of the ONNX attribute, and its default.
    """

    def compute(call: Call) -> Tensor:
        given = {name: call.attribute(attribute, default) for name, (attribute, default) in defaults.items()}
        return function(call.tensor(), **given)

    return compute


def _pair(call: Call) -> tuple[Any, Any]:
    """Return two inputs, at least one of them a tensor."""
    first, second = call.inputs[:2]
    rank = max(value.ndim for value in (first, second) if value is not None)
    if isinstance(first, Tensor) and isinstance(second, np.ndarray):
        return first, call.operand(1, first.ndim)
    if isinstance(first, np.ndarray) and isinstance(second, Tensor) and second.ndim == rank:
        return call.operand(0, rank), second
    return as_tensor(first), as_tensor(second)


def _binary(function: Callable[..., Tensor]) -> Operator:
    """Return an operator of two tensors, or of a tensor and a number."""

    def compute(call: Call) -> Tensor:
        first, second = _pair(call)
        return function(first, second)

    return compute


def _compared(function: Callable[..., Tensor], mirrored: Callable[..., Tensor]) -> Operator:
    """Return a comparison, which takes its number second."""

    def compute(call: Call) -> Tensor:
        first, second = _pair(call)
        return function(first, second) if isinstance(first, Tensor) else mirrored(second, first)

    return compute


def _divide(first: Any, second: Any) -> Tensor:
    tensor = first if isinstance(first, Tensor) else second
    return torch.div(first, second, rounding_mode=None if tensor.is_floating_point() else "trunc")


def _subtract(first: Any, second: Any) -> Tensor:
    return torch.sub(first, second) if isinstance(first, Tensor) else torch.rsub(second, first)


def _variadic(function: Callable[..., Tensor]) -> Callable[[Call], Tensor]:
    def compute(call: Call) -> Tensor:
        result = call.tensor()
        for place in range(1, len(call.inputs)):
            result = function(result, call.tensor(place))
        return result

    return compute


def _extreme(function: Callable[..., Tensor], bound: Callable[..., Tensor]) -> Operator:
    """Return the larger or smaller of tensors; with a number it bounds the other one."""
    each = _variadic(function)

    def compute(call: Call) -> Tensor:
        if len(call.inputs) != 2:
            return each(call)
        first, second = _pair(call)
        if isinstance(first, Tensor):
            return function(first, second) if isinstance(second, Tensor) else bound(first, second)
        return bound(second, first)

    return compute


def _mean(call: Call) -> Tensor:
    return _variadic(torch.add)(call) / len(call.inputs)


def _modulo(call: Call) -> Tensor:
    first, second = _pair(call)
    return torch.fmod(first, second) if call.attribute("fmod", 0) else torch.remainder(first, second)


def _where(call: Call) -> Tensor:
    mask = call.tensor()
    values = [value for value in call.inputs[1:] if isinstance(value, Tensor)]
    rank = max((value.ndim for value in (mask, *values)), default=0)
    # Two numbers would lose their type.
    first, second = (call.operand(place, rank) if values else call.tensor(place) for place in (1, 2))
    return torch.where(mask, first, second)


def _clip(call: Call) -> Tensor:
    value = call.tensor()
    bounds: dict[str, Any] = {}
    for place, name in ((1, "min"), (2, "max")):
        if call.given(place):
            bounds[name] = call.operand(place, value.ndim)
        elif call.attribute(name) is not None:
            bounds[name] = call.attribute(name)
    if any(isinstance(bound, Tensor) for bound in bounds.values()):
        bounds = {name: torch.as_tensor(bound) for name, bound in bounds.items()}
    return torch.clamp(value, **bounds) if bounds else value


def _cast(call: Call) -> Tensor:
    number = call.attribute("to")
    if number not in DTYPES:
        raise call.refuse(f"to element type {number}")
    return call.tensor().to(DTYPES[number])


def _prelu(call: Call) -> Tensor:
    value, slope = call.tensor(), call.tensor(1)
    return torch.where(value < 0, value * slope, value)


def _is_infinite(call: Call) -> Tensor:
    value = call.tensor()
    sides = [call.attribute(f"detect_{side}", 1) for side in ("negative", "positive")]
    if sides == [1, 1]:
        return torch.isinf(value)
    return value == (-torch.inf if sides[0] else torch.inf)


def _first(call: Call) -> Tensor:
    return call.tensor()


OPERATORS: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _variadic(torch.logical_and),
    "Cast": _cast,
    "CastLike": lambda call: call.tensor().to(call.tensor(1).dtype),
    "Ceil": _unary(torch.ceil),
    "Celu": _unary(F.celu, alpha=("alpha", 1.0)),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _binary(_divide),
    "Dropout": _first,
    "Elu": _unary(F.elu, alpha=("alpha", 1.0)),
    "Equal": _compared(torch.eq, torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _unary(F.gelu, approximate=("approximate", "none")),
    "Greater": _compared(torch.gt, torch.lt),
    "GreaterOrEqual": _compared(torch.ge, torch.le),
    "HardSigmoid": lambda call: torch.clamp(
        call.tensor() * call.attribute("alpha", 0.2) + call.attribute("beta", 0.5), 0, 1
    ),
    "HardSwish": _unary(F.hardswish),
    "Identity": _first,
    "IsInf": _is_infinite,
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": _unary(F.leaky_relu, negative_slope=("alpha", 0.01)),
    "Less": _compared(torch.lt, torch.gt),
    "LessOrEqual": _compared(torch.le, torch.ge),
    "Log": _unary(torch.log),
    "Max": _extreme(torch.maximum, torch.clamp_min),
    "Mean": _mean,
    "Min": _extreme(torch.minimum, torch.clamp_max),
    "Mish": _unary(F.mish),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _variadic(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(torch.pow),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Selu": _unary(F.selu),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(_subtract),
    "Sum": _variadic(torch.add),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": lambda call: F.threshold(call.tensor(), call.attribute("alpha", 1.0), 0.0),
    "Where": _where,
    "Xor": _variadic(torch.logical_xor),
}
