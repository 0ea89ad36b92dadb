"""How much memory a run over a whole image takes, from the sizes of what is alive at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .facts import Facts

if TYPE_CHECKING:
    from onnx import NodeProto

#: What gives the same memory another shape.
_VIEWS = frozenset(("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))


def peak_bytes_per_pixel(facts: Facts, nodes: Sequence[NodeProto], inputs: Sequence[str]) -> float:
    """Estimate the peak of a run's memory that grows with the image.

    Nodes are taken to run in the file's order, each with memory of its own for what it gives, and memory to be free
    again as soon as nothing will read it.

    Parameters
    ----------
    facts, nodes
        The network.
    inputs
        Names of the images.

    Returns
    -------
    Bytes per pixel of the image.
    """
    owner: dict[str, str] = {}
    for node in nodes:
        for index, name in enumerate(node.output):
            same = node.op_type in _VIEWS and index == 0
            owner[name] = owner.get(node.input[0], node.input[0]) if same else name
    last = {}
    for position, node in enumerate(nodes):
        for name in (*node.input, *node.output):
            last[owner.get(name, name)] = position
    moving = {name for name, dims in facts.dims.items() if any(first != second for first, second in dims)}
    pixels = [h * w for h, w in zip(facts.probes.heights, facts.probes.widths, strict=True)]
    peaks = [0, 0]
    alive = [0, 0]
    held: set[str] = set()

    def size(name: str, probe: int) -> int:
        from onnx import helper

        itemsize = np.dtype(helper.tensor_dtype_to_np_dtype(facts.types[name])).itemsize
        return math.prod(extent[probe] for extent in facts.dims[name]) * itemsize

    for position, node in enumerate(nodes):
        names = (*inputs, *node.output) if position == 0 else node.output
        for name in {owner.get(name, name) for name in names if name} - held:
            if name in moving:
                held.add(name)
                alive = [alive[probe] + size(name, probe) for probe in (0, 1)]
        peaks = [max(peaks[probe], alive[probe]) for probe in (0, 1)]
        for name in [name for name in held if last.get(name, -1) <= position]:
            held.discard(name)
            alive = [alive[probe] - size(name, probe) for probe in (0, 1)]
    return (peaks[1] - peaks[0]) / (pixels[1] - pixels[0])
