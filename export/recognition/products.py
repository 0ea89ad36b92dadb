"""Idioms of products: q times k, weights times v, and those of neighbours that were gathered first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node

from .counting import counted_index, is_count
from .nodes import argument, arguments, equal, equal_sizes, is_tensor, operator_name, positional, rank, sizes, strip
from .operands import Move, Operand, Step, has_size_one, transposed
from .selections import Listing, listing


@dataclass(frozen=True)
class Product:
    """A product over one dimension of two tensors: result[..., m, n] = sum over c of left[..., m, c] right[..., n, c].

    Attributes
    ----------
    left
        [..., M, C].
    right
        [..., N, C].
    finish
        What is done to the result's dimensions afterwards.
    added
        What is added to it: (node, factor).
    scale
        Factor of the product.
    """

    left: Operand
    right: Operand
    finish: tuple[Step, ...] = ()
    added: tuple[Node, float] | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Gathered:
    """The nodes [..., N, C] of which a listing takes [..., M, k, C]."""

    source: Operand
    listing: Listing


def read_product(node: Node) -> Product | None:
    """Read a product of two matrices; None for another operator."""
    name = operator_name(node)
    if name in ("matmul", "bmm", "mm"):
        left, right = positional(node)[:2]
        if rank(left) < 2 or rank(right) < 2:
            return None
        return Product(Operand(left), transposed(right))
    if name == "baddbmm":
        given = arguments(node)
        added = None if given["beta"] == 0 else (given["self"], float(given["beta"]))
        return Product(Operand(given["batch1"]), transposed(given["batch2"]), added=added, scale=float(given["alpha"]))
    if name == "einsum" and len(argument(node, 1)) == 2:
        return _einsum(node)
    return None


def _einsum(node: Node) -> Product | None:
    """Read an einsum of two tensors with one contracted dimension."""
    equation = str(argument(node, 0)).replace(" ", "")
    left, right = argument(node, 1)
    if "..." in equation:
        return _ellipsis(equation, left, right)
    if "->" not in equation:
        return None
    inputs, output = equation.split("->")
    first, second = inputs.split(",")
    if any(len(set(labels)) != len(labels) for labels in (first, second, output)):
        return None
    contracted = [label for label in first if label in second and label not in output]
    shared = [label for label in output if label in first and label in second]
    rows = [label for label in output if label in first and label not in second]
    columns = [label for label in output if label in second and label not in first]
    if len(contracted) != 1 or len(rows) > 1 or len(columns) != 1 or len(output) != len(shared + rows + columns):
        return None
    if set(first) != {*shared, *rows, *contracted} or set(second) != {*shared, *columns, *contracted}:
        return None
    a = _arranged(left, first, [*shared, *rows, *contracted])
    b = _arranged(right, second, [*shared, *columns, *contracted])
    finish: tuple[Step, ...] = ()
    if not rows:  # One row: the product of a vector with the columns.
        a = a.then("unsqueeze", -2)
        finish = (Step("squeeze", -2),)
    order = [*shared, *rows, *columns]
    if list(output) != order:
        finish = (*finish, Step("permute", tuple(order.index(label) for label in output)))
    return Product(a, b, finish)


def _ellipsis(equation: str, left: Node, right: Node) -> Product | None:
    """Read ``...id,...jd->...ij`` and ``...ij,...jd->...id``, whatever the letters."""
    inputs, _, output = equation.partition("->")
    first, second = inputs.split(",")
    if not all(part.startswith("...") and len(part) == 5 for part in (first, second, output)):
        return None
    a, b, c = first[3:], second[3:], output[3:]
    if a[0] != c[0] or len({*a, *b}) != 3:
        return None
    if a[1] == b[1] and b[0] == c[1]:
        return Product(Operand(left), Operand(right))
    return Product(Operand(left), transposed(right)) if a[1] == b[0] and b[1] == c[1] else None


def _arranged(node: Node, labels: str, order: list[str]) -> Operand:
    operand = Operand(node)
    if list(labels) == order:
        return operand
    if list(labels) == [*order[:-2], order[-1], order[-2]]:
        return transposed(node)
    return operand.then("permute", tuple(labels.index(label) for label in order))


def read_summed_product(node: Node) -> tuple[Node, Node, int] | None:
    """Read ``(a * b).sum(dim)`` with dim -1 or -2.

    Returns
    -------
    tuple or None
        a, b and the dimension, -1 or -2.
    """
    if operator_name(node) != "sum":
        return None
    given = arguments(node)
    dims, source = given.get("dim"), strip(given["self"])
    if given.get("keepdim") or operator_name(source) != "mul" or not isinstance(dims, list) or len(dims) != 1:
        return None
    dim = dims[0] % rank(source) - rank(source)
    first, second = positional(source)[:2]
    return (first, second, dim) if isinstance(second, Node) and dim in (-1, -2) else None


def read_gathered(node: Any) -> Gathered | None:
    """Read the listed nodes [..., M, k, C] of [..., N, C]; None for everything else."""
    node = strip(node)
    name = operator_name(node)
    if name == "gather":
        return _gathered(node)
    if name == "index":
        source, indices = positional(node)
        found = counted_index(list(indices), source, 1)
        return Gathered(Operand(source), found) if found is not None else _offset_gathered(node)
    if name in ("view", "reshape", "unsafe_view", "unflatten"):
        return _flat_gathered(node)
    return None


def _gathered(node: Node) -> Gathered | None:
    """Read ``x.unsqueeze(-3).expand(M).gather(-2, indices.unsqueeze(-1).expand(C))``."""
    given = arguments(node)
    if given["dim"] % rank(node) != rank(node) - 2 or rank(node) < 3:
        return None
    found = listing(given["index"], 1)
    if found is None or not equal(sizes(given["index"])[-1], sizes(given["self"])[-1]):
        return None
    source = _repeated_rows(given["self"])
    return Gathered(source, found) if source is not None else None


def _repeated_rows(node: Node) -> Operand | None:
    """Read nodes [..., M, N, C] that are the same for every m: [..., N, C]."""
    node = strip(node)
    name = operator_name(node)
    if name == "unsqueeze" and arguments(node)["dim"] % rank(node) == rank(node) - 3:
        return Operand(argument(node, 0))
    if name in ("view", "reshape", "unsafe_view") and equal(sizes(node)[-3], 1):
        source = argument(node, 0)
        if equal_sizes([*sizes(source)[:-2], 1, *sizes(source)[-2:]], sizes(node)):
            return Operand(source)
    if name not in ("expand", "repeat") or not isinstance(argument(node, 0), Node):
        return None
    source = argument(node, 0)
    if not has_size_one(source, -3) or not equal_sizes(sizes(source)[-2:], sizes(node)[-2:]) or rank(source) < 3:
        return None
    inner = _repeated_rows(source)
    lead = rank(node) - 3
    if inner is None:
        return None
    if equal_sizes(sizes(source)[:-3], sizes(node)[:-3]):
        return inner
    return inner.moved(Move(name, tuple(positional(node)[1][:lead])))


def _flat_gathered(node: Node) -> Gathered | None:
    """Read a gather of [..., M * k] indices, unflattened to [..., M, k, C]."""
    source = strip(argument(node, 0))
    if operator_name(source) != "gather" or rank(source) != rank(node) - 1 or rank(source) < 2:
        return None
    given = arguments(source)
    if given["dim"] % rank(source) != rank(source) - 2 or not equal(sizes(source)[-1], sizes(node)[-1]):
        return None
    index = strip(given["index"])
    if operator_name(index) in ("expand", "repeat") and equal_sizes(sizes(index)[:-1], sizes(argument(index, 0))[:-1]):
        index = strip(argument(index, 0))
    while operator_name(index) in ("unsqueeze", "view", "reshape", "unsafe_view", "flatten") and listing(index) is None:
        index = strip(argument(index, 0))
    found = listing(index)
    return Gathered(Operand(given["self"]), found) if found is not None and _lists(index, node) else None


def _lists(index: Node, gathered: Node) -> bool:
    """Tell whether indices are [..., M, k] of gathered nodes [..., M, k, C]."""
    return equal_sizes(sizes(index), sizes(gathered)[:-1])


def _offset_gathered(node: Node) -> Gathered | None:
    """Read ``x.reshape(W * N, C)[indices + N * arange(W)]`` of nodes x [W, N, C]."""
    source, indices = positional(node)
    flat = strip(source)
    if operator_name(flat) not in ("view", "reshape", "unsafe_view", "flatten") or len(indices) != 1:
        return None
    nodes, total = strip(argument(flat, 0)), strip(indices[0])
    if rank(nodes) != 3 or rank(flat) != 2 or not equal(sizes(nodes)[-1], sizes(flat)[-1]) or rank(total) != 3:
        return None
    if operator_name(total) != "add":
        return None
    windows, count = sizes(nodes)[:2]
    for index, offset in (positional(total)[:2], positional(total)[1::-1]):
        found = listing(index) if is_tensor(index) else None
        if found is None or operator_name(strip(offset)) != "mul":
            continue
        counted, factor = positional(strip(offset))[:2]
        if isinstance(factor, int) and equal(factor, count) and is_count(counted, 0, 3, windows):
            return Gathered(Operand(nodes), found)
    return None


def with_gathered(product: Product) -> tuple[Product, Gathered] | None:
    """Read a product [..., M, 1, k] of single rows with gathered nodes, as one of the rows with the gathered ones.

    Returns
    -------
    tuple or None
        The product, whose `left` is [..., M, C] now, and what was gathered.
    """
    if product.right.steps:
        return None
    found = read_gathered(product.right.node)
    if found is None:
        return None
    left = product.left
    if left.steps and left.steps[-1] == Step("unsqueeze", -2):
        return replace(product, left=replace(left, steps=left.steps[:-1])), found
    if left.steps:
        return None
    return replace(product, left=single_row(left.node)), found


def single_row(node: Node) -> Operand:
    """Return [..., M, 1, C] as [..., M, C]."""
    source = strip(node)
    if operator_name(source) == "unsqueeze" and arguments(source)["dim"] % rank(source) == rank(source) - 2:
        return Operand(argument(source, 0))
    return Operand(node).then("squeeze", -2)
