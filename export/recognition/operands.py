"""Tensors of the rewritten graph, described as a node and steps on it; built only where an attention is fused.

Matrices have two trailing dimensions (rows and columns, nodes and channels, or a row's words of bits); the dimensions
before them, such as windows and heads, are leading ones. A view of the leading dimensions can be applied to any other
tensor with the same ones: so what a module does to its scores is done to q, to k and to the bits of the key graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from .graph_builder import GraphBuilder
from .nodes import argument, arguments, equal, equal_sizes, equivalent, operator_name, positional, rank, sizes, strip

aten = torch.ops.aten


@dataclass(frozen=True)
class Move:
    """A view or copy of leading dimensions.

    Attributes
    ----------
    kind
        Name of the operator; ``"nothing"`` where only trailing dimensions change.
    given
        Its arguments, those of trailing dimensions left out; sizes may be nodes.
    """

    kind: str
    given: tuple[Any, ...]

    def apply(self, build: GraphBuilder, node: Node, trailing: int) -> Node:
        """Apply the move to another tensor.

        Parameters
        ----------
        build
            Adds the operator.
        node
            The tensor.
        trailing
            Number of its dimensions after the leading ones.
        """
        if self.kind == "nothing":
            return node
        if self.kind == "expand":
            return build(aten.expand.default, node, [*self.given, *[-1] * trailing])
        if self.kind == "reshape":
            return build(aten.reshape.default, node, [*self.given, *build.sizes(node)[rank(node) - trailing :]])
        if self.kind == "permute":
            lead = len(self.given)
            return build(aten.permute.default, node, [*self.given, *range(lead, lead + trailing)])
        if self.kind == "repeat":
            return build(aten.repeat.default, node, [*self.given, *[1] * trailing])
        overloads = {
            "unsqueeze": aten.unsqueeze.default,
            "squeeze": aten.squeeze.dim,
            "select": aten.select.int,
            "slice": aten.slice.Tensor,
            "repeat_interleave": aten.repeat_interleave.self_int,
        }
        return build(overloads[self.kind], node, *self.given)


def leading_move(node: Node, trailing: int, free: int = 0) -> Move | None:
    """Describe what an operator does to leading dimensions, if it leaves the trailing ones alone.

    Parameters
    ----------
    node
        Result of the operator.
    trailing
        Number of trailing dimensions.
    free
        How many dimensions at the very end hold copies, so that their sizes may change.

    Returns
    -------
    Move or None
        None for another operator.
    """
    name = operator_name(node)
    if name not in _READERS:
        return None
    source: Node = argument(node, 0)
    if rank(source) < trailing or rank(node) < trailing:
        return None
    kept = slice(-trailing, -free or None)
    if not equal_sizes(sizes(source)[kept], sizes(node)[kept]):
        return None
    if name in _SAME_IF_EQUAL and equal_sizes(sizes(source)[:-trailing], sizes(node)[:-trailing]):
        return Move("nothing", ())
    return _READERS[name](node, source, rank(source) - trailing, trailing)


#: Views that change nothing where the sizes stay the same.
_SAME_IF_EQUAL = {"expand", "view", "reshape", "unsafe_view", "repeat", "flatten"}


def after(moves: tuple[Move, ...], move: Move) -> tuple[Move, ...]:
    """Return moves with one more."""
    return moves if move.kind == "nothing" else (*moves, move)


def _read_unsqueeze(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    dim = arguments(node)["dim"] % rank(node)
    return Move("unsqueeze", (dim,)) if dim <= lead else None


def _read_squeeze(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    dim = arguments(node).get("dim")
    if isinstance(dim, list) and len(dim) == 1:
        dim = dim[0]
    if not isinstance(dim, int) or dim % rank(source) >= lead or rank(node) == rank(source):
        return None
    return Move("squeeze", (dim % rank(source),))


def _read_expand(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    return Move("expand", tuple(arguments(node)["size"][: rank(node) - trailing]))


def _read_reshape(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    target = positional(node)[1]
    return Move("reshape", tuple(target[: rank(node) - trailing]))


def _read_flatten(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    given = arguments(node)
    start, end = given["start_dim"] % rank(source), given["end_dim"] % rank(source)
    if end >= lead:
        return None
    return Move(
        "reshape", tuple(-1 if i == start else size for i, size in enumerate(sizes(node)[: rank(node) - trailing]))
    )


def _read_permute(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    order = permutation(node)
    if order is None or order[lead:] != list(range(lead, rank(source))):
        return None
    return Move("permute", tuple(order[:lead]))


def _read_select(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    given = arguments(node)
    dim = given["dim"] % rank(source)
    return Move("select", (dim, given["index"])) if dim < lead else None


def _read_slice(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    given = arguments(node)
    dim = given["dim"] % rank(source)
    return Move("slice", (dim, given["start"], given["end"], given["step"])) if dim < lead else None


def _read_repeat(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    return Move("repeat", tuple(arguments(node)["repeats"][: rank(node) - trailing]))


def _read_repeat_interleave(node: Node, source: Node, lead: int, trailing: int) -> Move | None:
    given = arguments(node)
    if not isinstance(given["repeats"], int) or given["dim"] is None or given["dim"] % rank(source) >= lead:
        return None
    return Move("repeat_interleave", (given["repeats"], given["dim"] % rank(source)))


_READERS = {
    "unsqueeze": _read_unsqueeze,
    "squeeze": _read_squeeze,
    "expand": _read_expand,
    "view": _read_reshape,
    "reshape": _read_reshape,
    "unsafe_view": _read_reshape,
    "flatten": _read_flatten,
    "permute": _read_permute,
    "transpose": _read_permute,
    "select": _read_select,
    "slice": _read_slice,
    "repeat": _read_repeat,
    "repeat_interleave": _read_repeat_interleave,
}


def permutation(node: Node) -> list[int] | None:
    """Return the order of dimensions of a permute or transpose; None for other operators."""
    name = operator_name(node)
    count = rank(node)
    order = list(range(count))
    if name == "permute":
        return [dim % count for dim in arguments(node)["dims"]]
    if name in ("transpose", "swapaxes", "swapdims"):
        first, second = (int(dim) % count for dim in positional(node)[1:3])
    elif name in ("mT", "adjoint", "t", "numpy_T") and count >= 2:
        first, second = count - 2, count - 1
    else:
        return None
    order[first], order[second] = second, first
    return order


def same_moves(first: tuple[Move, ...], second: tuple[Move, ...]) -> bool:
    """Tell whether two sequences of moves are the same."""
    return len(first) == len(second) and all(
        a.kind == b.kind and equivalent(a.given, b.given) for a, b in zip(first, second, strict=True)
    )


def moves_from(source: Node, node: Node) -> tuple[Move, ...] | None:
    """Return the views of all dimensions but the last that lead from one tensor to another, in the order of execution.

    Parameters
    ----------
    source
        The first tensor.
    node
        The last one.

    Returns
    -------
    tuple of Move or None
        None where something else lies between them.
    """
    moves: list[Move] = []
    node = strip(node)
    while not equivalent(node, source):
        move = leading_move(node, 1)
        if move is None:
            return None
        if move.kind != "nothing":
            moves.insert(0, move)
        node = strip(argument(node, 0))
    return tuple(moves)


@dataclass(frozen=True)
class Step:
    """One operator on an operand.

    Attributes
    ----------
    kind
        ``"mul"`` or ``"div"`` by `given`, a number or another operand; ``"transpose"`` of the last two dimensions;
        ``"permute"`` to the order `given`; ``"unsqueeze"`` or ``"squeeze"`` of dimension `given`; ``"move"``;
        ``"append"`` the channel `given`, a number or an operand [..., 1]; ``"append_half_square"``, the channel
        -|x|^2 / 2.
    given
        The argument.
    """

    kind: str
    given: Any = None

    def apply(self, build: GraphBuilder, node: Node) -> Node:
        """Add the step's operators after a node."""
        if self.kind == "move":
            move: Move = self.given
            return move.apply(build, node, 2)
        if self.kind == "transpose":
            return build(aten.transpose.int, node, -2, -1)
        if self.kind == "permute":
            return build(aten.permute.default, node, list(self.given))
        if self.kind == "unsqueeze":
            return build(aten.unsqueeze.default, node, self.given)
        if self.kind == "squeeze":
            return build(aten.squeeze.dim, node, self.given)
        if self.kind == "append":
            return self._append(build, node)
        if self.kind == "append_half_square":
            square = build(aten.sum.dim_IntList, build(aten.mul.Tensor, node, node), [-1], True)
            return build(aten.cat.default, [node, build(aten.mul.Scalar, square, -0.5)], -1)
        given = self.given.build(build) if isinstance(self.given, Operand) else self.given
        operators = {"mul": aten.mul, "div": aten.div}[self.kind]
        return build(operators.Tensor if isinstance(given, Node) else operators.Scalar, node, given)

    def _append(self, build: GraphBuilder, node: Node) -> Node:
        """Add a channel: a number, or a tensor [..., N, 1] whose leading dimensions may be fewer."""
        first = build(aten.slice.Tensor, node, -1, 0, 1)
        if not isinstance(self.given, Operand):
            channel = build(aten.full_like.default, first, self.given)
        else:
            channel = build(aten.add.Tensor, build(aten.mul.Scalar, first, 0.0), self.given.build(build))
        return build(aten.cat.default, [node, channel], -1)


