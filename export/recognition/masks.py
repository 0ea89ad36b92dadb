"""Idioms of masks: tensors that hold one value where a node is selected and another elsewhere.

What a boolean tensor selects that the image decides need not be known: such a tensor is a mask as well.

An elementwise operator on such a tensor gives such a tensor. So its two values are computed by the operator itself, and
no list of ways to turn a mask around, to scale it or to take its logarithm is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .counting import counted_index, one_hot_listing
from .nodes import (
    argument,
    arguments,
    depends_on_content,
    equal,
    is_last,
    is_number,
    is_tensor,
    known_value,
    operator_name,
    positional,
    rank,
    sizes,
    strip,
    tensor,
)
from .operands import Move, after, leading_move, same_moves
from .selections import Listing, Selection, compared_with_kth, listing, masked_by, ranks

#: A comparison with a number below this is with the lowest one of a type: no score is below it.
_LOWEST = -1e30

#: Operators without the tag "pointwise" that are.
_POINTWISE = {"and", "or", "xor", "to_copy", "to", "clone", "lift_fresh_copy", "alias", "detach", "contiguous", "where"}

#: Largest parameter or constant that is compared number by number.
_CONSTANT_LIMIT = 1 << 24


@dataclass(frozen=True)
class Constant:
    """A tensor, or a number, that is the same everywhere."""

    value: Tensor


@dataclass(frozen=True)
class Mask:
    """A tensor [..., M, N] with two values.

    Attributes
    ----------
    selection
        Which nodes are selected.
    moves
        From the selection's scores to this tensor, of all dimensions but the last.
    inside, outside
        The values of selected and of other nodes; tensors of one element.
    """

    selection: Selection
    moves: tuple[Move, ...]
    inside: Tensor
    outside: Tensor


def read_constant(node: Any) -> float | None:
    """Return the number that a tensor holds everywhere, or None."""
    found = evaluate(node)
    return float(found.value) if isinstance(found, Constant) else None


def evaluate(node: Any) -> Constant | Mask | None:
    """Return the value or the two values of an argument; None if it is neither constant nor a mask."""
    found = _evaluate(node)
    return found if found is not None or not is_tensor(node) else _any_other(node)


def _any_other(node: Node) -> Mask | None:
    """Read a boolean tensor of which it is not known what it selects, but that the image decides."""
    if tensor(node).dtype != torch.bool or rank(node) < 2 or equal(sizes(node)[-1], 1):
        return None
    if known_value(node) is not None or not depends_on_content(node):
        return None
    return Mask(masked_by(node), (), torch.tensor(True), torch.tensor(False))


def _evaluate(node: Any) -> Constant | Mask | None:
    if is_number(node):
        return Constant(torch.tensor(node))
    if not is_tensor(node):
        return None
    value = known_value(node)
    if value is not None:
        return _uniform(value)
    name = operator_name(node)
    if name in _CREATORS:
        given = _CREATORS[name](node)
        return Constant(torch.tensor(given, dtype=tensor(node).dtype)) if is_number(given) else None
    found = _selected(node, name)
    if found is not None:
        return found
    if _compares_with_lowest(node, name):
        return Constant(torch.tensor(True))
    tags = getattr(node.target, "tags", ())
    if name in _POINTWISE or (torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags):
        return _pointwise(node)
    if name == "index_put":
        return _assigned(node)
    if name in ("slice", "expand") and strip(node) is not node:
        return evaluate(strip(node))
    if name in _RESHAPES:
        inner = evaluate(argument(node, 0))
        if isinstance(inner, Mask):
            move = leading_move(node, 1)
            return replace(inner, moves=after(inner.moves, move)) if move is not None else None
        return inner
    return None


_CREATORS: dict[str, Callable[[Node], Any]] = {
    "full": lambda node: arguments(node)["fill_value"],
    "full_like": lambda node: arguments(node)["fill_value"],
    "new_full": lambda node: arguments(node)["fill_value"],
    "zeros": lambda _: 0,
    "zeros_like": lambda _: 0,
    "new_zeros": lambda _: 0,
    "ones": lambda _: 1,
    "ones_like": lambda _: 1,
    "new_ones": lambda _: 1,
    "scalar_tensor": lambda node: arguments(node)["s"],
    "fill": lambda node: read_constant(arguments(node)["value"]),
}

_RESHAPES = {
    *("expand", "view", "reshape", "unsafe_view", "unsqueeze", "squeeze", "select", "slice", "permute", "transpose"),
    *("repeat", "repeat_interleave", "flatten"),
}


def _uniform(value: Tensor) -> Constant | None:
    if not value.numel() or value.numel() > _CONSTANT_LIMIT:
        return None
    first = value.flatten()[0]
    return Constant(first) if bool((value == first).all()) else None


def _compares_with_lowest(node: Node, name: str) -> bool:
    """Tell whether a tensor is compared with the lowest number, which is true of all scores."""
    if name not in ("gt", "ge", "ne"):
        return False
    border = read_constant(argument(node, 1))
    return border is not None and border <= _LOWEST and evaluate(argument(node, 0)) is None


def _pointwise(node: Node) -> Constant | Mask | None:
    """Compute the values of an elementwise operator."""
    mask: Mask | None = None
    inputs: list[Any] = []
    for given in (*positional(node), *node.kwargs.values()):
        if is_tensor(given):
            found = evaluate(given)
            if found is None:
                return None
            if isinstance(found, Mask):
                if mask is not None and not (
                    mask.selection.same(found.selection) and same_moves(mask.moves, found.moves)
                ):
                    return None
                mask = found
            inputs.append(found)
        elif isinstance(given, Node):
            return None
    results = []
    for inside in (True, False) if mask is not None else (True,):
        values = iter(inputs)

        def value(given: Any, values: Any = values, inside: bool = inside) -> Any:
            if not is_tensor(given):
                return given
            found = next(values)
            number = found.value if isinstance(found, Constant) else found.inside if inside else found.outside
            return number.to(tensor(given).dtype)

        in_place = [value(given) for given in positional(node)]
        named = {key: value(given) for key, given in node.kwargs.items()}
        compute: Any = node.target
        results.append(compute(*in_place, **named))
    return replace(mask, inside=results[0], outside=results[1]) if mask is not None else Constant(results[0])


def _assigned(node: Node) -> Constant | Mask | None:
    """Read ``x[mask] = value``."""
    given = arguments(node)
    base, value = evaluate(given["self"]), evaluate(given["values"])
    chosen = [evaluate(index) for index in given["indices"]]
    if len(chosen) != 1 or not isinstance(chosen[0], Mask) or given["accumulate"] or not isinstance(value, Constant):
        return None
    mask = chosen[0]
    if tensor(given["indices"][0]).dtype != torch.bool or rank(given["indices"][0]) != rank(node):
        return None
    if isinstance(base, Mask) and not (mask.selection.same(base.selection) and same_moves(mask.moves, base.moves)):
        return None
    inside, outside = (
        (base.inside, base.outside) if isinstance(base, Mask) else (base.value,) * 2 if base else (None,) * 2
    )
    if inside is None or outside is None:
        return None
    number = value.value.to(inside.dtype)
    return replace(mask, inside=number if mask.inside else inside, outside=number if mask.outside else outside)


def _selected(node: Node, name: str) -> Mask | None:
    """Read the operators that make a mask of indices or of a comparison of scores."""
    if name in ("ge", "gt", "le", "lt"):
        return _compared(node)
    if name in ("scatter", "scatter_add", "scatter_reduce"):
        return _scattered(node)
    if name == "index_put":
        return _placed(node)
    if name in ("sum", "any", "amax"):
        return _one_hot(node)
    if name == "getitem" and argument(node, 1) == 0 and operator_name(argument(node, 0)) == "max":
        return _one_hot(argument(node, 0))
    if name in ("eq", "ne") and read_constant(argument(node, 1)) == 0:
        return _zeros_outside(node)
    return None


def _mask(found: Listing, inside: Tensor, outside: Tensor) -> Mask:
    return Mask(found.selection, found.moves, inside, outside)


def _compared(node: Node) -> Mask | None:
    found = compared_with_kth(node)
    if found is not None:
        selection, moves, selected = found
        return Mask(selection, moves, torch.tensor(selected), torch.tensor(not selected))
    border = read_constant(argument(node, 1))
    ranking = ranks(argument(node, 0)) if border is not None and isinstance(argument(node, 0), Node) else None
    if ranking is None or border is None or border != int(border):
        return None
    name = operator_name(node)
    k = int(border) + (name in ("le", "gt"))
    if k < 1:
        return None
    below = name in ("lt", "le")
    selection = Selection(ranking[0], k, ranking[1], origin=node, marks=below)
    return Mask(selection, (), torch.tensor(below), torch.tensor(not below))


def _scattered(node: Node) -> Mask | None:
    """Read one number scattered into another."""
    given = arguments(node)
    if not is_last(given["dim"], node) or given.get("reduce") not in (None, "sum", "amax"):
        return None
    found = listing(given["index"])
    base, value = evaluate(given["self"]), evaluate(given.get("value", given.get("src")))
    if found is None or not isinstance(base, Constant) or not isinstance(value, Constant):
        return None
    number = value.value.to(base.value.dtype)
    if operator_name(node) != "scatter":
        if base.value.to(torch.float64) != 0:
            return None
        if given.get("reduce") == "amax" and number < 0:
            return None
    return _mask(found, number, base.value)


def _zeros_outside(node: Node) -> Mask | None:
    """Read a comparison with zero of numbers that were set to zero where they are not selected."""
    found = zeros_outside(argument(node, 0))
    if found is None:
        return None
    equals = operator_name(node) == "eq"
    return _mask(found[1], torch.tensor(not equals), torch.tensor(equals))


def zeros_outside(node: Any) -> tuple[Any, Listing] | None:
    """Read numbers that are zero where they are not selected: multiplied with a mask, or scattered into zeros.

    Returns
    -------
    tuple or None
        The numbers, and what is selected.
    """
    node = strip(node)
    name = operator_name(node)
    if name == "mul":
        for numbers, other in (positional(node)[:2], positional(node)[1::-1]):
            mask = evaluate(other)
            if isinstance(mask, Mask) and float(mask.inside) == 1 and float(mask.outside) == 0:
                return numbers, Listing(mask.selection, mask.moves)
    if name == "scatter" and is_tensor(arguments(node).get("src")):
        given = arguments(node)
        found = listing(given["index"]) if is_last(given["dim"], node) else None
        if found is not None and read_constant(given["self"]) == 0 and evaluate(given["src"]) is None:
            return given["src"], found
    return None


def _placed(node: Node) -> Mask | None:
    """Read ``mask[windows, rows, indices] = value``, with windows and rows counted."""
    given = arguments(node)
    base, value = evaluate(given["self"]), evaluate(given["values"])
    if not isinstance(base, Constant) or not isinstance(value, Constant) or given["accumulate"]:
        return None
    found = counted_index(given["indices"], node, 0)
    return _mask(found, value.value.to(base.value.dtype), base.value) if found is not None else None


def _one_hot(node: Node) -> Mask | None:
    """Read the sum, the largest or any of a row's one-hot vectors [..., M, k, N]."""
    given = arguments(node)
    dim = given.get("dim")
    dim = dim[0] if isinstance(dim, list) and len(dim) == 1 else dim
    source = given["self"]
    if given.get("keepdim") or not isinstance(dim, int) or dim % rank(source) != rank(source) - 2:
        return None
    vectors = one_hot_listing(source)
    if vectors is None:
        return None
    value = node.meta["val"]
    dtype = (value if isinstance(value, Tensor) else value[0]).dtype
    return _mask(vectors, torch.tensor(1, dtype=dtype), torch.tensor(0, dtype=dtype))
