"""Comparison of candidates with a reference on images."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import operator
import os
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from torch import nn

from ..errors import InputError, MissingDependencyError
from ..installation import install_line
from ..integrity import NO_DIGEST
from ..models.architecture import CUSTOM
from ..runtime.notices import warn
from .compatibility import check_comparable, common_k
from .disk_arrays import on_disk
from .evaluation import CandidateEvaluation, evaluate_image
from .inputs import FileOrArray, InputLike, demands, read_inputs
from .localize.first_divergence import find_first_divergence
from .metrics.blocks import merged
from .pass_criteria import by_rounding, judge, limit_of, tolerance
from .results import ComparedImage, Comparison, Run, Side, versions
from .setup import Setup
from .sides.base import Probe
from .sides.module_probe import ModuleProbe
from .sides.opening import open_probe
from .sides.spec import ModelSpec, parse_spec

Model = str | os.PathLike[str] | ModelSpec | Probe | nn.Module


def compare(
    candidates: Model | Sequence[Model],
    reference: Model,
    inputs: Sequence[InputLike] = (),
    *,
    clean: Sequence[FileOrArray] = (),
    k: int | None = None,
    tile: int | str | None = None,
    at_least: float | None = None,
    blocks: bool = False,
    keep_images: bool = False,
    command: str | None = None,
    notice: Callable[[str], None] = warn,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Compare forms of one network with a reference.

    The images are compared as all sides produce them and, for networks with key graphs, once more with each candidate's
    graphs forced on the reference. Two correct implementations select different neighbours where similarities nearly
    tie; that must neither hide an error nor look like one.

    Parameters
    ----------
    candidates
        One or several: checkpoints, exported ONNX files, engines or networks of Python files, as
        `sides.spec.parse_spec` reads them (``"kgt.ckpt@fp16"``); modules, beside a file that was exported from one; or
        probes from `open_probe`.
    reference
        Likewise, one.
    inputs
        Image files or arrays, as `Restorer.restore` takes them; empty: a generated picture. For models with extra
        inputs, mappings of ``"image"`` and the names of the others: ``{"image": "a.png", "mask": mask}``.
    clean
        The clean images, files or arrays, one for each input; empty where they are unknown.
    k
        Neighbours of each node; None for the k that a side fixes, else the reference's default.
    tile
        None: large images are run in pieces, the same for all sides. Else as `Restorer.restore` takes it: all sides run
        the tiled pipeline as users do, which also clips outputs to the manifest's `clamp`.
    at_least
        Lowest PSNR in dB that passes; None for that of the precisions' tolerance.
    blocks
        Also compare the outputs of every block, on the piece of each image where the results differ most (128 pixels a
        side, rounded up to the size multiple), and locate the first divergence.
    keep_images
        Keep the images and all outputs in `Run.images`, on disk.
    command
        Command line that repeats the run, for the report.
    notice
        Called with lines for the user while files are opened.
    progress
        Called with (steps done, total steps).

    Raises
    ------
    InputError
        A file, an image or k cannot be used, two models are not forms of one network, or blocks are requested of a
        model that does not expose them.
    MissingDependencyError
        scikit-image is not installed.
    """
    _require_scikit_image()
    models = [candidates] if _is_model(candidates) else list(candidates)  # type: ignore[arg-type]
    if not models:
        raise InputError("there is no candidate to compare; give at least one")
    opened = _open_all([*models, reference], notice)
    setup = _set_up(opened[:-1], opened[-1], k, tile, at_least, blocks)
    setup = dataclasses.replace(setup, from_file=opened[-1] is not reference)
    images = read_inputs(inputs, setup.needs, clean)
    total, steps = sum(setup.steps(image) for image in images), itertools.count(1)

    def step() -> None:
        if progress is not None:
            progress(next(steps), total)

    evaluations: list[list[CandidateEvaluation]] = []
    kept: list[ComparedImage] = []
    for given in images:
        of_candidates, image = evaluate_image(setup, given, step)
        evaluations.append(of_candidates)
        if keep_images:
            outputs = tuple(on_disk(output) for output in image.candidates)
            kept.append(dataclasses.replace(image, reference=on_disk(image.reference), candidates=outputs))
    return Run(
        comparisons=tuple(
            _conclude(setup, candidate, [of_candidates[index] for of_candidates in evaluations])
            for index, candidate in enumerate(setup.candidates)
        ),
        images=tuple(kept),
        command=command,
        versions=versions(),
        settings={"k": k, "tile": tile, "at_least": at_least, "blocks": blocks},
    )


def _require_scikit_image() -> None:
    if importlib.util.find_spec("skimage") is None:
        raise MissingDependencyError(
            f"comparisons need the package scikit-image; install it with: {install_line('parity')}"
        )


def _is_model(value: Any) -> bool:
    """Return whether this is one model, not a sequence of them."""
    return isinstance(value, (str, os.PathLike, ModelSpec, nn.Module)) or hasattr(value, "manifest")


