"""Attentions that a network computes by keygraph's operators itself, as `keygraph.attend` does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from ...plugins import torch as _operators  # noqa: F401 - registers keygraph::* with PyTorch
from .graph_builder import GraphBuilder
from .layouts import heads_first, heads_last
from .nodes import VALUE, argument, arguments, known_value, module_path, operator_name, positional, rank, sizes
from .recognize import Verdict, annotated_graph, operator_sizes, rebuilt

_KEY_GRAPH = torch.ops.keygraph.key_graph.default
#: Operators that select k nodes, with the place of their argument k.
_OF_K = {_KEY_GRAPH: 2, torch.ops.keygraph.top_k_graph.default: 1}
_ATTENTION = torch.ops.keygraph.key_graph_attention.default

#: Views between a key graph and the attention to it.
_VIEWS = {"expand", "flatten", "reshape", "squeeze", "unsqueeze", "view"}


@dataclass(frozen=True)
class ByHand:
    """A program with the operators that it had already, arranged as an exported file has them.

    Attributes
    ----------
    program
        Each key graph is computed once, and heads are last.
    verdicts
        One for each attention, in order of execution.
    calls
        For each call of `key_graph` in the network, which of the program's key graphs it is, in order of execution.
    """

    program: ExportedProgram
    verdicts: tuple[Verdict, ...]
    calls: tuple[int, ...]


def arrange_by_hand(program: ExportedProgram) -> ByHand:
    """Merge equal key graphs, and move the heads of q, k and v to the end.

    Parameters
    ----------
    program
        After ``run_decompositions({})``; not changed.

    Returns
    -------
    ByHand
        The program given where it has none of the operators.
    """
    if not any(node.target in (_KEY_GRAPH, _ATTENTION) for node in program.graph.nodes):
        return ByHand(program, (), ())
    graph = annotated_graph(program)
    calls = _merge_key_graphs(graph)
    verdicts = []
    for node in list(graph.nodes):
        if node.target is _ATTENTION:
            node = _with_heads_last(graph, node)
            nodes, heads, channels = operator_sizes(node)
            verdict = Verdict(module_path(node), node.name, True, _k(node), by_hand=True)
            verdicts.append(replace(verdict, nodes=nodes, heads=heads, channels=channels))
    return ByHand(rebuilt(program, graph, ()), tuple(verdicts), calls)


def _merge_key_graphs(graph: Graph) -> tuple[int, ...]:
    """Compute each key graph once; return which one each call was, as `ByHand.calls`."""
    # Also those that are equal because two parameters have the same values: in the file these are one.
    first: dict[Any, Node] = {}
    same: dict[Node, Node] = {}
    kept: list[Node] = []
    calls = []
    for node in list(graph.nodes):
        same[node] = first.setdefault(_key(node, same), node)
        if node.target is not _KEY_GRAPH:
            continue
        if same[node] is node:
            kept.append(node)
        else:
            node.replace_all_uses_with(same[node])
            graph.erase_node(node)
        calls.append(kept.index(same[node]))
    return tuple(calls)


def _key(node: Node, same: dict[Node, Node]) -> Any:
    """Return what two nodes have in common if they compute the same."""
    value = node.meta.get(VALUE)
    if isinstance(value, Tensor):
        content = hashlib.sha256(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return value.dtype, value.shape, content.digest()
    if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return node
    return node.target, repr(map_arg((node.args, node.kwargs), lambda each: same[each]))


def _with_heads_last(graph: Graph, node: Node) -> Node:
    """Compute an attention of [B, H, N, D] by the form for [B, N, H D]; return its node."""
    q, k, v, bits, bias, scale, heads = positional(node)
    count = sizes(q)[1]
    if heads or not isinstance(count, int) or any(user.op == "output" for user in node.users):
        return node
    build = GraphBuilder(graph, node)
    operator = build(_ATTENTION, *(heads_last(build, each) for each in (q, k, v)), bits, bias, scale, count)
    node.replace_all_uses_with(heads_first(build, operator, count, build.size(v, rank(v) - 1)))
    graph.erase_node(node)
    return operator


def _k(attention: Node) -> int | None:
    """Return how many nodes each row attends to; None where the selection is none of a fixed number."""
    node = argument(attention, 3)
    while operator_name(node) in _VIEWS:
        node = argument(node, 0)
    return k_of(node)


def k_of(key_graph: Node) -> int | None:
    """Return the k of a key graph's operator; None where it has none, or computes it."""
    if key_graph.target not in _OF_K:
        return None
    k = argument(key_graph, _OF_K[key_graph.target])
    while operator_name(k) in _VIEWS:
        k = argument(k, 0)
    if operator_name(k) == "full":
        number = arguments(k)["fill_value"]
        return number if isinstance(number, int) else None
    value = known_value(k)
    return None if value is None else int(value)
