"""How often a KeyGraph kernel reads a block of similarities in its search, counted in Triton's interpreter.

The kernels' functions call each other by their names in the module, so that counting wrappers can stand in for them:
what is counted is the kernel that GPUs run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from keygraph.plugins.triton import key_graph
from operator_hosts import Triton


def steps(variant: Any, query: np.ndarray, key: np.ndarray, k: int, module: ModuleType | None = None) -> list[int]:
    """Return the steps of every program, in the order of the grid.

    Parameters
    ----------
    variant
        The variant to run.
    query, key
        [B, G, M, C] and [B, G, N, C].
    k
        How many nodes a row keeps.
    module
        Another version of plugins/triton/key_graph.py, whose kernel is run with the variant's constants.

    Returns
    -------
    list of int
        Reads of all similarities of the block between the first, which makes them, and the last, which makes the bits.
    """
    name = variant.kernel.__name__
    module = module or key_graph
    variant = dataclasses.replace(variant, kernel=getattr(module, name))
    with _counting(module) as counts:
        Triton(variant).key_graph(query, key, k)
    pivots = 3 if name == "key_graph_streamed" else 1
    return [count // pivots for count in counts]


@contextmanager
def _counting(module: ModuleType) -> Iterator[list[int]]:
    counts: list[int] = []

    def starts_program(function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        counts.append(0)
        return function(*arguments, **more)

    def reads_once(function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        counts[-1] += 1
        return function(*arguments, **more)

    wrappers = {"rows_of_program": starts_program, "narrow": reads_once, "next_value": reads_once}
    originals = {name: getattr(module, name) for name in wrappers if hasattr(module, name)}
    try:
        for name, original in originals.items():
            setattr(module, name, _bound(wrappers[name], original))
        yield counts
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


def _bound(wrapper: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **more: wrapper(function, *arguments, **more)
