"""Operators that look elements up, place them, or rank them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import Call, Operator, Value


def _gather(call: Call) -> Tensor:
    value, index = call.tensor(), call.inputs[1]
    dim = call.attribute("axis", 0) % value.ndim
    if isinstance(index, np.ndarray) and index.size == 1 and index.ndim <= 1:
        place = index.reshape(-1)[0]
        place = place if index.dtype == object else int(place)
        return value.select(dim, place) if index.ndim == 0 else value.select(dim, place).unsqueeze(dim)
    return value[(slice(None),) * dim + (call.tensor(1),)]


def _gather_elements(call: Call) -> Tensor:
    return torch.gather(call.tensor(), call.attribute("axis", 0), call.tensor(1).long())


def _places(index: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return the indices of each dimension from int64[..., count]."""
    return tuple(index.select(-1, i) for i in range(count))


def _gather_nd(call: Call) -> Tensor:
    value, index = call.tensor(), call.tensor(1)
    if call.attribute("batch_dims", 0):
        raise call.refuse("with batch_dims")
    return value[_places(index, _depth(call, index))]


def _depth(call: Call, index: Tensor) -> int:
    depth = index.shape[-1]
    if not isinstance(depth, int):
        raise call.refuse("with indices whose number depends on the image's size")
    return depth


def _scatter_elements(call: Call) -> Tensor:
    value, index, updates = call.tensor(), call.tensor(1).long(), call.tensor(2)
    dim, reduction = call.attribute("axis", 0), call.attribute("reduction", "none")
    if reduction == "none":
        return torch.scatter(value, dim, index, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(value, dim, index, updates, names[reduction])


def _scatter_nd(call: Call) -> Tensor:
    value, index, updates = call.tensor(), call.tensor(1), call.tensor(2)
    reduction = call.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise call.refuse(f"with reduction {reduction}")
    return value.index_put(_places(index, _depth(call, index)), updates, accumulate=reduction == "add")


def _top_k(call: Call) -> list[Value]:
    count = call.required(1)[0]
    values, indices = torch.topk(
        call.tensor(),
        count,
        dim=call.attribute("axis", -1),
        largest=bool(call.attribute("largest", 1)),
        sorted=bool(call.attribute("sorted", 1)),
    )
    return [values, indices]


def _extreme(call: Call) -> Tensor:
    if call.attribute("select_last_index", 0):
        raise call.refuse("with select_last_index")
    function: Any = torch.argmax if call.operator == "ArgMax" else torch.argmin
    found: Tensor = function(call.tensor(), call.attribute("axis", 0), bool(call.attribute("keepdims", 1)))
    return found


def _one_hot(call: Call) -> Tensor:
    index, depth = call.tensor().long(), call.required(1)[0]
    off, on = call.required(2)
    result = F.one_hot(index, depth)
    kind = call.tensor(2).dtype
    result = result.to(kind)
    if (off, on) != (0, 1):
        result = result * (on - off) + off
    axis = call.attribute("axis", -1)
    return result if axis in (-1, result.ndim - 1) else result.movedim(-1, axis)


def _cumulative(call: Call) -> Tensor:
    if call.attribute("exclusive", 0) or call.attribute("reverse", 0):
        raise call.refuse("exclusive or in reverse")
    return torch.cumsum(call.tensor(), call.required(1)[0])


OPERATORS: dict[str, Operator] = {
    "ArgMax": _extreme,
    "ArgMin": _extreme,
    "CumSum": _cumulative,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
}
