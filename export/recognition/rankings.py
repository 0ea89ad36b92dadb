"""What a selection ranks, as a product: KeyGraph selects the largest of query . key^T."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .masks import read_constant
from .nodes import Refused, argument, arguments, equivalent, is_last, operator_name, positional, rank, strip
from .operands import Operand, has_size_one, leading_move
from .score_terms import Scores
from .scores import read_scores
from .selections import Selection

#: Operators that keep the order of their argument's numbers.
_INCREASING = {"exp", "log", "sqrt", "tanh", "sigmoid", "softmax", "log_softmax", "log1p", "expm1", "atan"}


def read_ranking(selection: Selection) -> tuple[Operand, Operand]:
    """Return query [..., M, C] and key [..., N, C] whose products rank the nodes of a row as the selection does.

    Positive factors, what is the same for a row's nodes, and increasing functions are left out: they change no order.
    A term for each node becomes one more channel, and a distance its square: |x - y|^2 = |x|^2 - 2 (x y - |y|^2 / 2).

    Raises
    ------
    Refused
        The selection is no top-k of a product.
    """
    if selection.k is None:
        raise Refused("what masks the scores is not a plain top-k")
    return _ranking(selection.scores, selection.largest)


def ranked_softmaxes(scores: Node) -> set[Node]:
    """Return the softmaxes that only rank nodes, and weigh nothing."""
    found: set[Node] = set()
    node = strip(scores)
    while operator_name(node) in (*_INCREASING, "neg", "mul", "div", "add", "sub") and isinstance(
        argument(node, 0), Node
    ):
        if operator_name(node) == "softmax":
            found.add(node)
        node = strip(argument(node, 0))
    return found


def _ranking(node: Node, largest: bool) -> tuple[Operand, Operand]:
    node = strip(node)
    scores = read_scores(node)
    if scores is not None:
        return _of_scores(scores, largest)
    name = operator_name(node)
    if name in _INCREASING and ("softmax" not in name or is_last(arguments(node)["dim"], node)):
        return _ranking(argument(node, 0), largest)
    if name in ("clamp", "clamp_min") and _guards_a_root(node):
        return _ranking(argument(node, 0), largest)
    if name == "neg":
        return _ranking(argument(node, 0), not largest)
    if name in ("mul", "div", "add", "sub", "rsub") and (found := _shifted(node, name, largest)) is not None:
        return found
    points = _distance(node)
    if points is not None:
        x, y = points
        return _signed(x.then("append", 1.0), y.then("append_half_square"), not largest)
    move = leading_move(node, 2)
    if move is not None:
        query, key = _ranking(argument(node, 0), largest)
        return query.moved(move), key.moved(move)
    raise Refused("what the selection ranks is no product of two tensors")


def _guards_a_root(node: Node) -> bool:
    """Tell whether numbers are cut off at zero before their root: squared distances, negative by rounding only."""
    given = arguments(node)
    return (
        read_constant(given["min"]) == 0
        and given.get("max") is None
        and all(operator_name(user) == "sqrt" for user in node.users)
    )


def _of_scores(scores: Scores, largest: bool) -> tuple[Operand, Operand]:
    if scores.exclusions:
        raise Refused("the scores are masked before the selection")
    if scores.outer and scores.biases:
        raise Refused("the bias is inside the selection")
    if scores.outer or scores.listed is not None:
        raise Refused("what the selection ranks is no product of two tensors")
    query, key = scores.left, scores.right
    if scores.scale == 0:
        raise Refused("what the selection ranks is zero")
    for bias in scores.biases:
        term = Operand(bias.operand.node)  # The step of a bias of each window flattens what the key has in full.
        if len(bias.operand.steps) > bias.windows or not has_size_one(term.node, -2):
            raise Refused("the bias is inside the selection")
        term = term.then("transpose") if rank(term.node) > 1 else term.then("unsqueeze", -1)
        query, key = query.then("append", 1.0), key.then("append", term.then("mul", bias.scale / scores.scale))
    return _signed(query, key, largest == (scores.scale > 0))


def _signed(query: Operand, key: Operand, largest: bool) -> tuple[Operand, Operand]:
    return query if largest else query.then("mul", -1.0), key


def _shifted(node: Node, name: str, largest: bool) -> tuple[Operand, Operand] | None:
    """Read a factor or a number that is added."""
    first, second = positional(node)[:2]
    number, inner = read_constant(second), first
    if number is None and name in ("mul", "add", "sub"):
        number, inner = read_constant(first), second
    if number is None or not isinstance(inner, Node):
        return None
    if name in ("mul", "div"):
        if number == 0:
            return None
        return _ranking(inner, largest == (number > 0))
    turned = name == "rsub" or (name == "sub" and inner is second)
    return _ranking(inner, largest != turned)


def _distance(node: Node) -> tuple[Operand, Operand] | None:
    """Read Euclidean distances of points x [..., M, C] and y [..., N, C], or their squares."""
    name = operator_name(node)
    if name == "pow" and read_constant(argument(node, 1)) in (0.5, 2):
        return _distance(strip(argument(node, 0)))
    if name == "mul" and equivalent(argument(node, 0), argument(node, 1)):
        return _distance(strip(argument(node, 0)))
    if name == "cdist":
        given = arguments(node)
        return (Operand(given["x1"]), Operand(given["x2"])) if given["p"] == 2 else None
    if name not in ("sum", "linalg_vector_norm", "mean"):
        return None
    given = arguments(node)
    source = strip(given["self"])
    if given.get("keepdim") or not is_last(given.get("dim"), source):
        return None
    if name == "linalg_vector_norm" and given["ord"] != 2:
        return None
    difference: Any = source if name == "linalg_vector_norm" else _square_root(source)
    if operator_name(difference) != "sub" or float(arguments(difference)["alpha"]) != 1:
        return None
    first, second = (_repeated(part) for part in positional(difference)[:2])
    if first is None or second is None or {first[1], second[1]} != {-2, -3}:
        return None
    return (Operand(first[0]), Operand(second[0])) if first[1] == -2 else (Operand(second[0]), Operand(first[0]))


def _square_root(node: Node) -> Node | None:
    """Return x of x ** 2 or x * x."""
    squared = operator_name(node) == "pow" and read_constant(argument(node, 1)) == 2
    if squared or (operator_name(node) == "mul" and equivalent(argument(node, 0), argument(node, 1))):
        root: Node = strip(argument(node, 0))
        return root
    return None


def _repeated(node: object) -> tuple[Node, int] | None:
    """Read points with a dimension of size 1 before the channels (-2) or before the points (-3)."""
    node = strip(node)
    if operator_name(node) != "unsqueeze" or not isinstance(node, Node):
        return None
    dim = arguments(node)["dim"] % rank(node) - rank(node)
    return (argument(node, 0), dim) if dim in (-2, -3) else None
