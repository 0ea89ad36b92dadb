"""One form for all KeyGraphAttention nodes of a graph, because a file holds one function of that name.

ONNX has overloads of functions, but what reads our files does not read them: ONNX Runtime 1.20 to 1.24 infers shapes by
a function of the wrong overload and refuses the file (1.31 runs it), and TensorRT's parser finds functions by name
alone and uses the first. A body cannot tell whether an optional input is given, and engines lack the operators for
that (OptionalHasElement). So nodes are rewritten where they differ, which costs next to nothing:

- Without a bias beside nodes with one: they get a bias of one zero, [1, 1, 1], which no library reads. Zeros of
  [H, M, N] would make attentions 1.4 to 2.5 times slower on a CPU.
- Heads first beside heads last: q, k, v and the result are transposed, in the graph.

A bias [H, M, N] and one [W, H, M, N] are one form: the function takes both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import KeygraphError

#: [B, H, N, D] and [B, N, H, D] from each other.
_EXCHANGED = (0, 2, 1, 3)


def unify_attentions(graph: ir.Graph) -> None:
    """Bring all KeyGraphAttention nodes into one form, where they differ.

    Parameters
    ----------
    graph
        Changed in place; with all floating-point values in float32.

    Raises
    ------
    KeygraphError
        A node with heads first, beside others with heads last, has a number of heads that is not fixed.
    """
    nodes = [node for node in graph if node.op_type == "KeyGraphAttention"]
    bias, last = any(map(has_bias, nodes)), any(map(has_heads_last, nodes))
    zero: ir.Value | None = None
    for node in nodes:
        wants_bias, wants_last = bias and not has_bias(node), last and not has_heads_last(node)
        if wants_bias and zero is None:
            zero = _constant(graph, "no_bias", np.zeros((1, 1, 1), np.float32))
        if wants_bias or wants_last:
            _rewrite(graph, node, zero if wants_bias else None, wants_last)


def has_bias(node: ir.Node) -> bool:
    """Tell whether a KeyGraphAttention node has the input `bias`."""
    return len(node.inputs) > 4 and node.inputs[4] is not None


def has_heads_last(node: ir.Node) -> bool:
    """Tell whether q, k and v of a KeyGraphAttention node are [B, N, H D]."""
    return "heads" in node.attributes


def _rewrite(graph: ir.Graph, node: ir.Node, bias: ir.Value | None, heads_last: bool) -> None:
    """Replace a node by one with a bias, or with heads last, or both."""
    inputs = list(node.inputs) if bias is None else [*node.inputs[:4], bias]
    attributes = dict(node.attributes)
    build = _Builder(graph, node)
    if not heads_last:
        (result,) = build.add(node, inputs, attributes, node.outputs[0].shape).outputs
    else:
        heads = _heads(node)
        attributes["heads"] = ir.AttrInt64("heads", heads)
        inputs[:3] = [build.heads_last(value) for value in inputs[:3] if value is not None]
        shape = _merged(node.outputs[0].shape)
        (attended,) = build.add(node, inputs, attributes, shape).outputs
        result = build.heads_first(attended, heads, node.outputs[0].shape)
    ir.convenience.replace_nodes_and_values(graph, node, [node], build.nodes, [node.outputs[0]], [result])


def _heads(node: ir.Node) -> int:
    q = node.inputs[0]
    heads = q.shape[1] if q is not None and q.shape is not None else None
    if not isinstance(heads, int):
        raise KeygraphError(
            f"{node.name}: the number of heads is not fixed; call key_graph_attention with heads= everywhere, on "
            "tensors [B, N, H*D]"
        )
    return heads


class _Builder:
    """Nodes in the place of another one, in its module."""

    def __init__(self, graph: ir.Graph, place: ir.Node) -> None:
        self.graph, self.place = graph, place
        self.nodes: list[ir.Node] = []

    def add(
        self,
        like: ir.Node | str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, ir.Attr],
        shape: ir.Shape | None,
    ) -> ir.Node:
        """Add a node of the operator of another one, or of a standard operator."""
        domain, op_type = ("", like) if isinstance(like, str) else (like.domain, like.op_type)
        node = ir.Node(domain, op_type, inputs, list(attributes.values()), num_outputs=1)
        node.metadata_props.update(self.place.metadata_props)
        node.outputs[0].type, node.outputs[0].shape = self.place.outputs[0].type, shape
        node.outputs[0].name = f"{self.place.outputs[0].name}.{op_type}_{len(self.nodes)}"
        self.nodes.append(node)
        return node

    def heads_last(self, value: ir.Value) -> ir.Value:
        """Return [B, H, N, D] as [B, N, H D]."""
        exchanged = self.exchanged(value)
        target = _constant(self.graph, "heads_last", np.array([0, 0, -1]))
        return self.add("Reshape", [exchanged, target], {}, _merged(value.shape)).outputs[0]

    def heads_first(self, value: ir.Value, heads: int, shape: ir.Shape | None) -> ir.Value:
        """Return [B, N, H D] as [B, H, N, D], whose shape is given."""
        target = _constant(self.graph, "heads_first", np.array([0, 0, heads, -1]))
        split = self.add("Reshape", [value, target], {}, _exchanged(shape)).outputs[0]
        return self.exchanged(split)

    def exchanged(self, value: ir.Value) -> ir.Value:
        perm = {"perm": ir.AttrInt64s("perm", _EXCHANGED)}
        return self.add("Transpose", [value], perm, _exchanged(value.shape)).outputs[0]


def _exchanged(shape: ir.Shape | None) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[i] for i in _EXCHANGED])


def _merged(shape: ir.Shape | None) -> ir.Shape | None:
    """Return the shape [B, N, H D] for [B, H, N, D]; without a number for H D where one of them has none."""
    if shape is None:
        return None
    batch, heads, count, channels = shape
    width = heads * channels if isinstance(heads, int) and isinstance(channels, int) else None
    return ir.Shape([batch, count, width])


def _constant(graph: ir.Graph, name: str, numbers: Any) -> ir.Value:
    """Add an initializer under a name that is free; equal ones are merged later."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(numbers, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(numbers.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
