"""Idioms of scores: q k^T with factors, biases and masks, over all nodes or over the listed ones of each row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch.fx import Node

from .masks import Constant, Mask, evaluate, zeros_outside
from .nodes import (
    Refused,
    argument,
    arguments,
    computed_value,
    depends_on_content,
    is_last,
    is_tensor,
    operator_name,
    positional,
    rank,
    sizes,
    strip,
)
from .operands import Operand, has_size_one, leading_move
from .products import Product, read_product, read_summed_product, single_row, with_gathered
from .score_terms import EXCLUDED, Scores, bias_of, complement, keeps_heads, low, read_choice
from .selections import Listing, listed_values, listing


def read_scores(node: Any) -> Scores | None:
    """Read scores; None if they are no product of two tensors.

    Raises
    ------
    Refused
        They are, but what is done to them is no plain top-k.
    """
    node = strip(node)
    if not is_tensor(node):
        return None
    reader = _READERS.get(operator_name(node))
    found = reader(node) if reader is not None else None
    if found is not None:
        return found
    product = read_product(node)
    if product is not None:
        return _of_product(node, product)
    move = leading_move(node, 2)
    if move is not None:
        inner = read_scores(argument(node, 0))
        return inner.moved(move, keeps_heads(node)) if inner is not None else None
    return None


def _of_product(node: Node, product: Product) -> Scores | None:
    gathered = with_gathered(product)
    single = not product.finish
    if gathered is not None:
        product, found = gathered
        scores = Scores(product.left, found.source, product.scale, listed=found.listing, single=single)
    elif product.finish:
        return None
    else:
        scores = Scores(product.left, product.right, product.scale)
    if product.added is None:
        return scores
    return add_to_scores(scores, product.added[0], product.added[1], sizes(node)[:-2])


def _summed(node: Node) -> Scores | None:
    """Read ``(q.unsqueeze(-2) * gathered).sum(-1)``."""
    found = read_summed_product(node)
    if found is None or found[2] != -1:
        return None
    for one, other in (found[:2], found[1::-1]):
        gathered = with_gathered(Product(single_row(one).then("unsqueeze", -2), Operand(other)))
        if gathered is not None and rank(one) == rank(other) and has_size_one(one, -2):
            return Scores(single_row(one), gathered[1].source, listed=gathered[1].listing)
    return None


def _where(node: Node) -> Scores | None:
    condition, first, second = positional(node)
    mask = evaluate(condition)
    if isinstance(mask, Mask):
        kept, other = (first, second) if mask.inside else (second, first)
        return _filled(kept, mask, other)
    for kept, other in ((first, second), (second, first)):
        value = evaluate(other)
        if isinstance(value, Constant) and float(value.value) <= EXCLUDED:
            return _unknown_mask(kept, condition)
    return None


def _masked_fill(node: Node) -> Scores | None:
    given = arguments(node)
    mask = evaluate(given["mask"])
    if isinstance(mask, Mask):
        if mask.inside:
            mask = complement(mask)
        return _filled(given["self"], mask, given["value"])
    return _unknown_mask(given["self"], given["mask"])


def _assigned(node: Node) -> Scores | None:
    """Read ``scores[mask] = value``."""
    given = arguments(node)
    indices = given["indices"]
    if len(indices) != 1 or not is_tensor(indices[0]) or given["accumulate"] or rank(indices[0]) != rank(node):
        return None
    mask = evaluate(indices[0])
    if isinstance(mask, Mask):
        return _filled(given["self"], complement(mask) if mask.inside else mask, given["values"])
    return _unknown_mask(given["self"], indices[0])


def _unknown_mask(kept: Any, mask: Any) -> Scores | None:
    if read_scores(kept) is not None:
        raise unknown_mask(mask)
    return None


def unknown_mask(mask: Any) -> Refused:
    """Return the reason for which an attention with a mask that says nothing about nodes stays as it is."""
    if is_tensor(mask) and not depends_on_content(mask):
        return Refused("a mask of its scores does not depend on what is in the image")
    return Refused("what masks the scores is not a plain top-k")


def _filled(kept: Any, mask: Mask, fill: Any) -> Scores | None:
    """Read scores with a number where a mask selects nothing."""
    value = evaluate(fill)
    zeroed = zeros_outside(kept)
    if zeroed is not None and zeroed[1].selection.same(mask.selection):
        kept = zeroed[0]
    scores = read_scores(kept)
    if scores is not None and zeroed is not None and scores.listed is not None and scores.listed.same(zeroed[1]):
        scores = replace(scores, listed=None)
    if scores is None or scores.listed is not None:
        return None
    if not isinstance(value, Constant):
        raise Refused("nodes that are not selected keep a score of their own")
    return scores.excluding(mask, low(float(value.value)))


def _scattered(node: Node) -> Scores | None:
    """Read listed scores that are scattered into a low number."""
    given = arguments(node)
    base, source = evaluate(given["self"]), given.get("src")
    if not isinstance(base, Constant) or not is_tensor(source) or not is_last(given["dim"], node):
        return None
    scores, found = read_scores(source), listing(given["index"])
    if scores is None or found is None or scores.listed is None or scores.single or not scores.listed.same(found):
        return None
    low(float(base.value))
    return scores.over_all_nodes()


def _gathered(node: Node) -> Scores | None:
    """Read the listed ones of all scores."""
    given = arguments(node)
    found = listing(given["index"])
    if found is None or not is_last(given["dim"], node):
        return None
    return listed(read_scores(given["self"]), found)


def _values(node: Node) -> Scores | None:
    """Read the values of the scores' own top-k."""
    found = listed_values(node)
    return listed(read_scores(found.selection.scores), found) if found is not None else None


