"""Read the weights in a traced graph, and add changed copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array of a constant; None when `value` is not constant or None."""
    if value is None or value.const_value is None:
        return None
    numbers: NDArray[Any] = value.const_value.numpy()
    return numbers


def only_user(value: ir.Value | None) -> bool:
    """Tell whether exactly one node reads a value."""
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()


def new_constant(graph: ir.Graph, like: ir.Value, numbers: NDArray[Any], suffix: str) -> ir.Value:
    """Add an initializer that is named after another one.

    Parameters
    ----------
    graph
        Gets the initializer. `canonicalize` merges equal ones later.
    like
        The initializer to be named after.
    numbers
        The values.
    suffix
        Appended to the name of `like`; an underscore follows where that name is taken.

    Returns
    -------
    ir.Value
    """
    assert like.name is not None
    name = like.name + suffix
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(np.ascontiguousarray(numbers), name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(numbers.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
