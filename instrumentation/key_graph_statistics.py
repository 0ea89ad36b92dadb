"""What a key graph looks like: how far its links reach, which blocks of nodes have none, how it agrees with another.

A kernel can skip a block of queries and keys without links. So the share of empty blocks says whether skipping pays,
and the share with the nodes in another order whether sorting them first would make it pay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .key_graphs import Selection

#: Nodes along the side of a block, for queries and keys: that of the CUDA kernels' tiles.
BLOCK = 64

#: Side of the patches that the order "patches" makes of a window: BLOCK nodes each.
_PATCH = 8


@dataclass(frozen=True)
class GraphStatistics:
    """One key graph over all windows of an image.

    Attributes
    ----------
    name
        Name of the module that computes it.
    windows, nodes
        Windows of the image, and nodes in each.
    links
        Neighbours that a node keeps, on average.
    distance
        Mean distance of a node from its neighbours, in pixels at the stage's resolution; itself counts as 0. None where
        the nodes are not those of a square window.
    distance_of_all
        The same for all nodes of the window: what neighbours drawn at random would have.
    distances
        Share of the links whose distance, rounded down, is 0, 1, 2 ... pixels; empty where `distance` is None.
    alike
        Neighbours that two nodes of a window have in common, over those that either has, on average: 1 where all nodes
        have the same neighbours.
    empty_blocks
        Share of the `BLOCK` x `BLOCK` blocks without a link, with the nodes in each of three orders: ``"rows"``, as the
        operator takes them; ``"patches"``, 8 x 8 pixels after each other, where the window allows it; ``"features"``,
        sorted by the first principal component of the window's keys.
    """

    name: str
    windows: int
    nodes: int
    links: float
    distance: float | None
    distance_of_all: float | None
    distances: tuple[float, ...]
    alike: float
    empty_blocks: dict[str, float]


def statistics(selection: Selection) -> GraphStatistics:
    """Measure one key graph.

    Parameters
    ----------
    selection
        The graph with its keys, over any number of windows, of a network in which the nodes attend to each other
        (M = N).

    Returns
    -------
    GraphStatistics
    """
    windows, groups, rows, _ = selection.graph.shape
    nodes = selection.key.shape[2]
    side = math.isqrt(nodes)
    square = side * side == nodes == rows
    orders = _orders(side if square else None)
    apart = pair_distances(side) if square else None
    links, empty = 0, dict.fromkeys(orders, 0)
    histogram = np.zeros(int(apart.max()) + 1) if apart is not None else np.zeros(0)
    total = alike = 0.0
    for window in range(windows):
        for group in range(groups):
            linked = unpacked(selection.graph[window, group], nodes)
            links += int(linked.sum())
            alike += _alike(linked)
            if apart is not None:
                total += float(apart[linked].sum())
                histogram += np.bincount(apart[linked].astype(int), minlength=len(histogram))
            for name, order in orders.items():
                positions = order(selection.key[window, group])
                empty[name] += _empty_blocks(linked, positions if rows == nodes else np.arange(rows), positions)
    blocks = windows * groups * math.ceil(rows / BLOCK) * math.ceil(nodes / BLOCK)
    return GraphStatistics(
        name=selection.name,
        windows=windows,
        nodes=nodes,
        links=links / (windows * groups * rows),
        distance=total / links if apart is not None and links else None,
        distance_of_all=float(apart.mean()) if apart is not None else None,
        distances=tuple((histogram / max(links, 1)).tolist()),
        alike=alike / (windows * groups),
        empty_blocks={name: count / blocks for name, count in empty.items()},
    )


def agreement(one: NDArray[np.int32], other: NDArray[np.int32]) -> float | None:
    """Return the links that two graphs share over the links that either has.

    Parameters
    ----------
    one, other
        int32[B, G, M, ceil(N/32)]

    Returns
    -------
    float or None
        None where the graphs are of different shapes: stages at different resolutions.
    """
    if one.shape != other.shape:
        return None
    either = _count(one | other)
    return _count(one & other) / either if either else 1.0


def kept_links(few: NDArray[np.int32], many: NDArray[np.int32]) -> float:
    """Return the share of the links of `few` that `many` has, too: 1 where a smaller k only leaves out neighbours.

    Parameters
    ----------
    few, many
        int32[B, G, M, ceil(N/32)], of the same stage with fewer and with more neighbours.
    """
    return _count(few & many) / max(_count(few), 1)


def unpacked(graph: NDArray[np.int32], nodes: int) -> NDArray[np.bool_]:
    """Return one window's graph as a matrix.

    Parameters
    ----------
    graph
        int32[M, ceil(N/32)]
    nodes
        N

    Returns
    -------
    bool[M, N]
    """
    words = np.ascontiguousarray(graph.astype("<i4", copy=False)).view(np.uint8)
    return np.unpackbits(words, axis=-1, bitorder="little")[:, :nodes].astype(bool)


def pair_distances(side: int) -> NDArray[np.float64]:
    """Return the distances of all pairs of nodes of a square window, in pixels.

    Parameters
    ----------
    side
        Of the window, in pixels; its nodes are taken row by row.

    Returns
    -------
    float64[side^2, side^2]
    """
    y, x = np.divmod(np.arange(side * side), side)
    apart: NDArray[np.float64] = np.hypot(y[:, None] - y, x[:, None] - x)
    return apart


def _orders(side: int | None) -> dict[str, Callable[[NDArray[Any]], NDArray[np.intp]]]:
    """Return the orders of nodes by name, each as a function of a window's keys, float32[N, C]."""
    orders: dict[str, Callable[[NDArray[Any]], NDArray[np.intp]]] = {"rows": lambda keys: np.arange(len(keys))}
    if side is not None and side % _PATCH == 0 and side > _PATCH:
        number = np.arange(side * side).reshape(side // _PATCH, _PATCH, side // _PATCH, _PATCH)
        patches = number.swapaxes(1, 2).reshape(-1)
        orders["patches"] = lambda _keys: patches
    orders["features"] = _by_principal_component
    return orders


def _by_principal_component(keys: NDArray[Any]) -> NDArray[np.intp]:
    centred = keys - keys.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return np.argsort(centred @ directions[:, -1], kind="stable")


def _alike(linked: NDArray[np.bool_]) -> float:
    """Return the mean, over all pairs of rows, of the links of both over the links of either."""
    values = linked.astype(np.float32)
    both, counts = values @ values.T, values.sum(axis=1)
    either = np.maximum(counts[:, None] + counts - both, 1)
    count = len(linked)
    pairs = max(count * (count - 1), 1)
    return float(((both / either).sum() - (np.diagonal(both) > 0).sum()) / pairs)


def _empty_blocks(linked: NDArray[np.bool_], rows: NDArray[np.intp], columns: NDArray[np.intp]) -> int:
    """Count the blocks without a link, with the nodes in the given order; the last ones may be smaller."""
    height, width = linked.shape
    padded = np.zeros((-(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK), dtype=bool)
    padded[:height, :width] = linked[rows][:, columns]
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).any(axis=(1, 3))
    return int(blocks.size - blocks.sum())


def _count(graph: NDArray[np.int32]) -> int:
    """Count the bits that are set."""
    return int(np.unpackbits(np.ascontiguousarray(graph).view(np.uint8)).sum())
