"""Idioms of selection: which nodes of the graph are the indices, or the k-th value, of a top-k."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from .nodes import (
    Refused,
    argument,
    arguments,
    equal,
    equivalent,
    is_last,
    known_value,
    operator_name,
    positional,
    rank,
    sizes,
    strip,
    tensor,
)
from .operands import Move, after, leading_move, moves_from, same_moves

#: Types of TopKGraph's scores.
_RANKED_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Selection:
    """The k largest (or smallest) of each row of a matrix, or the nodes that any other mask selects.

    Attributes
    ----------
    scores
        The matrix [..., M, N] that is ranked; of any other mask, the mask itself.
    k
        How many are selected; None for any other mask.
    largest
        False for the smallest; for any other mask, as `marks`.
    keeps_ties
        Whether all that equal the k-th are selected, so more than k where they tie.
    origin
        Where the module computes it: indices [..., M, k], or, with `marks`, a mask [..., M, N]. None for a comparison
        with the k-th value.
    marks
        The value of selected nodes in the mask `origin`.
    others
        If these are the nodes that another selection leaves out: that selection.
    """

    scores: Node
    k: int | None
    largest: bool = True
    keeps_ties: bool = False
    origin: Node | None = None
    marks: bool | None = None
    others: Selection | None = None

    @property
    def is_top_k(self) -> bool:
        """Whether the k largest or smallest of some scores are selected, as TopKGraph does, but for what ties."""
        plain = self.k is not None and self.others is None and self.marks is None
        return plain and tensor(self.scores).dtype in _RANKED_TYPES

    @property
    def is_exact(self) -> bool:
        """Whether it `is_top_k` of exactly k; which ones of those that tie with the k-th is open."""
        return self.is_top_k and not self.keeps_ties

    def same(self, other: Selection) -> bool:
        """Tell whether both select the same, apart from ties."""
        return (self.k, self.largest) == (other.k, other.largest) and equivalent(self.scores, other.scores)

    def same_with_ties(self, other: Selection) -> bool:
        """Tell whether both select the same of nodes that tie, too."""
        computed = (self.keeps_ties, self.marks, self.others is None) == (
            *(other.keeps_ties, other.marks, other.others is None),
        )
        return self.same(other) and computed and equivalent(self.origin, other.origin)


def masked_by(mask: Node) -> Selection:
    """Return what a boolean tensor [..., M, N] selects that is no top-k."""
    return Selection(mask, None, origin=mask, marks=True)


@dataclass(frozen=True)
class Listing:
    """The indices that a selection found, int64[..., M, k], after moves of all dimensions but the last."""

    selection: Selection
    moves: tuple[Move, ...] = ()

    def same(self, other: Listing) -> bool:
        """Tell whether both list the same."""
        return self.selection.same(other.selection) and same_moves(self.moves, other.moves)


@dataclass(frozen=True)
class _Sorted:
    """Values or indices [..., M, K] of a row's K largest or smallest, the first ones first.

    Attributes
    ----------
    start, stop
        Which of the ranks, from 0.
    """

    scores: Node
    largest: bool
    start: int
    stop: int


def listing(node: Node, repeated: int = 0) -> Listing | None:
    """Read a tensor of indices [..., M, k], followed by dimensions that repeat them.

    Parameters
    ----------
    node
        The tensor.
    repeated
        Number of these dimensions.

    Returns
    -------
    Listing or None
        None if they are no indices of a top-k.
    """
    node = strip(node)
    if not repeated and (found := _ranked(node, 1)) is not None:
        return None if found.start else Listing(Selection(found.scores, found.stop, found.largest, origin=node))
    move = leading_move(node, 1 + repeated, repeated)
    if move is not None:
        inner = listing(argument(node, 0), repeated)
        return inner and Listing(inner.selection, after(inner.moves, move))
    if repeated and operator_name(node) == "unsqueeze" and arguments(node)["dim"] in (-1, rank(node) - 1):
        return listing(argument(node, 0), repeated - 1)
    return None


def listed_values(node: Node) -> Listing | None:
    """Read the values of a row's top-k, [..., M, k], in the order of their indices."""
    node = strip(node)
    found = _ranked(node, 0)
    if found is None or found.start:
        return None
    indices = _indices_beside(node)
    return Listing(Selection(found.scores, found.stop, found.largest, origin=indices)) if indices is not None else None


