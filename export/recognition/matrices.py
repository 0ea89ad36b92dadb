"""Give matrices the shapes that the operators take: float32[B, H, rows, columns]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from .graph_builder import GraphBuilder
from .nodes import equal, rank, sizes, tensor
from .operands import Operand

aten = torch.ops.aten


def float32(build: GraphBuilder, operand: Operand) -> Node:
    """Build an operand in float32; where the module rounds it to half precision, after that.

    Parameters
    ----------
    build
        Adds the operators.
    operand
        What is built.
    """
    node = operand.build(build)
    return node if tensor(node).dtype == torch.float32 else build(aten.to.dtype, node, torch.float32)


def same_lead(build: GraphBuilder, matrices: Sequence[Node]) -> list[Node]:
    """Expand matrices to the same leading dimensions, as matmul does."""
    count = max(rank(node) for node in matrices) - 2
    padded = []
    for node in matrices:
        while rank(node) < count + 2:
            node = build(aten.unsqueeze.default, node, 0)
        padded.append(node)
    target: list[Any] = []
    for dim in range(count):
        for node in padded:
            size = sizes(node)[dim]
            if not equal(size, 1):
                break
        target.append((node, dim))
    results = []
    for node in padded:
        if all(equal(sizes(node)[dim], sizes(source)[dim]) for dim, (source, _) in enumerate(target)):
            results.append(node)
            continue
        lead = [build.size(source, dim) for source, dim in target]
        results.append(build(aten.expand.default, node, [*lead, -1, -1]))
    return results


def three_or_four(build: GraphBuilder, node: Node) -> Node:
    """Return [..., rows, columns] as [B, H, rows, columns], or as [B, rows, columns] where there is one head."""
    return node if rank(node) == 3 else four(build, node) if rank(node) > 3 else build(aten.unsqueeze.default, node, 0)


def four(build: GraphBuilder, node: Node) -> Node:
    """Return [..., rows, columns] as [B, H, rows, columns]; three dimensions have one head."""
    while rank(node) < 4:
        node = build(aten.unsqueeze.default, node, 0 if rank(node) == 2 else 1)
    return node if rank(node) == 4 else build(aten.flatten.using_ints, node, 0, rank(node) - 4)


def lead_of(build: GraphBuilder, node: Node, like: Node) -> Node:
    """Undo `four`: return [B, H, rows, columns] with the leading dimensions of another matrix.

    Parameters
    ----------
    build
        Adds the operators.
    node
        [B, H, rows, columns].
    like
        The other matrix.
    """
    count = rank(like)
    if count == 4:
        return node
    if count == 3:
        return build(aten.squeeze.dim, node, 1)
    if count == 2:
        return build(aten.squeeze.dims, node, [0, 1])
    return build(aten.reshape.default, node, [*build.sizes(like)[:-2], *build.sizes(node)[-2:]])
