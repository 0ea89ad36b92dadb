"""Pad the heads of KeyGraphAttention to rows of 16 bytes, for the head sizes that `models.heads` pads.

As in `export.channels`, only the weights in the graph change, and exactly: zero rows in the projections that compute q,
k and v, zero columns in the projection of the result. The node's `scale` is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ..models.heads import pad_heads, padded_size
from .weights import constant, new_constant, only_user


def pad_attention_heads(graph: ir.Graph) -> None:
    """Pad heads in place.

    Applies to nodes with the attribute `heads` whose q, k and v each come from a linear layer with constant weights and
    no other user, and whose result is read by one such layer alone.

    Parameters
    ----------
    graph
        Changed in place.
    """
    for node in list(graph):
        if node.op_type == "KeyGraphAttention" and "heads" in node.attributes:
            heads = node.attributes["heads"].as_int()
            before = [_projection_before(value) for value in node.inputs[:3]]
            after = _projection_after(node.outputs[0])
            if after is not None and all(before):
                for projection in (*before, after):
                    assert projection is not None
                    _pad(graph, projection, heads)
                _set_width(node.outputs[0], after.width)


@dataclass(frozen=True)
class _Projection:
    """A linear layer before or after the attention, and the Reshape between.

    Attributes
    ----------
    dim
        Dimension of the weight that holds the heads.
    """

    gemm: ir.Node
    reshape: ir.Node
    dim: int

    @property
    def width(self) -> int:
        weight = constant(self.gemm.inputs[1])
        assert weight is not None
        return int(weight.shape[self.dim])


def _projection_before(value: ir.Value | None) -> _Projection | None:
    """Return the projection that computes q, k or v."""
    reshape = value.producer() if value is not None and only_user(value) else None
    source = reshape.inputs[0] if reshape is not None and _is_reshape(reshape) else None
    gemm = source.producer() if source is not None and only_user(source) else None
    return _Projection(gemm, reshape, 0) if gemm is not None and reshape is not None and _is_linear(gemm) else None


def _projection_after(value: ir.Value) -> _Projection | None:
    """Return the projection of the attention's result."""
    reshape = _only_reader(value)
    gemm = _only_reader(reshape.outputs[0]) if reshape is not None and _is_reshape(reshape) else None
    return _Projection(gemm, reshape, 1) if gemm is not None and reshape is not None and _is_linear(gemm) else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value, if it does so as its first input."""
    (use,) = value.uses() if only_user(value) else ((None, 0),)
    return use[0] if use[1] == 0 else None


def _is_reshape(node: ir.Node) -> bool:
    """Tell whether a node is a Reshape to a constant shape whose last dimension is all channels of all heads."""
    target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
    return target is not None and target[-1] > 0


def _is_linear(node: ir.Node) -> bool:
    """Tell whether a node is x W^T + b with constant W and b, the form of PyTorch's linear layers."""
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
    for place in (1, 2) if dim == 0 else (1,):  # A bias has the size of the layer's result, so of dimension 0.
        _replace(graph, gemm, place, lambda numbers: pad_heads(torch.tensor(numbers), heads, size, dim).numpy())
    _replace(graph, reshape, 1, lambda target: np.append(target[:-1], size * heads))
    _set_width(reshape.outputs[0], size * heads)
    if dim == 0:
        _set_width(gemm.outputs[0], size * heads)


def _replace(graph: ir.Graph, node: ir.Node, place: int, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Replace a node's constant input, if it has one there, by a changed copy."""
    value = node.inputs[place] if place < len(node.inputs) else None
    numbers = constant(value)
    if value is not None and numbers is not None:
        node.replace_input_with(place, new_constant(graph, value, change(numbers), ".padded"))


def _set_width(value: ir.Value, width: int) -> None:
    if value.shape is not None:
        value.shape = ir.Shape([*value.shape[:-1], width])
