"""Evaluation of one image: metrics of every candidate, error patterns, and block differences."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..instrumentation.metrics import psnr
from ..manifest import IMAGE_INPUT
from ..runtime.tiling.blend import Plan
from .execution import run_as_users_do, run_with_same_graphs
from .inputs import Input
from .localize.blockwise import BlockTrace, compare_blocks
from .localize.error_patterns import Cause, diagnose
from .localize.tile_regions import tile_regions
from .metrics.image import difference, median_tile_error
from .metrics.rounding import median_error
from .metrics.selection import StageAgreement
from .pass_criteria import FACTOR, judge, judge_blocks, limit_of, rounding_note
from .piecewise import TRACED, distances, plan_of_pieces, worst_piece
from .results import BlockRounding, CleanPsnr, ComparedImage, InputResult
from .rounding.expected import PieceRounding, arithmetic_of
from .rounding.network import NotMeasuredError
from .setup import Setup
from .sides.base import Probe

Image = NDArray[np.float32]

#: Top, left, height and width of a piece.
Place = tuple[int, int, int, int]

#: Candidate's and reference's output.
Pair = tuple[Image, Image]


@dataclass(frozen=True)
class CandidateEvaluation:
    """Evaluation of one candidate on one image.

    Attributes
    ----------
    result
        The metrics.
    notices
        Lines for the reader.
    trace
        Block differences; None unless requested.
    """

    result: InputResult
    notices: tuple[str, ...]
    trace: BlockTrace | None


def evaluate_image(
    setup: Setup, given: Input, step: Callable[[], None]
) -> tuple[list[CandidateEvaluation], ComparedImage]:
    """Run all sides on one image and evaluate every candidate.

    Parameters
    ----------
    setup
        The sides and how they are run.
    given
        The image.
    step
        Called after each step of the progress bar.

    Returns
    -------
    evaluations, image
        One evaluation for each candidate; and the image with all outputs.
    """
    reference, *candidates = run_as_users_do(setup, given, step)
    pieces: dict[Place, PieceRounding] = {}
    evaluations = []
    for probe, output in zip(setup.candidates, candidates, strict=True):
        notices = [*reference.notices, *output.notices]
        as_run, same_graphs = (output.image, reference.image), None
        stages: tuple[StageAgreement, ...] = ()
        if setup.forces_graphs(probe):
            same_graphs, stages = run_with_same_graphs(setup, probe, given, step)
            if setup.tile is None and not np.array_equal(output.image, same_graphs[0], equal_nan=True):
                notices.append(f"{given.name}: recording the candidate's key graphs changed its output slightly")
        trace = None
        if setup.blocks:
            trace = _compare_blocks(setup, probe, given, same_graphs or as_run)
            notices += trace.notices
            step()
        result = _measure(setup, given, as_run, same_graphs, stages)
        other_tiles = same_graphs is None and output.plan != reference.plan
        result, lines = _with_rounding(setup, probe, given, result, same_graphs or as_run, trace, pieces, other_tiles)
        notices += lines
        result = _with_tile_metrics(
            setup, probe, given, result, as_run, same_graphs, reference.plan, output.plan == reference.plan
        )
        if trace is not None:
            trace = dataclasses.replace(trace, suspect=None)  # Its values are not needed any more.
        evaluations.append(CandidateEvaluation(result, tuple(notices), trace))
    extras = {name: values for name, values in given.arrays.items() if name != IMAGE_INPUT}
    outputs = tuple(output.image for output in candidates)
    image = ComparedImage(
        given.name, given.arrays[IMAGE_INPUT], reference.image, outputs, given.clean, reference.plan, extras
    )
    return evaluations, image


def _measure(
    setup: Setup, given: Input, as_run: Pair, same_graphs: Pair | None, stages: tuple[StageAgreement, ...]
) -> InputResult:
    """Compute the metrics of whole images."""
    manifest, dtype = setup.needs.manifest, given.request.dtype
    return InputResult(
        name=given.name,
        height=given.request.height,
        width=given.request.width,
        as_run=difference(*as_run, manifest, dtype),
        same_graphs=None if same_graphs is None else difference(*same_graphs, manifest, dtype),
        stages=stages,
        clean=None if given.clean is None else _clean_psnr(as_run, given.clean, manifest.value_range),
    )


def _with_rounding(
    setup: Setup,
    candidate: Probe,
    given: Input,
    result: InputResult,
    outputs: Pair,
    trace: BlockTrace | None,
    pieces: dict[Place, PieceRounding],
    other_tiles: bool,
) -> tuple[InputResult, list[str]]:
    """Add what rounding explains of the error, measured on the piece where the outputs differ most.

    Parameters
    ----------
    setup, candidate, given
        As for `evaluate_image`.
    result
        Of the image.
    outputs
        Those that are judged.
    trace
        The blocks; None unless requested.
    pieces
        Pieces of this image that were measured before, by their place; gains those that are measured now.
    other_tiles
        Whether the sides cut the image into different tiles, so that the effect of tiles is a part of the difference.

    Returns
    -------
    result, notices
        And lines for the reader.
    """
    if trace is not None:
        faulty = [block for block in trace.blocks if block.over_tolerance and block.rounding is not None]
        inner = [block for block in faulty if not any(one.name.startswith(f"{block.name}.") for one in faulty)]
        blocks = tuple(BlockRounding(block.name, block.rounding) for block in inner if block.rounding is not None)
        if blocks and trace.suspect is not None:
            first = blocks[0]
            suspect = trace.suspect(first.name, FACTOR * first.error.expected)
            blocks = (dataclasses.replace(first, suspect=suspect), *blocks[1:])
        result = dataclasses.replace(result, beyond_rounding=() if setup.at_least is not None else blocks)
    if setup.network is None:
        return result, [f"rounding could not be measured, and a fixed limit decides: {setup.not_measured}"]
    selects = setup.k is not None or not setup.network.described
    own_graphs = selects and not setup.forces_graphs(candidate)
    low, high = setup.needs.manifest.value_range
    found = (high - low) * 10 ** (-result.judged.psnr / 20)
    inputs, place = worst_piece(given, setup.needs, distances(*outputs), TRACED)
    if place not in pieces:
        pieces[place] = setup.piece(inputs)
    piece = pieces[place]
    try:
        arithmetics = arithmetic_of(candidate), arithmetic_of(setup.reference)
        # With key graphs, the median error of every tile is judged instead.
        median = math.nan if setup.k is not None else median_error(*outputs)
        error = piece.explained(found, *arithmetics, own_graphs, peak=high - low, median=median)
    except NotMeasuredError as failure:
        return result, [f"rounding could not be measured, and a fixed limit decides: {failure}"]
    lines = []
    if other_tiles:
        tilings = [probe.manifest.tiling for probe in (candidate, setup.reference)]
        known = [one.psnr for one in tilings if one is not None]
        error = error.with_others("tiling", [(high - low) * 10 ** (-psnr / 20) for psnr in known])
        if len(known) < len(tilings):
            lines.append("the effect of tiles is not known of every side: export calibrates the overlap")
    result = dataclasses.replace(result, rounding=error)
    note = rounding_note(result, setup.threshold(candidate), setup.at_least)
    return result, lines if note is None else [*lines, note]


def _clean_psnr(outputs: Pair, clean: Image, value_range: tuple[float, float]) -> CleanPsnr:
    target = np.clip(clean, *value_range)
    return CleanPsnr(*(psnr(np.clip(image, *value_range), target, value_range) for image in outputs))


def _with_tile_metrics(
    setup: Setup,
    candidate: Probe,
    given: Input,
    result: InputResult,
    as_run: Pair,
    same_graphs: Pair | None,
    plan: Plan | None,
    same_tiles: bool,
) -> InputResult:
    """Add the median tile error and, where the image fails, the causes.

    Error patterns are searched in the outputs with the same key graphs first, where near ties have no part. The outputs
    as run are left out where they must differ: with other tiles, or with other neighbours.
    """
    manifest = setup.needs.manifest
    cut, unit = (plan_of_pieces(given, setup.needs), "piece") if plan is None else (plan, "tile")
    pairs = [as_run] if same_graphs is None else [same_graphs, as_run] if same_tiles else [same_graphs]
    if setup.k is not None and same_tiles:
        regions = [tile.dominant for tile in tile_regions(cut, manifest.scale, as_run[1].shape[:2])]
        result = dataclasses.replace(result, typical=median_tile_error(*as_run, manifest.value_range, regions))
    if judge([result], result.stages, setup.precisions(candidate), setup.at_least).good:
        return result
    if any(stage.beyond_tolerance for stage in result.stages):
        pairs = pairs[:1]
    limit = limit_of(result, setup.threshold(candidate), setup.at_least)
    return dataclasses.replace(result, causes=_causes(setup, limit, pairs, cut, unit))


def _causes(setup: Setup, threshold: float, pairs: Sequence[Pair], cut: Plan, unit: str) -> tuple[Cause, ...]:
    """Diagnose the first pair of outputs in which an error pattern is found."""
    manifest = setup.needs.manifest
    for pair in pairs:
        causes = diagnose(*pair, manifest.value_range, cut, manifest.scale, threshold=threshold, unit=unit)
        if causes:
            return causes
    return ()


def _compare_blocks(setup: Setup, candidate: Probe, given: Input, outputs: Pair) -> BlockTrace:
    """Compare blocks on the piece of the image where the outputs differ most."""
    inputs, (top, left, height, width) = worst_piece(given, setup.needs, distances(*outputs), TRACED)
    ks = setup.k_of(candidate), setup.k_of(setup.reference)
    network = setup.network
    try:
        found = compare_blocks(candidate, setup.reference, inputs, ks, setup.threshold(candidate), network)
    except NotMeasuredError:  # `_with_rounding` says why.
        found = compare_blocks(candidate, setup.reference, inputs, ks, setup.threshold(candidate))
    lines = tuple(f"{given.name}: {line}" for line in found.notices)
    found = dataclasses.replace(found, blocks=judge_blocks(found.blocks, setup.at_least), notices=lines)
    if (height, width) == (given.request.height, given.request.width):
        return found
    where = f"{given.name}: blocks on the {width}x{height} pixels at {left},{top}, where the results differ the most"
    return dataclasses.replace(found, notices=(where, *found.notices))
