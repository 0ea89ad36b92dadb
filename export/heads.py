"""Heads of KeyGraphAttention, padded to rows of 16 bytes where `models.heads` says that it pays.

As in `export.channels`, weights change, exactly, and never the checkpoint or the network in PyTorch: zero rows in the
projections that make q, k and v, zero columns in the one that takes the result. The node's `scale` stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ..models.heads import pad_heads, padded_size
from .weights import constant, new_constant, only_user


def pad_attention_heads(graph: ir.Graph) -> None:
    """Change `graph` in place.

    Padded are nodes with `heads`, whose q, k and v each come from a linear layer with constant weights that serves
    nothing else, and whose result goes into such a layer alone.
    """
    for node in list(graph):
        if node.op_type == "KeyGraphAttention" and "heads" in node.attributes:
            heads = node.attributes["heads"].as_int()
            makers = [_maker(value) for value in node.inputs[:3]]
            taker = _taker(node.outputs[0])
            if taker is not None and all(makers):
                for projection in (*makers, taker):
                    assert projection is not None
                    _pad(graph, projection, heads)
                _set_width(node.outputs[0], taker.width)


@dataclass(frozen=True)
class _Projection:
    """A linear layer on one side of the attention, and the Reshape between them; `dim` of its weight has the heads."""

    gemm: ir.Node
    reshape: ir.Node
    dim: int

    @property
    def width(self) -> int:
        weight = constant(self.gemm.inputs[1])
        assert weight is not None
        return int(weight.shape[self.dim])


def _maker(value: ir.Value | None) -> _Projection | None:
    """The projection that makes q, k or v."""
    reshape = value.producer() if value is not None and only_user(value) else None
    source = reshape.inputs[0] if reshape is not None and _is_reshape(reshape) else None
    gemm = source.producer() if source is not None and only_user(source) else None
    return _Projection(gemm, reshape, 0) if gemm is not None and reshape is not None and _is_linear(gemm) else None


def _taker(value: ir.Value) -> _Projection | None:
    """The projection that takes the attention's result."""
    reshape = _only_reader(value)
    gemm = _only_reader(reshape.outputs[0]) if reshape is not None and _is_reshape(reshape) else None
    return _Projection(gemm, reshape, 1) if gemm is not None and reshape is not None and _is_linear(gemm) else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, as its first input."""
    (use,) = value.uses() if only_user(value) else ((None, 0),)
    return use[0] if use[1] == 0 else None


def _is_reshape(node: ir.Node) -> bool:
    """Whether it is a Reshape to a constant shape with all channels of all heads as the last dimension."""
    target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
    return target is not None and target[-1] > 0


def _is_linear(node: ir.Node) -> bool:
    """Whether it is x W^T + b with constant W and b, as PyTorch's linear layers become."""
    given = {name: node.attributes[name].as_int() for name in ("transA", "transB") if name in node.attributes}
    return (
        node.op_type == "Gemm"
        and given.get("transA", 0) == 0
        and given.get("transB", 0) == 1
        and all(constant(value) is not None for value in node.inputs[1:] if value is not None)
    )


def _pad(graph: ir.Graph, projection: _Projection, heads: int) -> None:
    gemm, reshape, dim = projection.gemm, projection.reshape, projection.dim
    size = padded_size(projection.width // heads)
    if size * heads == projection.width:
        return
    for place in (1, 2) if dim == 0 else (1,):  # A bias has as many numbers as the layer has results.
        _replace(graph, gemm, place, lambda numbers: pad_heads(torch.tensor(numbers), heads, size, dim).numpy())
    _replace(graph, reshape, 1, lambda target: np.append(target[:-1], size * heads))
    _set_width(reshape.outputs[0], size * heads)
    if dim == 0:
        _set_width(gemm.outputs[0], size * heads)


def _replace(graph: ir.Graph, node: ir.Node, place: int, change: Callable[[NDArray], NDArray]) -> None:
    """Give a node another constant in place of this one, if there is one."""
    value = node.inputs[place] if place < len(node.inputs) else None
    numbers = constant(value)
    if value is not None and numbers is not None:
        node.replace_input_with(place, new_constant(graph, value, change(numbers), ".padded"))


def _set_width(value: ir.Value, width: int) -> None:
    if value.shape is not None:
        value.shape = ir.Shape([*value.shape[:-1], width])
