"""Weights in a traced graph: reading them, and adding changed ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray | None:
    """Return a constant's numbers; None where `value` is no constant, or is not there."""
    if value is None or value.const_value is None:
        return None
    numbers: NDArray = value.const_value.numpy()
    return numbers


def only_user(value: ir.Value | None) -> bool:
    """Tell whether one node alone reads a value."""
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()


def new_constant(graph: ir.Graph, like: ir.Value, numbers: NDArray, suffix: str) -> ir.Value:
    """Add an initializer named after another; equal ones are made one when the graph is tidied."""
    assert like.name is not None
    name = like.name + suffix
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(np.ascontiguousarray(numbers), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(numbers.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
