"""Operators that change shapes: views, joins, parts, repetitions."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import Call, Operator, Value
from ..numbers import sizes_of

#: An end of a slice from here on is that of the dimension.
_END = 2**31 - 1


def _shape(call: Call) -> Value:
    value = call.tensor()
    return sizes_of(value.shape[call.attribute("start", 0) : call.attribute("end")])


def _reshape(call: Call) -> Tensor:
    value, target = call.tensor(), call.required(1)
    if not call.attribute("allowzero", 0):
        target = [value.shape[i] if _is(size, 0) else size for i, size in enumerate(target)]
    return value.reshape(target)


def _is(size: Any, number: int) -> bool:
    return isinstance(size, int) and size == number


def _flatten(call: Call) -> Tensor:
    value, axis = call.tensor(), call.attribute("axis", 1)
    axis = axis % value.ndim if axis != value.ndim else axis
    rows: Any = 1
    for size in value.shape[:axis]:
        rows = rows * size
    return value.reshape(rows, -1)


def _unsqueeze(call: Call) -> Tensor:
    value, axes = call.tensor(), call.required(1, "axes")
    rank = value.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _squeeze(call: Call) -> Tensor:
    value, axes = call.tensor(), call.numbers(1, "axes")
    if axes is None:
        axes = [axis for axis, size in enumerate(value.shape) if _is(size, 1)]
    for axis in sorted((axis % value.ndim for axis in axes), reverse=True):
        value = value.squeeze(axis)
    return value


def _transpose(call: Call) -> Tensor:
    value = call.tensor()
    return value.permute(call.attribute("perm") or list(reversed(range(value.ndim))))


def _concat(call: Call) -> Tensor:
    return torch.cat([call.tensor(place) for place in range(len(call.inputs))], call.attribute("axis"))


def _split(call: Call) -> list[Value]:
    value, axis = call.tensor(), call.attribute("axis", 0)
    parts = call.numbers(1, "split")
    if parts is None:
        count = call.attribute("num_outputs") or call.outputs
        each = -(-value.shape[axis] // count)
        return list(value.split(each, axis))
    return list(value.split(parts, axis))


def _slice(call: Call) -> Tensor:
    value = call.tensor()
    starts, ends = call.required(1, "starts"), call.required(2, "ends")
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    steps = call.numbers(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        dim = axis % value.ndim
        if step < 0:
            value = _reversed(call, value, dim, start, end, step)
            continue
        to_end = isinstance(end, int) and end >= _END
        if to_end and _is(start, 0) and step == 1:
            continue
        index = (slice(None),) * dim + (slice(start, sys.maxsize if to_end else end, step),)
        value = value[index]
    return value


def _reversed(call: Call, value: Tensor, dim: int, start: Any, end: Any, step: int) -> Tensor:
    whole = (_is(start, -1) or (isinstance(start, int) and start >= _END)) and isinstance(end, int) and end <= -_END
    if step != -1 or not whole:
        raise call.refuse("with a negative step, of a part of a dimension,")
    return value.flip(dim)


def _expand(call: Call) -> Tensor:
    value, target = call.tensor(), call.required(1)
    rank = max(value.ndim, len(target))
    target = [1] * (rank - len(target)) + target
    new = rank - value.ndim
    return value.expand([-1 if i >= new and _is(size, 1) else size for i, size in enumerate(target)])


def _tile(call: Call) -> Tensor:
    return call.tensor().repeat(call.required(1))


def _full(call: Call) -> Tensor:
    given = call.attribute("value")
    value = torch.zeros(1) if given is None else torch.from_numpy(given.reshape(-1).copy())
    return torch.full(tuple(call.required(0)), value.item(), dtype=value.dtype)


def _range(call: Call) -> Tensor:
    start, limit, delta = (call.required(place)[0] for place in range(3))
    return torch.arange(start, limit, delta)


def _depth_to_space(call: Call) -> Tensor:
    value, block = call.tensor(), call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(value, block)
    batch, channels, height, width = value.shape
    blocks = value.reshape(batch, block, block, channels // block**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // block**2, height * block, width * block)


def _space_to_depth(call: Call) -> Tensor:
    value, block = call.tensor(), call.attribute("blocksize")
    batch, channels, height, width = value.shape
    blocks = value.reshape(batch, channels, height // block, block, width // block, block)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * block**2, height // block, width // block)


def _pad(call: Call) -> Tensor:
    value, mode = call.tensor(), call.attribute("mode", "constant")
    pads = call.required(1, "pads")
    axes = call.numbers(3) or list(range(value.ndim))
    sides: list[tuple[Any, Any]] = [(0, 0)] * value.ndim
    for i, axis in enumerate(axes):
        sides[axis % value.ndim] = pads[i], pads[i + len(axes)]
    if mode == "constant":
        kind = [number for side in reversed(sides) for number in side]
        fill = call.numbers(2) or [call.attribute("value", 0.0)]
        return F.pad(value, kind, value=fill[0])
    while sides and _is(sides[0][0], 0) and _is(sides[0][1], 0) and len(sides) > 2:
        sides.pop(0)
    if mode not in ("reflect", "edge", "wrap") or len(sides) > 2 or value.ndim not in (3, 4):
        raise call.refuse(f"with mode {mode}, of these dimensions,")
    given = [number for side in reversed(sides) for number in side]
    return F.pad(value, given, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _triangle(call: Call) -> Tensor:
    diagonal = (call.numbers(1) or [0])[0]
    return (torch.triu if call.attribute("upper", 1) else torch.tril)(call.tensor(), diagonal)


def _size(call: Call) -> Value:
    count: Any = 1
    for size in call.tensor().shape:
        count = count * size
    return sizes_of([count]).reshape(())


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "ConstantOfShape": _full,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