def listed(scores: Scores | None, found: Listing) -> Scores | None:
    """Return those scores that a listing takes of all."""
    if scores is None or scores.listed is not None or scores.outer:
        return None
    return replace(scores, listed=found)


def _times(node: Node) -> Scores | None:
    """Read scores times or divided by a number, or by a tensor that is the same for a row's, or a column's, nodes."""
    kind = operator_name(node)
    for scaled, factor in (positional(node)[:2], positional(node)[1::-1]) if kind == "mul" else (positional(node)[:2],):
        value = evaluate(factor)
        if not is_tensor(scaled) or (
            isinstance(value, Constant) and not value.value.is_floating_point() and value.value == 0
        ):
            continue
        scores = read_scores(scaled)
        if scores is None:
            continue
        if isinstance(value, Mask):
            raise Refused("the mask multiplies the scores, so that nodes that are not selected take part with 0")
        if isinstance(value, Constant):
            number = float(value.value)
            return scores.times(number if kind == "mul" else 1 / number) if number else None
        return _times_tensor(scores, factor, kind, node)
    return None


def _times_tensor(scores: Scores, factor: Any, kind: str, node: Node) -> Scores:
    """Multiply q, or k, with a factor: its sign and size are not known, so it is no scale."""
    if scores.outer:
        raise Refused("the scores are scaled after a change of their shape")
    exclusions = scores.exclusions
    if exclusions:
        value = computed_value(factor)
        if value is None or not bool((value > 0).all()):
            raise Refused("masked scores are multiplied with a tensor that may be negative")
        smallest = float(value.min()) if kind == "mul" else 1 / float(value.max())
        exclusions = tuple(replace(each, level=each.level * smallest) for each in exclusions)
    operand = Operand(factor)
    if not has_size_one(factor, -1):
        if not has_size_one(factor, -2) or scores.biases or scores.listed is not None:
            raise Refused("the scores are multiplied with a matrix")
        column = operand.then("transpose") if rank(factor) > 1 else operand.then("unsqueeze", -1)
        return replace(scores, right=scores.right.then(kind, column), exclusions=exclusions)
    if rank(factor) > rank(node):
        raise Refused("the scores are multiplied with a tensor of more dimensions")
    if scores.single and rank(factor) > 1:
        if not has_size_one(factor, -2):
            raise Refused("the scores are multiplied with a matrix")
        operand = operand.then("squeeze", -2)
    if rank(factor) > 3 and any(bias.windows for bias in scores.biases):
        raise Refused("a bias of each window is scaled by more than its head")
    biases = tuple(replace(bias, operand=bias.operand.then(kind, operand)) for bias in scores.biases)
    return replace(scores, left=scores.left.then(kind, operand), biases=biases, exclusions=exclusions)


