"""One piece of an image through both sides, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.blocks import BlockDifference, BlockValues, block_difference, distance
from ..sides.base import Graphs, Probe

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Traced:
    """What one piece shows.

    Attributes
    ----------
    blocks
        Those that both sides have, in the order of execution.
    restored
        PSNR in dB of what the two restored, with the same key graphs.
    notices
        What must be said of it.
    """

    blocks: tuple[BlockDifference, ...]
    restored: float
    notices: tuple[str, ...]


def trace(
    candidate: Probe,
    reference: Probe,
    inputs: Sequence[Images],
    ks: tuple[int | None, int | None],
    at_least: float,
) -> Traced:
    """Compare every block of two sides: each from one run, with the candidate's key graphs.

    A third run gives the reference's blocks what the candidate's took in, so that what a block adds by itself is told
    from what came to it. Two more, without blocks, tell whether laying them open changed the results. The candidate's
    blocks are held until the end, the reference's are not: of an exported file, ONNX Runtime gives all at once.

    Parameters
    ----------
    candidate, reference
        Both tell blocks.
    inputs
        float32[B, C, H, W]: the images, and what the networks take beside them.
    ks
        What either side's `run` takes for k.
    at_least
        PSNR in dB below which a block is over tolerance.
    """
    images, *extras = inputs
    ours: dict[str, BlockValues] = {}
    restored, chosen = candidate.trace(images, ks[0], None, lambda block: _keep(ours, block), *extras)
    graphs = [selection.graph for selection in chosen] or None
    found: dict[str, BlockDifference] = {}
    replayed: dict[str, tuple[NDArray[Any], ...]] = {}
    unlike: list[str] = []

    def compare(block: BlockValues) -> None:
        own = ours.get(block.name)
        if own is None or own.output.shape != block.output.shape:
            unlike.append(block.name)
            return
        found[block.name] = block_difference(own, block, at_least)
        if [value.shape for value in own.inputs] == [value.shape for value in block.inputs]:
            replayed[block.name] = own.inputs

    expected, _ = reference.trace(images, ks[1], graphs, compare, *extras)

    def compare_alone(block: BlockValues) -> None:
        if block.name in replayed and block.name in found:
            was = found[block.name]
            alone, _ = distance(ours[block.name].output, block.output, was.reference_largest)
            found[block.name] = replace(was, alone=alone)

    reference.retrace(images, ks[1], graphs, replayed, compare_alone, *extras)
    unlike += [name for name in ours if name not in found and name not in unlike]
    notices = [
        *_moved(candidate, _without_blocks(candidate, inputs, ks[0], graphs), restored),
        *_moved(reference, _without_blocks(reference, inputs, ks[1], graphs), expected),
    ]
    if unlike:
        more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        notices.append(f"not compared, since only one side has them or in another shape: {', '.join(unlike[:3])}{more}")
    peak = candidate.manifest.value_range[1] - candidate.manifest.value_range[0]
    return Traced(tuple(found.values()), distance(restored, expected, peak)[0], tuple(notices))


def _keep(blocks: dict[str, BlockValues], block: BlockValues) -> None:
    blocks[block.name] = block


def _without_blocks(probe: Probe, inputs: Sequence[Images], k: int | None, graphs: Graphs | None) -> Images:
    """What a side restores with these key graphs when no block is laid open."""
    images, *extras = inputs
    return probe.run(images, k, *extras) if graphs is None else probe.force(images, k, graphs, *extras)[0]


def _moved(probe: Probe, without: Images, with_blocks: Images) -> list[str]:
    """Say it of a side whose result is another one when its blocks are laid open."""
    if np.array_equal(without, with_blocks, equal_nan=True):
        return []
    low, high = probe.manifest.value_range
    decibels, most = distance(with_blocks, without, high - low)
    by = f"by {most:.1e} at most, {decibels:.1f} dB" if np.isfinite(most) else "in what is NaN or infinite"
    return [f"{probe.name}: laying its blocks open moved its result, {by}"]
