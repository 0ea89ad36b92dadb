"""Add operators to an FX graph with the shapes, types and module names that `torch.export` gives its nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

#: What ONNX nodes are named after.
_INHERITED = ("nn_module_stack", "stack_trace", "torch_fn")


class GraphBuilder:
    """Inserts operators into a graph, before a node and with its module's name.

    Parameters
    ----------
    graph
        Changed in place.
    before
        The node before which everything is inserted.
    like
        The node whose module's name the operators get; `before` by default.
    """

    def __init__(self, graph: Graph, before: Node, like: Node | None = None) -> None:
        self._graph = graph
        self._before = before
        self._like = like or before
        value = self._like.meta["val"]
        value = value if isinstance(value, Tensor) else value[0]
        assert isinstance(value, FakeTensor)
        self._mode = value.fake_mode

    def __call__(self, target: Callable[..., Any], *args: Any, **named: Any) -> Node:
        """Insert an operator and return its node; `named` are no tensors."""
        with self._graph.inserting_before(self._before):
            node = self._graph.call_function(target, args, named)
        values = map_arg(args, lambda each: each.meta["val"])
        with self._mode, torch.no_grad():
            node.meta["val"] = target(*values, **named)
        node.meta.update({key: self._like.meta[key] for key in _INHERITED if key in self._like.meta})
        return node

    def sizes(self, node: Node) -> list[Any]:
        """Return a tensor's sizes as arguments: ints, and nodes where they depend on the image."""
        return [self.size(node, dim) for dim in range(node.meta["val"].dim())]

    def size(self, node: Node, dim: int) -> Any:
        """Return one of a tensor's sizes as an argument."""
        size = node.meta["val"].shape[dim]
        return size if isinstance(size, int) else self(torch.ops.aten.sym_size.int, node, dim)