def _negated(node: Node) -> Scores | None:
    scores = read_scores(argument(node, 0))
    return scores.times(-1.0) if scores is not None else None


def _sum(node: Node) -> Scores | None:
    """Read scores plus or minus something."""
    sign = 1.0 if operator_name(node) == "add" else -1.0
    alpha = float(arguments(node).get("alpha", 1))
    first, second = positional(node)[:2]
    lead = sizes(node)[:-2]
    scores = read_scores(first)
    if scores is not None and not (sign > 0 and _is_mask(first)):
        return add_to_scores(scores, second, sign * alpha, lead)
    scores = read_scores(second)
    if scores is None or not is_tensor(first):
        return None
    return add_to_scores(scores.times(sign * alpha), first, 1.0, lead)


def _is_mask(node: Any) -> bool:
    return isinstance(evaluate(node), Mask)


def add_to_scores(scores: Scores, added: Any, factor: float, lead: list[Any]) -> Scores:
    """Return scores plus a mask, a bias, a sum of both, or what is the same for all nodes of a row.

    Parameters
    ----------
    scores
        What is added to.
    added
        What is added: a node or a number.
    factor
        Of what is added.
    lead
        Leading dimensions of the sum.

    Raises
    ------
    Refused
        The mask is no plain top-k, or the bias is not one of all nodes.
    """
    if not is_tensor(added):
        return scores
    value = evaluate(added)
    if isinstance(value, Constant):
        return scores
    if scores.outer:
        raise Refused("a bias is added after a change of the scores' shape")
    if isinstance(value, Mask):
        inside, outside = factor * float(value.inside), factor * float(value.outside)
        if not math.isfinite(inside) or (not outside - inside <= EXCLUDED and inside - outside <= EXCLUDED):
            value, inside, outside = complement(value), outside, inside
        return scores.excluding(value, low(outside - inside), added=True)
    added = strip(added)
    name = operator_name(added)
    if has_size_one(added, -1):
        return scores
    if name == "add" and float(arguments(added).get("alpha", 1)) == 1:
        for part in positional(added)[:2]:
            scores = add_to_scores(scores, part, factor, lead)
        return scores
    if name in ("where", "masked_fill"):
        split = _masked_bias(added, factor)
        if split is not None:
            mask, level, bias = split
            return add_to_scores(scores, bias, factor, lead).excluding(mask, level)
    if scores.listed is not None:
        added = _listed_bias(scores, added)
        lead = lead[:-1] if scores.single else lead
    return replace(scores, biases=(*scores.biases, bias_of(added, factor, lead)))


def _masked_bias(node: Node, factor: float) -> tuple[Mask, float, Any] | None:
    """Read a bias with a low number where a mask selects nothing."""
    mask, kept, other = read_choice(node)
    value = evaluate(other)
    if mask is None or not isinstance(value, Constant):
        return None
    return mask, low(factor * float(value.value)), kept


def _listed_bias(scores: Scores, added: Node) -> Node:
    """Return the bias of all nodes of which the listed ones were taken."""
    source = added
    if scores.single and operator_name(added) == "unsqueeze":
        source = strip(argument(added, 0)) if arguments(added)["dim"] % rank(added) == rank(added) - 2 else added
    if operator_name(source) == "gather" and is_last(arguments(source)["dim"], source):
        found = listing(arguments(source)["index"])
        bias: Node = strip(arguments(source)["self"])
        if found is not None and scores.listed is not None and found.same(scores.listed):
            return bias
    raise Refused("the bias of listed neighbours is not taken from a bias of all nodes")


_READERS: dict[str, Callable[[Node], Scores | None]] = {
    "where": _where,
    "masked_fill": _masked_fill,
    "index_put": _assigned,
    "scatter": _scattered,
    "gather": _gathered,
    "getitem": _values,
    "slice": _values,
    "mul": _times,
    "div": _times,
    "neg": _negated,
    "add": _sum,
    "sub": _sum,
    "sum": _summed,
}
