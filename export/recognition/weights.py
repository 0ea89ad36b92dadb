"""Idioms of attention weights: the softmax of scores, however it is written, and its renormalisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node

from .masks import Constant, Mask, evaluate, read_constant
from .nodes import Refused, argument, arguments, equivalent, is_last, is_tensor, operator_name, positional, rank, strip
from .operands import leading_move
from .score_terms import Scores, complement, keeps_heads, read_choice
from .scores import listed, read_scores
from .selections import listed_values, listing

#: Largest number that guards a sum of weights against a division by zero.
_EPSILON = 1e-6


@dataclass(frozen=True)
class Weights:
    """Weights of nodes: exp(scores), up to a factor for each row.

    Attributes
    ----------
    scores
        What they are computed from.
    normalised
        Whether those of a row add up to 1.
    softmax
        The operator that an attention is reported by.
    """

    scores: Scores
    normalised: bool
    softmax: Node

    def excluding(self, mask: Mask) -> Weights:
        """Return the weights with those outside a mask set to zero."""
        known = any(each.selection.same(mask.selection) for each in self.scores.exclusions)
        normalised = self.normalised and known and float(mask.inside) == 1
        scores = self.scores if known else self.scores.excluding(mask, -math.inf)
        return replace(self, scores=scores, normalised=normalised)


def read_weights(node: Any) -> Weights | None:
    """Read attention weights; None if there is no softmax of scores.

    Raises
    ------
    Refused
        There is, but it is no plain top-k.
    """
    node = strip(node)
    if not is_tensor(node):
        return None
    if operator_name(node) == "nan_to_num":  # Every row attends to a node, so no weight is NaN.
        return read_weights(argument(node, 0))
    reader = _READERS.get(operator_name(node))
    found = reader(node) if reader is not None else None
    if found is not None:
        return found
    move = leading_move(node, 2)
    if move is not None and (inner := read_weights(argument(node, 0))) is not None and inner.scores.listed is None:
        moved = inner.scores.moved(move, keeps_heads(node))
        return replace(inner, scores=moved) if moved is not None else None
    return None


def _softmax(node: Node) -> Weights | None:
    try:
        scores = read_scores(argument(node, 0))
        if scores is not None and not is_last(arguments(node)["dim"], node):
            raise Refused("the softmax runs over another dimension than the nodes of a row")
    except Refused as reason:
        reason.softmax = node
        raise
    return Weights(scores, True, node) if scores is not None else None


def _exponential(node: Node) -> Weights | None:
    """Read exp(scores), exp(log_softmax(scores)) and exp(scores - logsumexp(scores))."""
    source = strip(argument(node, 0))
    if operator_name(source) == "log_softmax":
        found = _softmax(source)
        return replace(found, softmax=node) if found is not None else None
    try:
        scores = read_scores(source)
    except Refused as reason:
        reason.softmax = node
        raise
    if scores is None:
        return None
    normalised = False
    if operator_name(source) == "sub":
        total = strip(argument(source, 1))
        normalised = (
            operator_name(total) == "logsumexp"
            and is_last(arguments(total)["dim"], total)
            and bool(arguments(total)["keepdim"])
            and equivalent(argument(total, 0), argument(source, 0))
        )
    return Weights(scores, normalised, node)


def _divided(node: Node) -> Weights | None:
    """Read weights divided by their sum."""
    if not is_tensor(argument(node, 1)):
        return None
    found = read_weights(argument(node, 0))
    if found is None:
        return None
    if is_row_sum(argument(node, 1), argument(node, 0)):
        return replace(found, normalised=True)
    if not found.scores.exclusions and found.scores.listed is None:
        return None
    reason = Refused("the masked weights are divided by something else than their sum")
    reason.softmax = found.softmax
    raise reason


def is_row_sum(node: Any, weights: Any) -> bool:
    """Tell whether a tensor is the sum of a row's weights, guarded against zero or not."""
    node = strip(node)
    while operator_name(node) == "expand":
        node = strip(argument(node, 0))
    name = operator_name(node)
    if name in ("add", "clamp_min", "clamp", "maximum"):
        guard = arguments(node).get("min") if name == "clamp" else argument(node, 1)
        number = read_constant(guard)
        return number is not None and 0 <= number <= _EPSILON and is_row_sum(argument(node, 0), weights)
    if name == "unsqueeze" and arguments(node)["dim"] in (-1, rank(node) - 1):
        node, keep = strip(argument(node, 0)), False
    else:
        keep = True
    if operator_name(node) not in ("sum", "linalg_vector_norm"):
        return False
    given = arguments(node)
    source = given["self"]
    if operator_name(node) == "linalg_vector_norm" and given["ord"] != 1:
        return False
    return is_last(given.get("dim"), source) and bool(given["keepdim"]) is keep and equivalent(source, weights)


