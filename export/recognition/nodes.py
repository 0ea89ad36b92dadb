"""Read nodes of a decomposed `torch.export` graph: operators, arguments by name, sizes, constants."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import map_arg

#: Key of `Node.meta` for the value of a parameter, buffer or constant of the program.
VALUE = "keygraph_value"

#: Operators that return their input's numbers, in the same shape; a cast between floating-point types counts as well.
_COPIES = {"clone", "contiguous", "alias", "detach", "lift_fresh", "lift_fresh_copy", "to_copy", "to", "type_as"}


class Refused(Exception):
    """An attention that is recognised, and is not a plain top-k; the message is the reason.

    Attributes
    ----------
    softmax
        The operator by which the attention is reported, once that is known.
    """

    softmax: Node | None = None


def operator_name(node: object) -> str:
    """Return an operator's name without its overload, for instance ``softmax``; empty for what is no operator."""
    if not isinstance(node, Node) or node.op != "call_function":
        return ""
    if node.target is operator.getitem:
        return "getitem"
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet.__name__).strip("_") if packet is not None else ""


def arguments(node: Node) -> dict[str, Any]:
    """Return an operator's arguments by the names in its schema, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in schema), node.args, strict=False))
    return {argument.name: argument.default_value for argument in schema} | given | node.kwargs


def argument(node: Any, place: int) -> Any:
    """Return an operator's argument by its place."""
    return node.args[place]


def positional(node: Any) -> Any:
    """Return an operator's positional arguments."""
    return node.args


def tensor(node: Node) -> Tensor:
    """Return the fake tensor that says a node's shape and type."""
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value


def is_tensor(node: object) -> bool:
    """Tell whether an argument is a node that computes one tensor."""
    return isinstance(node, Node) and isinstance(node.meta.get("val"), Tensor)


def sizes(node: Node) -> list[Any]:
    """Return a tensor's sizes: int, or SymInt where they depend on the image."""
    return list(tensor(node).shape)


def rank(node: Node) -> int:
    """Return a tensor's number of dimensions."""
    return tensor(node).dim()


def equal(first: Any, second: Any) -> bool:
    """Tell whether two sizes are equal for every image."""
    return bool(statically_known_true(first == second))


def equal_sizes(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Tell whether two shapes are equal for every image."""
    return len(first) == len(second) and all(map(equal, first, second))


def is_last(dim: Any, node: Node) -> bool:
    """Tell whether a `dim` argument (an int, or a list of one) is a tensor's last dimension."""
    if isinstance(dim, list | tuple):
        return len(dim) == 1 and is_last(dim[0], node)
    return isinstance(dim, int) and dim in (-1, rank(node) - 1)


def strip(node: Any) -> Any:
    """Return the node behind copies, casts between floating-point types, inactive dropout and complete slices."""
    while isinstance(node, Node) and _copies(node):
        node = node.args[0]
    return node


def _copies(node: Node) -> bool:
    name = operator_name(node)
    if name in _COPIES:
        return _same_kind(node, node.args[0])
    if name in ("dropout", "feature_dropout"):
        return not arguments(node)["train"]
    if name == "slice":
        return is_whole(node)
    return name == "expand" and equal_sizes(sizes(node), sizes(node.args[0]))  # type: ignore[arg-type]


def _same_kind(node: Node, source: Any) -> bool:
    """Tell whether a cast is none, or between floating-point types."""
    before, after = tensor(source).dtype, tensor(node).dtype
    return before == after or (before.is_floating_point and after.is_floating_point)


def is_whole(node: Node) -> bool:
    """Tell whether a slice takes everything."""
    given = arguments(node)
    start, end = given["start"], given["end"]
    return start in (0, None) and given["step"] == 1 and (end is None or (isinstance(end, int) and end == sys.maxsize))


def is_number(value: object) -> bool:
    """Tell whether an argument is a plain number."""
    return isinstance(value, bool | int | float)


def known_value(node: object) -> Tensor | None:
    """Return the value of a parameter, buffer or constant, behind copies; None for everything else."""
    node = strip(node)
    value = node.meta.get(VALUE) if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


#: Most elements of a tensor that is computed here from parameters.
_COMPUTED = 1 << 12


def computed_value(node: object) -> Tensor | None:
    """Return the value of a small tensor that is computed from parameters, buffers and constants alone.

    Parameters
    ----------
    node
        For instance ``exp(clamp(logit_scale))``.

    Returns
    -------
    Tensor or None
        None for what depends on the inputs, and for large tensors.
    """
    value = known_value(node)
    if value is not None or not isinstance(node, Node) or node.op != "call_function" or _is_random(node):
        return value
    if (
        not is_tensor(node)
        or not all(isinstance(size, int) for size in sizes(node))
        or tensor(node).numel() > _COMPUTED
    ):
        return None
    values = {each: computed_value(each) for each in node.all_input_nodes}
    if any(value is None for value in values.values()):
        return None
    compute: Any = node.target
    result = compute(*map_arg(node.args, values.__getitem__), **map_arg(node.kwargs, values.__getitem__))
    return result if isinstance(result, Tensor) else None


#: Operators whose result depends on their input's shape alone.
_SHAPE_ONLY = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}


def depends_on_content(node: Node) -> bool:
    """Tell whether a tensor depends on the values of the program's inputs, and not on their sizes alone."""
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.op == "placeholder" and VALUE not in one.meta:
            return True
        if operator_name(one) not in _SHAPE_ONLY and not _is_random(one):
            waiting += [each for each in one.all_input_nodes if not _is_size(each)]
    return False


def _is_size(node: Node) -> bool:
    return isinstance(node.meta.get("val"), int | torch.SymInt)


def equivalent(first: Any, second: Any) -> bool:
    """Tell whether two arguments are computed in the same way from the same tensors."""
    first, second = strip(first), strip(second)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(equivalent, first, second))
    if not isinstance(first, Node) or not isinstance(second, Node):
        return type(first) is type(second) and bool(first == second)
    if first is second:
        return True
    if first.op != "call_function" or first.target is not second.target or _is_random(first):
        return False
    return (
        equivalent(first.args, second.args)
        and first.kwargs.keys() == second.kwargs.keys()
        and all(equivalent(first.kwargs[name], second.kwargs[name]) for name in first.kwargs)
    )


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def module_path(node: Node) -> str:
    """Return the path of the innermost module that a node belongs to, for instance ``layers.3.attn``."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]).removeprefix("L['self'].") if paths else ""