@dataclass(frozen=True)
class Operand:
    """A node and the steps that make an operator's input of it.

    Attributes
    ----------
    node
        A node of the program.
    steps
        In the order of execution.
    """

    node: Node
    steps: tuple[Step, ...] = ()

    def then(self, kind: str, given: Any = None) -> Operand:
        """Return this operand with one more step; a transpose undoes another."""
        if kind == "transpose" and self.steps and self.steps[-1].kind == "transpose":
            return replace(self, steps=self.steps[:-1])
        return replace(self, steps=(*self.steps, Step(kind, given)))

    def moved(self, move: Move) -> Operand:
        """Return this matrix after a move of its leading dimensions."""
        return self if move.kind == "nothing" else self.then("move", move)

    def build(self, build: GraphBuilder) -> Node:
        """Add the steps to the graph and return the result."""
        node = self.node
        for step in self.steps:
            node = step.apply(build, node)
        return node


def transposed(node: Node) -> Operand:
    """Return a matrix with its last two dimensions exchanged, without an operator where it comes from a transpose."""
    source = strip(node)
    order = permutation(source)
    last = rank(node) - 1
    if order == [*range(last - 1), last, last - 1]:
        return Operand(argument(source, 0))
    return Operand(node).then("transpose")


def has_size_one(node: Node, dim: int) -> bool:
    """Tell whether a tensor's dimension, counted from the end, is absent or has size 1."""
    return rank(node) < -dim or equal(sizes(node)[dim], 1)