def _masked(node: Node) -> Weights | None:
    """Read weights times a mask of 0 and 1, or times the reciprocal of their sum."""
    for one, other in (positional(node)[:2], positional(node)[1::-1]):
        mask = evaluate(other)
        if isinstance(mask, Mask):
            if float(mask.inside) == 0 and float(mask.outside) > 0:
                mask = complement(mask)
            if float(mask.outside) != 0 or float(mask.inside) <= 0:
                continue
            found = read_weights(one)
            return found.excluding(mask) if found is not None else None
        if isinstance(mask, Constant):
            continue
        reciprocal = strip(other)
        if operator_name(reciprocal) == "reciprocal" and is_row_sum(argument(reciprocal, 0), one):
            found = read_weights(one)
            return replace(found, normalised=True) if found is not None else None
    return None


def _filled(node: Node) -> Weights | None:
    """Read weights with zeros where a mask selects nothing, or where they are NaN, by where or masked_fill."""
    if (kept := _without_nan(node)) is not None:
        return read_weights(kept)
    mask, kept, other = read_choice(node)
    if mask is None or read_constant(other) != 0:
        return None
    found = read_weights(kept)
    one = mask.inside.new_ones(()).float()
    return found.excluding(replace(mask, inside=one, outside=0 * one)) if found is not None else None


def _without_nan(node: Node) -> Node | None:
    """Return x of ``where(isnan(x), 0, x)``; every row attends to a node, so no weight is NaN."""
    if operator_name(node) == "where":
        mask, value, kept = positional(node)
    else:
        kept, mask, value = positional(node)
    mask = strip(mask)
    if operator_name(mask) != "isnan" or read_constant(value) != 0 or not equivalent(argument(mask, 0), kept):
        return None
    found: Node = kept
    return found


def _scattered(node: Node) -> Weights | None:
    """Read listed weights that are scattered into zeros."""
    given = arguments(node)
    source = given.get("src")
    if not is_tensor(source) or not is_last(given["dim"], node) or read_constant(given["self"]) != 0:
        return None
    if given.get("reduce") not in (None, "sum"):
        return None
    found, index = read_weights(source), listing(given["index"])
    if found is None or index is None or found.scores.listed is None or found.scores.single:
        return None
    if not found.scores.listed.same(index):
        return None
    return replace(found, scores=found.scores.over_all_nodes())


def _gathered(node: Node) -> Weights | None:
    """Read the listed ones of all weights, by gather or as the values of their top-k."""
    if operator_name(node) == "gather":
        given = arguments(node)
        found = listing(given["index"]) if is_last(given["dim"], node) else None
        source = given["self"]
    else:
        found = listed_values(node)
        source = found.selection.scores if found is not None else None
    weights = read_weights(source) if found is not None else None
    if found is None or weights is None:
        return None
    scores = listed(weights.scores, found)
    if scores is None:
        return None
    known = any(each.selection.same(found.selection) for each in scores.exclusions)
    return replace(weights, scores=scores, normalised=weights.normalised and known)


def _single(node: Node) -> Weights | None:
    """Read listed weights [..., M, k] as [..., M, 1, k], or the other way round."""
    adds = operator_name(node) == "unsqueeze"
    dims = rank(node) if adds else rank(argument(node, 0))
    dim = arguments(node).get("dim")
    dim = dim[0] if isinstance(dim, list) and len(dim) == 1 else dim
    if not isinstance(dim, int) or dim % dims != dims - 2:
        return None
    found = read_weights(argument(node, 0))
    if found is None or found.scores.listed is None or found.scores.single is adds:
        return None
    return replace(found, scores=replace(found.scores, single=adds))


_READERS: dict[str, Callable[[Node], Weights | None]] = {
    "softmax": _softmax,
    "exp": _exponential,
    "div": _divided,
    "mul": _masked,
    "where": _filled,
    "masked_fill": _filled,
    "scatter": _scattered,
    "scatter_add": _scattered,
    "gather": _gathered,
    "getitem": _gathered,
    "slice": _gathered,
    "unsqueeze": _single,
    "squeeze": _single,
}
