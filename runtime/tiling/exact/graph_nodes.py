"""Helpers for nodes of ONNX graphs. The package onnx is needed to use this module, not to import it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import NodeProto


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute.

    Parameters
    ----------
    node
        The node.
    name
        Name of the attribute.
    default
        Value where the node does not have it.
    """
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def ancestors(nodes: Sequence[NodeProto], outputs: Iterable[str], last: Collection[str] = ()) -> list[NodeProto]:
    """Return the nodes that some outputs depend on, in their order.

    Parameters
    ----------
    nodes
        Nodes in topological order.
    outputs
        Names of values.
    last
        Operators at which the search stops: their own inputs are not followed.
    """
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            found.append(node)
            if node.op_type not in last:
                wanted.update(name for name in node.input if name)
    return found[::-1]
