"""Comparison of both sides block by block, on one piece of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.blocks import BlockDifference, BlockValues, block_difference, distance
from ..rounding.expected import block_arithmetic, measure_blocks
from ..rounding.network import Network
from ..rounding.suspects import find_suspect
from ..sides.base import Graphs, Probe

Images = NDArray[np.float32]


@dataclass(frozen=True)
class BlockTrace:
    """Block differences on one piece of an image.

    Attributes
    ----------
    blocks
        The blocks that both sides have, in the order of execution.
    restored
        PSNR in dB between the two outputs, with the same key graphs.
    notices
        Further lines for the reader.
    suspect
        Names the fault in a block, given its name and the RMS error that is explained (`suspects.find_suspect`). It
        holds all blocks of the candidate. None where rounding was not measured.
    """

    blocks: tuple[BlockDifference, ...]
    restored: float
    notices: tuple[str, ...]
    suspect: Callable[[str, float], str | None] | None = None


def compare_blocks(
    candidate: Probe,
    reference: Probe,
    inputs: Sequence[Images],
    ks: tuple[int | None, int | None],
    at_least: float,
    network: Network | None = None,
) -> BlockTrace:
    """Compare every block of two sides, with the candidate's key graphs on both.

    Each side is traced once. A third run gives the reference's blocks the inputs of the candidate's, which separates
    the error of a block itself from the error that it inherits. Two more runs, without tracing, check that tracing did
    not change the outputs. Memory holds all blocks of the candidate, but of the reference one at a time (all where it
    is an exported file, since ONNX Runtime returns them together). With a `network`, two more runs on the candidate's
    inputs measure rounding, and memory holds as much again once or twice.

    Parameters
    ----------
    candidate, reference
        Probes with `tells_blocks`.
    inputs
        float32[B, C, H, W]: the images and the networks' extra inputs.
    ks
        The k for each side's `run`.
    at_least
        PSNR in dB below which a block is over tolerance.
    network
        The reference's, to measure what rounding explains of each block's error; None to leave that out.
    """
    images, *extras = inputs
    ours: dict[str, BlockValues] = {}
    restored, selections = candidate.trace(images, ks[0], None, lambda block: _keep(ours, block), *extras)
    told = candidate.tells_graphs and reference.tells_graphs
    graphs = [selection.graph for selection in selections if told] or None
    found: dict[str, BlockDifference] = {}
    replayed: dict[str, tuple[NDArray[Any], ...]] = {}
    unmatched: list[str] = []

    def compare(block: BlockValues) -> None:
        own = ours.get(block.name)
        if own is None or own.output.shape != block.output.shape:
            unmatched.append(block.name)
            return
        found[block.name] = block_difference(own, block, at_least)
        if own.inputs and [value.shape for value in own.inputs] == [value.shape for value in block.inputs]:
            replayed[block.name] = own.inputs

    expected, _ = reference.trace(images, ks[1], graphs, compare, *extras)

    def compare_alone(block: BlockValues) -> None:
        if block.name in replayed and block.name in found:
            as_run = found[block.name]
            alone, _ = distance(ours[block.name].output, block.output, as_run.reference_largest)
            found[block.name] = replace(as_run, alone=alone)
            if same_precision and shared:
                plain[block.name] = block.output

    own = block_arithmetic(candidate, reference)
    same_precision = network is not None and own.precision == reference.manifest.precision == "fp32"
    # Of a side that selects for itself, what it selected is not known.
    shared = graphs is not None or (network is not None and network.described)
    plain: dict[str, NDArray[Any]] = {}
    reference.retrace(images, ks[1], graphs, replayed, compare_alone, *extras)
    if network is not None:
        errors = measure_blocks(network, own, inputs, ks[1], graphs, ours, replayed, plain)
        found = {name: replace(block, rounding=errors.get(name)) for name, block in found.items()}
    unmatched += [name for name in ours if name not in found and name not in unmatched]
    notices = [
        *_tracing_notices(candidate, _run_untraced(candidate, inputs, ks[0], graphs), restored),
        *_tracing_notices(reference, _run_untraced(reference, inputs, ks[1], graphs), expected),
    ]
    if unmatched:
        more = f" and {len(unmatched) - 3} more" if len(unmatched) > 3 else ""
        notices.append(
            "blocks that are not compared, since only one side has them or their shapes differ: "
            f"{', '.join(unmatched[:3])}{more}"
        )
    peak = candidate.manifest.value_range[1] - candidate.manifest.value_range[0]

    def suspect(name: str, explained: float) -> str | None:
        assert network is not None
        return find_suspect(network, ours[name], inputs, ks[1], graphs, explained)

    return BlockTrace(
        tuple(found.values()),
        distance(restored, expected, peak)[0],
        tuple(notices),
        None if network is None else suspect,
    )


def _keep(blocks: dict[str, BlockValues], block: BlockValues) -> None:
    blocks[block.name] = block


def _run_untraced(probe: Probe, inputs: Sequence[Images], k: int | None, graphs: Graphs | None) -> Images:
    """Restore with these key graphs, without tracing blocks."""
    images, *extras = inputs
    return probe.run(images, k, *extras) if graphs is None else probe.force(images, k, graphs, *extras)[0]


def _tracing_notices(probe: Probe, untraced: Images, traced: Images) -> list[str]:
    """Report a side whose output changes when its blocks are traced."""
    if np.array_equal(untraced, traced, equal_nan=True):
        return []
    low, high = probe.manifest.value_range
    decibels, most = distance(traced, untraced, high - low)
    change = f"max abs {most:.1e}, {decibels:.1f} dB" if np.isfinite(most) else "in values that are NaN or infinite"
    return [f"{probe.name}: tracing its blocks changed its output ({change})"]