def _indices_beside(values: Node) -> Node | None:
    """Return the indices that the operator of a row's best values returns with them."""
    if operator_name(values) != "getitem":
        return None
    users = [user for user in argument(values, 0).users if operator_name(user) == "getitem"]
    return next((user for user in users if argument(user, 1) == 1), None)


def compared_with_kth(node: Node) -> tuple[Selection, tuple[Move, ...], bool] | None:
    """Read a comparison of scores with their k-th value.

    Returns
    -------
    tuple or None
        The selection, the moves of leading dimensions after it, and the result where a node is selected.
    """
    name = operator_name(node)
    if name not in ("ge", "gt", "le", "lt") or not isinstance(argument(node, 1), Node):
        return None
    first, second = positional(node)
    for scores, border, sign in ((first, second, name), (second, first, _MIRRORED[name])):
        found = _kth(border)
        if found is None:
            continue
        ranked, moves = found
        own = moves_from(ranked.scores, scores)
        if own is None or not same_moves(own, moves):
            continue
        return _side(ranked, sign, moves)
    return None


_MIRRORED = {"ge": "le", "gt": "lt", "le": "ge", "lt": "gt"}


def _side(ranked: _Sorted, sign: str, moves: tuple[Move, ...]) -> tuple[Selection, tuple[Move, ...], bool] | None:
    """Return what `scores <sign> value of rank` selects."""
    towards = "g" if ranked.largest else "l"
    selected = sign[0] == towards
    includes_kth = (sign[1] == "e") == selected
    # Strictly beyond the value of rank r are the r before it; without those that tie with it.
    k = ranked.stop if includes_kth else ranked.stop - 1
    if k < 1:
        return None
    return Selection(ranked.scores, k, ranked.largest, keeps_ties=True), moves, selected


def _kth(node: Any) -> tuple[_Sorted, tuple[Move, ...]] | None:
    """Read one value [..., M, 1] of a row's ranking, and the moves after it."""
    node = strip(node)
    if not isinstance(node, Node):
        return None
    if (found := _single(node)) is not None:
        return found, ()
    move = leading_move(node, 1, 1)
    inner = _kth(argument(node, 0)) if move is not None else None
    return (inner[0], after(inner[1], move)) if inner is not None and move is not None else None


def _single(node: Node) -> _Sorted | None:
    """Read one value of a row's ranking with its dimension kept."""
    found = _ranked(node, 0)
    if found is not None:
        return found if found.stop - found.start == 1 else None
    if operator_name(node) == "unsqueeze" and arguments(node)["dim"] in (-1, rank(node) - 1):
        return _reduced(strip(argument(node, 0)), keep=False)
    if operator_name(node) == "index":
        return _indexed(node)
    return _reduced(node, keep=True)


def _indexed(node: Node) -> _Sorted | None:
    """Read ``values[..., [place]]``."""
    given = arguments(node)
    *before, last = given["indices"]
    value = known_value(last)
    found = _ranked(strip(given["self"]), 0)
    if found is None or value is None or value.shape != (1,) or len(before) != rank(given["self"]) - 1 or any(before):
        return None
    place = int(value) + (found.stop - found.start if value < 0 else 0)
    return _Sorted(found.scores, found.largest, found.start + place, found.start + place + 1)


def _reduced(node: Node, keep: bool) -> _Sorted | None:
    """Read the extreme, or one, of a row's sorted values, or `kthvalue`; `keep`: its dimension is kept."""
    name = operator_name(node)
    if name == "getitem" and argument(node, 1) == 0:
        node = argument(node, 0)
        name = operator_name(node)
        if name == "kthvalue":
            return _kthvalue(node, keep)
        if name not in ("min", "max"):
            return None
    if name not in ("amin", "amax", "min", "max", "select"):
        return None
    given = arguments(node)
    source = given["self"]
    found = _ranked(strip(source), 0)
    if found is None or not is_last(given.get("dim"), source) or bool(given.get("keepdim", False)) is not keep:
        return None
    if name == "select":
        place = given["index"]
        if not isinstance(place, int):
            return None
        place += found.stop - found.start if place < 0 else 0
        return _Sorted(found.scores, found.largest, found.start + place, found.start + place + 1)
    last = (name.endswith("min")) == found.largest
    place = found.stop - 1 if last else found.start
    return _Sorted(found.scores, found.largest, place, place + 1)


