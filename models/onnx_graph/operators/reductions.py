"""Reductions, softmax and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call import Call, Operator


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def compute(call: Call) -> Tensor:
        value, axes = call.tensor(), call.numbers(1, "axes")
        if not axes:
            if call.attribute("noop_with_empty_axes", 0):
                return value
            axes = list(range(value.ndim))
        return function(value, axes, bool(call.attribute("keepdims", 1)))

    return compute


def _product(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % value.ndim for axis in axes), reverse=True):
        value = value.prod(axis, keepdim=keep)
    return value


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def compute(call: Call) -> Tensor:
        value = call.tensor()
        axis = call.attribute("axis", -1 if call.opset >= 13 else 1) % value.ndim
        if call.opset >= 13 or axis == value.ndim - 1:
            return function(value, dim=axis - value.ndim)
        # Before opset 13 over all dimensions from the axis on.
        return function(value.flatten(axis), dim=-1).reshape(value.shape)

    return compute


def _batch_norm(call: Call) -> Tensor:
    if call.attribute("training_mode", 0):
        raise call.refuse("in training mode")
    value, weight, bias, mean, variance = (call.tensor(place) for place in range(5))
    return F.batch_norm(value, mean, variance, weight, bias, training=False, eps=call.attribute("epsilon", 1e-5))


def _instance_norm(call: Call) -> Tensor:
    epsilon = call.attribute("epsilon", 1e-5)
    return F.instance_norm(call.tensor(), weight=call.tensor(1), bias=call.tensor(2), eps=epsilon)


def _layer_norm(call: Call) -> Tensor:
    value = call.tensor()
    axis = call.attribute("axis", -1) % value.ndim
    epsilon = call.attribute("epsilon", 1e-5)
    return F.layer_norm(value, value.shape[axis:], call.tensor(1), call.optional(2), epsilon)


def _group_norm(call: Call) -> Tensor:
    value, groups = call.tensor(), call.attribute("num_groups")
    weight, bias = call.tensor(1), call.tensor(2)
    if call.opset < 21:  # One for each group then, not for each channel.
        weight, bias = (each.repeat_interleave(value.shape[1] // groups) for each in (weight, bias))
    return F.group_norm(value, groups, weight, bias, call.attribute("epsilon", 1e-5))


def _lp_norm(call: Call) -> Tensor:
    return F.normalize(call.tensor(), p=call.attribute("p", 2), dim=call.attribute("axis", -1))


def _sum_of_squares(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (value * value).sum(axes, keep)


def _norm(order: int) -> Callable[[Tensor, list[int], bool], Tensor]:
    def compute(value: Tensor, axes: list[int], keep: bool) -> Tensor:
        found: Any = torch.linalg.vector_norm(value, order, axes, keep)
        return torch.as_tensor(found)

    return compute


OPERATORS: dict[str, Operator] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": _lp_norm,
    "ReduceL1": _reduction(_norm(1)),
    "ReduceL2": _reduction(_norm(2)),
    "ReduceLogSum": _reduction(lambda value, axes, keep: value.sum(axes, keep).log()),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(lambda value, axes, keep: value.mean(axes, keep)),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda value, axes, keep: value.sum(axes, keep)),
    "ReduceSumSquare": _reduction(_sum_of_squares),
    "Softmax": _softmax(torch.softmax),
}
