"""The key graphs of an exported file on a photograph, for several numbers of neighbours.

The package onnx is needed to use this module, not to import it.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..manifest import Manifest, Neighbours
from ..runtime.backends.base import resolve_k
from ..runtime.backends.onnx_file import read_onnx_file
from ..runtime.preprocess.padding import round_up
from ..runtime.preprocess.request import TileReader, make_request
from .key_graph_statistics import GraphStatistics, agreement, kept_links, statistics
from .key_graphs import GraphProbe

#: Most pixels along a side that are looked at: more windows hardly change the figures, and all graphs are in memory.
MOST_PIXELS = 512


@dataclass(frozen=True)
class Study:
    """The key graphs of a network on one photograph.

    Attributes
    ----------
    height, width
        The part of the photograph that was looked at, in pixels: its middle.
    k
        The number of neighbours for which `stages` and `agreement` hold.
    stages
        Each stage's graph, in order of execution.
    agreement
        For every pair of stages, the links that both have over those that either has; None between resolutions. A
        stage with shifted windows has other nodes than one without.
    kept
        k -> for each stage, the share of its links that the next larger k has, too. Below 1 where fewer neighbours in
        the stages before changed the features. Without numbers of all nodes.
    """

    height: int
    width: int
    k: int
    stages: tuple[GraphStatistics, ...]
    agreement: tuple[tuple[float | None, ...], ...]
    kept: dict[int, tuple[float, ...]]


def study(path: str | os.PathLike[str], photo: NDArray[Any], k: int | None = None) -> Study:
    """Run an exported file on the middle of a photograph, and look at its key graphs.

    Parameters
    ----------
    path
        The .onnx file.
    photo
        [H, W] or [H, W, C], as `Restorer.restore` takes it.
    k
        Neighbours of each node; None for the model's default.

    Raises
    ------
    InputError
        The file has no key graph, does not take this k, needs more than one image, or the photograph does not fit it.
    """
    manifest = read_onnx_file(Path(path)).manifest
    neighbours = manifest.neighbours
    probe = GraphProbe(path)
    if neighbours is None or not probe.names:
        raise InputError(f"{path} computes no key graph; --key-graphs is for models with top-k attention")
    if manifest.extra_inputs or manifest.views:
        raise InputError(f"{path} needs more than one image; --key-graphs is for models of one")
    if manifest.shape is not None:
        raise InputError(f"{path} takes one size only; --key-graphs is for files that take any")
    chosen = resolve_k(manifest, k) or neighbours.default
    inputs, height, width = _middle(manifest, photo)
    graphs: dict[int, list[NDArray[np.int32]]] = {}
    stages: tuple[GraphStatistics, ...] = ()
    for number in _numbers(neighbours, chosen):
        _, selections = probe.record(inputs, number if neighbours.runtime else None)
        graphs[number] = [selection.graph for selection in selections]
        if number == chosen:
            stages = tuple(map(statistics, selections))
    partial = sorted(k for k in graphs if k < neighbours.maximum)
    return Study(
        height=height,
        width=width,
        k=chosen,
        stages=stages,
        agreement=tuple(tuple(agreement(one, other) for other in graphs[chosen]) for one in graphs[chosen]),
        kept={few: tuple(map(kept_links, graphs[few], graphs[many])) for few, many in itertools.pairwise(partial)},
    )


def _numbers(neighbours: Neighbours, chosen: int) -> list[int]:
    """Return the numbers of neighbours to compare: those of the training, or a quarter and twice the chosen one."""
    if not neighbours.runtime:
        return [neighbours.default]
    trained = neighbours.trained or (max(1, chosen // 4), 2 * chosen)
    return sorted({min(k, neighbours.maximum) for k in (*trained, chosen)})


def _middle(manifest: Manifest, photo: NDArray[Any]) -> tuple[NDArray[np.float32], int, int]:
    """Return the middle of the photograph as the model takes it, float32[1, C, H, W], and its size before padding."""
    parts = []
    for size in photo.shape[:2]:
        kept = min(size, MOST_PIXELS)
        start = (size - kept) // 2
        parts.append(slice(start, start + kept))
    request = make_request(manifest, photo[tuple(parts)])
    height, width = (
        max(round_up(size, manifest.size_multiple), manifest.least_side) for size in (request.height, request.width)
    )
    inputs, *_ = TileReader(request, height, width)(0, 0, height, width)
    return inputs, request.height, request.width
