"""Find attentions in a graph: products of weights and values, and what their weights are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph, Node

from .masks import Constant, Mask, evaluate
from .nodes import (
    Refused,
    argument,
    arguments,
    depends_on_content,
    equal,
    equal_sizes,
    is_tensor,
    known_value,
    operator_name,
    positional,
    rank,
    sizes,
    strip,
    tensor,
)
from .operands import Operand, Step, same_moves
from .products import Product, read_gathered, read_product, read_summed_product, with_gathered
from .rankings import ranked_softmaxes, read_ranking
from .score_terms import EXCLUDED, Exclusion, Scores, complement
from .scores import add_to_scores, unknown_mask
from .selections import Selection
from .weights import Weights, is_row_sum, read_weights


@dataclass(frozen=True)
class Attention:
    """An attention to selected nodes: to the k with the largest products of query and key, or to those of any mask.

    Attributes
    ----------
    result
        The node that is replaced.
    softmax
        The operator that it is reported by.
    scores
        q, k, scale and bias.
    values
        v [..., N, Dv].
    finish
        What is done to the dimensions of [..., M, Dv] afterwards.
    masks
        Which nodes are attended to: those that all of these select.
    ranking
        query and key, the products of which the only mask is a top-k of; None for anything else.
    reason
        Why there is no `ranking`; empty if there is.
    fills_rows
        Whether a row of which the only mask selects no node attends to all nodes.
    """

    result: Node
    softmax: Node
    scores: Scores
    values: Operand
    finish: tuple[Step, ...]
    masks: tuple[Exclusion, ...]
    ranking: tuple[Operand, Operand] | None
    reason: str = ""
    fills_rows: bool = False


@dataclass(frozen=True)
class Other:
    """An attention that stays as it is, and why."""

    softmax: Node
    reason: str


def find_attentions(graph: Graph) -> list[Attention | Other]:
    """Return every softmax that weighs values, in order of execution, as an attention or as what it is instead.

    Parameters
    ----------
    graph
        Of a decomposed program, whose parameters have the meta value `nodes.VALUE`.
    """
    found: list[Attention] = []
    refused: dict[Node, str] = {}
    for node in graph.nodes:
        try:
            attention = _attention(node)
        except Refused as reason:
            if reason.softmax is not None:
                refused.setdefault(reason.softmax, str(reason))
            continue
        if attention is not None:
            found.append(attention)
    fused = {attention.softmax for attention in found}
    fused.update(node for attention in found for node in _ranked_softmaxes(attention))
    results: list[Attention | Other] = list(found)
    for node in graph.nodes:
        if node in fused:
            continue
        if node in refused or operator_name(node) in ("softmax", _SDPA):
            results.append(Other(node, refused.get(node) or _unknown(node)))
    order = {node: i for i, node in enumerate(graph.nodes)}
    return sorted(results, key=lambda result: order[result.softmax])


def _ranked_softmaxes(attention: Attention) -> set[Node]:
    return set().union(*(ranked_softmaxes(mask.selection.scores) for mask in attention.masks))


_SDPA = "scaled_dot_product_attention"


def _unknown(softmax: Node) -> str:
    if _multiplied(softmax):
        return "its weights are multiplied with a tensor that is no mask"
    if read_weights(softmax) is None:
        return "what the softmax normalises is no product of q and k that is known"
    return "what follows the softmax is no product with values that is known"


def _multiplied(weights: Node) -> bool:
    """Tell whether weights are multiplied with numbers of each node, possibly after a copy."""
    for user in weights.users:
        if operator_name(user) == "mul" and equal_sizes(sizes(user), sizes(weights)):
            others = [each for each in user.all_input_nodes if each is not weights and is_tensor(each)]
            if any(rank(each) == rank(weights) and equal(sizes(each)[-1], sizes(weights)[-1]) for each in others):
                return True
        if operator_name(user) in ("copy", "clone", "to_copy", "view", "reshape") and _multiplied(user):
            return True
    return False


def _attention(node: Node) -> Attention | None:
    """Read the attention whose result a node is; None if it is none.

    Raises
    ------
    Refused
        It is no plain top-k.
    """
    name = operator_name(node)
    if name == _SDPA:
        try:
            return _sdpa(node)
        except Refused as reason:
            reason.softmax = node
            raise
    if name == "div" and is_tensor(argument(node, 1)):
        return _divided_last(node)
    summed = read_summed_product(node)
    if summed is not None:
        return _summed(node, summed)
    product = read_product(node)
    return _of_product(node, product, normalised=False) if product is not None and product.added is None else None


def _of_product(result: Node, product: Product, normalised: bool) -> Attention | None:
    """Read weights times values, or values times weights with rows and columns exchanged."""
    row = Step("unsqueeze", -2)
    if product.left.steps in ((), (row,)) and (weights := read_weights(product.left.node)) is not None:
        if product.left.steps:
            if weights.scores.listed is None or weights.scores.single:
                return None
            finish = product.finish[1:]
        else:
            finish = (Step("unsqueeze", -2), *product.finish) if weights.scores.single else product.finish
        values = product.right.then("transpose")
    elif not product.right.steps and (weights := read_weights(product.right.node)) is not None:
        if weights.scores.listed is not None:
            return None
        values, finish = product.left.then("transpose"), (Step("transpose"), *product.finish)
    else:
        return None
    weights = replace(weights, normalised=weights.normalised or normalised)
    if product.scale != 1:
        finish = (*finish, Step("mul", product.scale))
    return _checked(result, weights, values, finish)


def _divided_last(node: Node) -> Attention | None:
    """Read the product of weights and values, divided by the sum of the weights afterwards."""
    numerator = strip(argument(node, 0))
    product = read_product(numerator)
    if product is None or product.left.steps or product.finish or product.added is not None:
        return None
    if not is_row_sum(argument(node, 1), product.left.node):
        return None
    return _of_product(node, product, normalised=True)


def _summed(result: Node, summed: tuple[Node, Node, int]) -> Attention | None:
    """Read ``(weights.unsqueeze(-1) * gathered).sum(-2)``."""
    if summed[2] != -2:
        return None
    for one, other in (summed[:2], summed[1::-1]):
        one = strip(one)
        if operator_name(one) != "unsqueeze" or arguments(one)["dim"] % rank(one) != rank(one) - 1:
            continue
        weights = read_weights(argument(one, 0))
        if weights is not None and weights.scores.listed is not None and not weights.scores.single:
            return _checked(result, weights, Operand(other), ())
    return None


def _sdpa(node: Node) -> Attention | None:
    given = arguments(node)
    query, key, mask = given["query"], given["key"], given["attn_mask"]
    if given["is_causal"] or given["dropout_p"] or given["enable_gqa"]:
        raise Refused("it is causal, drops weights, or shares keys between heads")
    channels = sizes(query)[-1]
    scale = given["scale"]
    if scale is None and not isinstance(channels, int):
        raise Refused("its scale depends on the image's size")
    scale = channels**-0.5 if scale is None else scale
    if not isinstance(scale, float | int):
        raise Refused("its scale is not known")
    product = Product(Operand(query), Operand(key), scale=float(scale))
    scores = Scores(product.left, product.right, product.scale)
    finish: tuple[Step, ...] = ()
    gathered = with_gathered(product) if equal(sizes(query)[-2], 1) else None
    if gathered is not None:
        scores = replace(
            scores, left=gathered[0].left, right=gathered[1].source, listed=gathered[1].listing, single=True
        )
        finish = (Step("unsqueeze", -2),)
    if mask is not None and tensor(mask).dtype == torch.bool:
        found = evaluate(mask)
        if isinstance(found, Mask):
            scores = scores.excluding(found if found.inside else complement(found), -math.inf)
        elif not isinstance(found, Constant) or not found.value:
            raise unknown_mask(mask)
    elif mask is not None:
        scores = add_to_scores(scores, mask, 1.0, sizes(query)[:-2])
    return _checked(node, Weights(scores, True, node), Operand(given["value"]), finish)


def _checked(result: Node, weights: Weights, values: Operand, finish: tuple[Step, ...]) -> Attention | None:
    """Return the attention of weights to values, if it is one to a top-k."""
    try:
        return _top_k(result, weights, values, finish)
    except Refused as reason:
        reason.softmax = weights.softmax
        raise


def _top_k(result: Node, weights: Weights, values: Operand, finish: tuple[Step, ...]) -> Attention | None:
    scores = weights.scores
    if scores.listed is not None:
        gathered = read_gathered(values.node) if not values.steps else None
        if gathered is None or not gathered.listing.same(scores.listed):
            raise Refused("the values are not those of the nodes whose scores are normalised")
        values = gathered.source
    elif not scores.exclusions and any(depends_on_content(bias.operand.node) for bias in scores.biases):
        raise Refused("what the image adds to its scores is no mask that is known")
    elif not scores.exclusions:
        raise Refused(f"it attends to all nodes{' that are gathered for it' if _gathered(scores.right.node) else ''}")
    if not weights.normalised:
        raise Refused("the weights are masked after the softmax, and not normalised again")
    scores = scores.over_all_nodes()
    if max(each.level for each in scores.exclusions) > EXCLUDED:
        raise Refused("nodes that are not selected take part in the softmax")
    masks: list[Exclusion] = []
    for exclusion in scores.exclusions:
        if not any(exclusion.selection.same(one.selection) and same_moves(exclusion.moves, one.moves) for one in masks):
            masks.append(exclusion)
    try:
        if len(masks) > 1:
            raise Refused("its scores are masked by more than one selection")
        ranking, reason = read_ranking(masks[0].selection), ""
    except Refused as refused:
        ranking, reason = None, str(refused)
    may_be_empty = _may_be_empty(masks) and min(each.level for each in scores.exclusions) > -math.inf
    fills_rows = ranking is None and may_be_empty and len(scores.exclusions) == 1 and scores.exclusions[0].keeps_scores
    if ranking is None and may_be_empty and not fills_rows:
        raise Refused(
            "its mask may select no node of a row, which then attends to all nodes by the number that fills the mask "
            "(with -inf it could be packed)"
        )
    return Attention(result, weights.softmax, scores, values, finish, tuple(masks), ranking, reason, fills_rows)


def _may_be_empty(masks: list[Exclusion]) -> bool:
    """Tell whether a row of masks together may select no node."""
    return len(masks) > 1 or not _selects_some(masks[0].selection)


def _selects_some(selection: Selection) -> bool:
    """Tell whether a selection has a node in every row for every image: a top-k, or what joins one with others."""
    if selection.k is not None:
        return selection.others is None
    return selection.marks is True and _joins_some(selection.origin)


def _joins_some(node: Any) -> bool:
    if operator_name(node) not in ("logical_or", "bitwise_or", "or"):
        return False
    for part in positional(node)[:2]:
        found, value = evaluate(part), known_value(part)
        if operator_name(part) == "eye" and equal(*sizes(part)):
            return True
        if value is not None and bool(value.any(-1).all()):
            return True
        if isinstance(found, Mask) and bool(found.inside) and _selects_some(found.selection):
            return True
    return False


#: What may be done to tensors between gathering them and using them as keys.
_VIEWS = {"view", "reshape", "unsafe_view", "permute", "transpose", "getitem", "split_with_sizes", "split", "slice"}


def _gathered(node: Node) -> bool:
    """Tell whether keys were gathered by indices that the image decides, such as those of whole windows."""
    node = strip(node)
    while operator_name(node) in _VIEWS | {"unsqueeze", "squeeze", "select", "expand", "flatten", "mul", "chunk"}:
        node = strip(argument(node, 0))
    if operator_name(node) not in ("gather", "index", "index_select"):
        return False
    return any(depends_on_content(each) for each in node.all_input_nodes[1:])