def _open_all(models: Sequence[Model], notice: Callable[[str], None]) -> list[Probe]:
    """Open all sides. Of a module of the user's code, the first other side says what it takes."""
    specs = [parse_spec(one) if isinstance(one, (str, os.PathLike)) else one for one in models]
    opened: dict[int, Probe] = {}
    for index, one in enumerate(specs):
        if isinstance(one, ModelSpec) and one.entry_point is None:
            opened[index] = open_probe(one, notice=notice)
        elif not isinstance(one, (ModelSpec, nn.Module)):
            opened[index] = one
    like = next(iter(opened.values())).manifest if opened else None
    for index, one in enumerate(specs):
        if isinstance(one, nn.Module):
            opened[index] = ModuleProbe(one, like, type(one).__name__)
        elif isinstance(one, ModelSpec) and index not in opened:
            opened[index] = open_probe(one, notice=notice, like=like)
    return [opened[index] for index in range(len(specs))]


def _set_up(
    candidates: Sequence[Probe],
    reference: Probe,
    k: int | None,
    tile: int | str | None,
    at_least: float | None,
    blocks: bool,
) -> Setup:
    """Check that the sides can be compared, before any work."""
    sides = (*candidates, reference)
    for candidate in candidates:
        check_comparable(candidate, reference)
        tolerance((candidate.manifest.precision, reference.manifest.precision))
    fused = next((probe for probe in sides if blocks and not probe.tells_blocks), None)
    if fused is not None:
        raise InputError(
            f"{fused.name} exposes no block outputs, since TensorRT fuses across them; leave blocks out, or compare "
            "those of the ONNX file that it was built from, without TensorRT"
        )
    number = common_k([(probe.name, probe.manifest) for probe in sides], k)
    needs = demands(*(probe.manifest for probe in sides))
    return Setup(tuple(candidates), reference, number, needs, tile, at_least, blocks)


def _conclude(setup: Setup, candidate: Probe, evaluations: Sequence[CandidateEvaluation]) -> Comparison:
    """Combine the evaluations of all images of one candidate, and judge them."""
    reference, threshold = setup.reference, setup.threshold(candidate)
    results = [evaluation.result for evaluation in evaluations]
    stages = tuple(reduce(operator.add, stage) for stage in zip(*(result.stages for result in results), strict=True))
    notices = [line for evaluation in evaluations for line in evaluation.notices]
    notices += _file_notices(candidate, reference)
    same_weights = candidate.manifest.weights_sha256 == reference.manifest.weights_sha256
    if not same_weights:
        notices.append("the two were made from different weights (SHA-256 in their manifests)")
    for probe in (candidate, reference):
        same_weights &= probe.integrity is None or "weights" not in probe.integrity.changed
    if setup.k is not None and not setup.forces_graphs(candidate):
        fused = next(probe for probe in (candidate, reference) if not probe.tells_graphs)
        measured = any(by_rounding(result, setup.at_least) for result in results)
        ties = "with what near ties explain" if measured else "and near ties count as errors"
        notices.append(f"{fused.name} exposes no key graphs: it is judged as run, {ties}")
    verdict = judge(results, stages, setup.precisions(candidate), setup.at_least)
    traces = [evaluation.trace for evaluation in evaluations if evaluation.trace is not None]
    blocks = merged([trace.blocks for trace in traces])
    divergence = None
    if blocks:
        # np.min, since one NaN makes the minimum NaN.
        restored = float(np.min([trace.restored for trace in traces]))
        limits = [limit_of(result, threshold, setup.at_least) for result in results]
        measured = any(by_rounding(result, setup.at_least) for result in results)
        described = candidate.manifest.architecture != CUSTOM
        divergence = find_first_divergence(blocks, restored, min(limits), measured, described)
        if not verdict.good:
            verdict = dataclasses.replace(verdict, reasons=(*verdict.reasons, divergence.words))
        elif divergence.kind == "hint":
            notices.append(f"every block passes the rule, but a block stands out: {divergence.words}")
        elif divergence.kind != "nowhere":
            notices.append(f"the images agree, but not every block: {divergence.words}")
    elif setup.blocks:
        notices.append("no block could be compared: the sides have none of the same name and shape")
    return Comparison(
        candidate=_side(candidate),
        reference=_side(reference),
        k=setup.k,
        same_weights=same_weights,
        inputs=tuple(results),
        stages=stages,
        verdict=verdict,
        notices=tuple(dict.fromkeys(notices)),
        threshold=threshold,
        blocks=blocks,
        first_divergence=divergence,
    )


def _side(probe: Probe) -> Side:
    return Side(probe.name, probe.description, probe.manifest, probe.integrity, probe.digests)


def _file_notices(*probes: Probe) -> list[str]:
    """Return what the reader has to know about the files: changed, or without a digest that would tell."""
    lines: list[str] = []
    for probe in probes:
        lines += probe.notices
        if probe.integrity is not None and probe.integrity.state == NO_DIGEST:
            lines.append(f"{probe.name}: {probe.integrity.words}")
    return lines