def _kthvalue(node: Node, keep: bool) -> _Sorted | None:
    given = arguments(node)
    scores = given["self"]
    if not isinstance(given["k"], int) or not is_last(given["dim"], scores) or bool(given["keepdim"]) is not keep:
        return None
    count = sizes(scores)[-1]
    if isinstance(count, int) and given["k"] > count // 2:  # The k-th smallest, from the other end.
        return _Sorted(strip(scores), True, count - given["k"], count - given["k"] + 1)
    return _Sorted(strip(scores), False, given["k"] - 1, given["k"])


def _ranked(node: Node, output: int) -> _Sorted | None:
    """Read values (output 0) or indices (1) of topk, sort or argsort, and slices of them."""
    name = operator_name(node)
    if name == "slice":
        return _sliced(node, output)
    if name == "argsort" and output == 1:
        return _whole(node)
    if name != "getitem" or argument(node, 1) != output:
        return None
    source = argument(node, 0)
    assert isinstance(source, Node)
    if operator_name(source) == "sort":
        return _whole(source)
    if operator_name(source) != "topk":
        return None
    given = arguments(source)
    scores = given["self"]
    if not is_last(given["dim"], scores):
        return None
    if not isinstance(given["k"], int):
        raise Refused("k depends on the image's size")
    return _Sorted(strip(scores), given["largest"], 0, given["k"])


def _whole(node: Node) -> _Sorted | None:
    """Read sort or argsort; without a fixed number of nodes, the last rank is unknown and larger than any."""
    given = arguments(node)
    scores = given["self"]
    if not is_last(given["dim"], scores):
        return None
    count = sizes(scores)[-1]
    return _Sorted(strip(scores), given["descending"], 0, count if isinstance(count, int) else sys.maxsize)


def _sliced(node: Node, output: int) -> _Sorted | None:
    given = arguments(node)
    source = given["self"]
    if not is_last(given["dim"], source) or given["step"] != 1:
        return None
    found = _ranked(strip(source), output)
    if found is None:
        return None
    count = found.stop - found.start
    start, end = given["start"] or 0, sys.maxsize if given["end"] is None else given["end"]
    if not isinstance(start, int) or not isinstance(end, int):
        raise Refused("k depends on the image's size")
    if count == sys.maxsize and (start < 0 or end < 0 or end == sys.maxsize):
        # The end of a ranking of unknown length: the first ones of the opposite one, but in another order.
        if start < 0 and end == sys.maxsize:
            return _Sorted(found.scores, not found.largest, 0, -start) if output == 1 or start == -1 else None
        return None
    start = max(0, start + count if start < 0 else start)
    end = min(count, end + count if end < 0 else end)
    if start and end == count and output == 1 and _is_full(found):
        # The last ones of a whole ranking are the first ones of the opposite one.
        return _Sorted(found.scores, not found.largest, 0, end - start)
    return _Sorted(found.scores, found.largest, found.start + start, found.start + end) if end > start else None


def _is_full(found: _Sorted) -> bool:
    return found.start == 0 and equal(sizes(found.scores)[-1], found.stop)


def ranks(node: Node) -> tuple[Node, bool] | None:
    """Read the rank of each node in its row: an argsort of an argsort.

    Returns
    -------
    tuple or None
        The scores, and whether the largest has rank 0.
    """
    outer = _ranked(strip(node), 1)
    if outer is None or outer.largest or outer.start or not _is_indices(outer.scores):
        return None
    inner = _ranked(outer.scores, 1)
    return (inner.scores, inner.largest) if inner is not None and _covers(inner) and _covers(outer) else None


def _is_indices(node: Node) -> bool:
    return operator_name(node) in ("argsort", "getitem") and _ranked(node, 1) is not None


def _covers(found: _Sorted) -> bool:
    return found.stop == sys.maxsize or _is_full(found)
