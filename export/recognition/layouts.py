"""Heads last: q, k and v as [B, N, H D], the form of the operator that linear layers produce.

Networks move the heads to the front and back again, which takes more time than a sparse attention saves elsewhere. So
the tensors are taken from before the move where it is found, and the result is moved as it was, which cancels with what
follows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from .graph_builder import GraphBuilder
from .nodes import argument, arguments, is_number, operator_name, positional, rank
from .operands import permutation

aten = torch.ops.aten

#: [B, H, N, D] and [B, N, H, D] from each other.
_EXCHANGED = [0, 2, 1, 3]


def heads_last(build: GraphBuilder, node: Node) -> Node:
    """Return [B, H, N, D] as [B, N, H D], and [B, N, D] of one head as it is."""
    if rank(node) == 3:
        return node
    source = _exchanged(build, node)
    batch, count, heads, channels = build.sizes(source)
    if isinstance(heads, int) and isinstance(channels, int):
        return build(aten.reshape.default, source, [batch, count, heads * channels])
    return build(aten.flatten.using_ints, source, 2, 3)


def heads_first(build: GraphBuilder, node: Node, heads: int, channels: Node | int) -> Node:
    """Return [B, N, H D] as [B, H, N, D].

    Parameters
    ----------
    build
        Adds the operators.
    node
        The tensor.
    heads, channels
        H and D.
    """
    batch, count, _ = build.sizes(node)
    split = build(aten.reshape.default, node, [batch, count, heads, channels])
    return build(aten.permute.default, split, _EXCHANGED)


def _exchanged(build: GraphBuilder, node: Node) -> Node:
    """Return [B, H, N, D] as [B, N, H, D], without an operator where it was made from that."""
    order, source = _EXCHANGED, node
    while (inner := permutation(source)) is not None:
        order, source = [inner[dim] for dim in order], argument(source, 0)
    if order == [0, 1, 2, 3]:
        return source
    if source is not node:
        return build(aten.permute.default, source, order)
    name = operator_name(node)
    if name in ("mul", "div") and is_number(argument(node, 1)):
        scale: Any = node.target
        return build(scale, _exchanged(build, argument(node, 0)), *positional(node)[1:])
    taken = _one_of_several(node)
    if taken is not None:
        permuted, index = taken
        first, *rest = permutation(permuted) or [0]
        if [rest[i] for i in _EXCHANGED] == sorted(rest):
            return build(aten.select.int, argument(permuted, 0), first, index)
    return build(aten.permute.default, node, _EXCHANGED)


def _one_of_several(node: Node) -> tuple[Node, int] | None:
    """Read one of q, k and v, which a permute brought to the front: the permute, and which one."""
    name = operator_name(node)
    if name == "select" and arguments(node)["dim"] == 0:
        source, index = argument(node, 0), arguments(node)["index"]
    elif name == "getitem" and operator_name(argument(node, 0)) == "unbind":
        unbound = arguments(argument(node, 0))
        if unbound["dim"] != 0:
            return None
        source, index = unbound["self"], argument(node, 1)
    else:
        return None
    return (source, index) if isinstance(index, int) and permutation(source) is not None else None
