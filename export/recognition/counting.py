"""Idioms of indexing with a listing: positions counted by arange, and one-hot vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from .nodes import argument, arguments, equal, is_tensor, known_value, operator_name, positional, rank, sizes, strip
from .selections import Listing, listing


def counted_index(indices: list[Any], source: Node, trailing: int) -> Listing | None:
    """Read the indices of ``x[a, b, ..., i]`` where each of a, b, ... counts its own dimension of x.

    Parameters
    ----------
    indices
        Of an `index` or `index_put`.
    source
        The tensor that is indexed.
    trailing
        How many dimensions of the source, at its end, the indices leave out.

    Returns
    -------
    Listing or None
        The listing `i`.
    """
    if len(indices) != rank(source) - trailing or not all(is_tensor(index) for index in indices):
        return None
    *counted, last = indices
    found = listing(last)
    # With a dimension left out (the channels of nodes), i is [..., M, k], with one more dimension than x has counted.
    count = len(indices) + trailing
    if found is None or rank(last) > count:
        return None
    right = all(is_count(index, place, count, sizes(source)[place]) for place, index in enumerate(counted))
    return found if right else None


def is_count(node: Node, place: int, count: int, extent: Any) -> bool:
    """Tell whether a tensor, broadcast to `count` dimensions, holds 0 to `extent` - 1 along dimension `place`.

    Parameters
    ----------
    node
        The tensor.
    place, count
        The dimension, and how many there are.
    extent
        The dimension's size.
    """
    node = strip(node)
    dim = rank(node) + place - count
    if dim < 0 or not all(equal(size, extent if i == dim else 1) for i, size in enumerate(sizes(node))):
        return False
    while operator_name(node) in ("unsqueeze", "view", "reshape", "unsafe_view", "slice"):
        source = strip(argument(node, 0))
        if operator_name(node) == "slice" and source is argument(node, 0):
            return False
        node = source
    value = known_value(node)
    if value is not None:
        return bool((value.flatten() == torch.arange(value.numel())).all())
    if operator_name(node) != "arange" or rank(node) != 1:
        return False
    given = arguments(node)
    return (given.get("start", 0), given.get("step", 1)) == (0, 1)


def one_hot_listing(node: Node) -> Listing | None:
    """Read one-hot vectors [..., M, k, N] of a listing, by `one_hot` or a comparison with 0, 1, ..., N - 1."""
    while operator_name(node) in ("to", "to_copy", "clone"):
        node = argument(node, 0)
    if operator_name(node) == "one_hot":
        return listing(argument(node, 0))
    if operator_name(node) == "eq" and is_tensor(argument(node, 1)):
        for index, counted in (positional(node), positional(node)[::-1]):
            if operator_name(index) == "unsqueeze" and is_count(counted, rank(node) - 1, rank(node), sizes(node)[-1]):
                return listing(index, 1)
    return None
