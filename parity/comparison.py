"""Comparing a candidate with a reference on images: the numbers, the choices of neighbours, and the verdict."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from ..errors import InputError
from ..manifest import Manifest
from ..runtime.notices import warn
from ..runtime.session import resolve_k
from .difference import DifferenceSum
from .inputs import Demands, Given, Input, count_pieces, demands, pieces, read_inputs
from .probes import Probe, open_probe
from .results import InputResult
from .stages import StageAgreement, agreements
from .verdict import Verdict, judge, tolerance

#: What stands for equal images in JSON, which has no infinity; rounding alone stays well below.
JSON_PSNR_LIMIT = 200.0

#: Settings that may differ between two forms of one network.
_FREE_SETTINGS = ("k", "k_trained", "task")


#: What two forms of one network have in common.
_INTERFACE = (
    "architecture",
    "scale",
    "in_channels",
    "out_channels",
    "value_range",
    "views",
    "normalisation",
    "gain",
    "margin",
    "extra_inputs",
)


@dataclass(frozen=True)
class Side:
    """What was compared.

    Attributes
    ----------
    name, description
        The file, and what ran it.
    manifest
        What it says of itself.
    """

    name: str
    description: str
    manifest: Manifest


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with a reference.

    Attributes
    ----------
    candidate, reference
        What was compared.
    k
        Neighbours of each node, None for networks without key graphs.
    same_weights
        Whether the weights that they were made from have the same SHA-256.
    inputs
        One result for each image.
    stages
        The choice of neighbours, summed over all images.
    verdict
        Whether they agree.
    notices
        What a reader should know besides.
    """

    candidate: Side
    reference: Side
    k: int | None
    same_weights: bool
    inputs: tuple[InputResult, ...]
    stages: tuple[StageAgreement, ...]
    verdict: Verdict
    notices: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON: PSNR at most 200 (which stands for equal images), None for what is not a number."""
        values = dataclasses.asdict(self)
        for name in ("candidate", "reference"):
            side: Side = getattr(self, name)
            values[name] = {
                "name": side.name,
                "description": side.description,
                "architecture": side.manifest.architecture,
                "precision": side.manifest.precision,
                "weights_sha256": side.manifest.weights_sha256,
            }
        _add_jaccard(values["stages"], self.stages)
        for result, given in zip(values["inputs"], self.inputs, strict=True):
            _add_jaccard(result["stages"], given.stages)
        plain: dict[str, Any] = _plain(values)
        return plain


def compare(
    candidate: str | os.PathLike[str] | Probe,
    reference: str | os.PathLike[str] | Probe,
    inputs: Sequence[Given | Mapping[str, Given]] = (),
    *,
    k: int | None = None,
    notice: Callable[[str], None] = warn,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare two forms of one network.

    The images are compared as both sides give them and, for networks with key graphs, once more with the candidate's
    graphs forced on the reference: two correct programs choose different neighbours where similarities nearly tie, and
    that must neither hide an error nor look like one. Large images are compared piece by piece.

    Parameters
    ----------
    candidate, reference
        Checkpoints, exported ONNX files, or probes that `open_probe` gave.
    inputs
        Image files or arrays, as `Restorer.restore` takes them; none: a generated picture. For models that take more
        than an image, mappings of ``"image"`` and the names of the others: ``{"image": "a.png", "mask": mask}``.
    k
        Neighbours of each node; None for the one that a side fixes, else the reference's default.
    notice
        Takes lines that a user should see while the files are opened.
    progress
        Called with (pieces done, pieces in all).

    Raises
    ------
    InputError
        A file, an image or k cannot be used, or the two are not forms of one network.
    """
    ours = open_probe(candidate, notice=notice) if isinstance(candidate, (str, os.PathLike)) else candidate
    theirs = open_probe(reference, notice=notice) if isinstance(reference, (str, os.PathLike)) else reference
    check_comparable(ours, theirs)
    number = _common_k(ours, theirs, k)
    needs = demands(ours.manifest, theirs.manifest)
    images = read_inputs(inputs, needs)
    notices = [f"{image.name}: {line}" for image in images for line in image.notices]
    total, steps = sum(count_pieces(image, needs) for image in images), itertools.count(1)

    def step() -> None:
        if progress is not None:
            progress(next(steps), total)

    results = [_compare_image(ours, theirs, number, image, needs, notices, step) for image in images]
    stages = tuple(reduce(operator.add, stage) for stage in zip(*(result.stages for result in results), strict=True))
    same_weights = ours.manifest.weights_sha256 == theirs.manifest.weights_sha256
    if not same_weights:
        notices.append("the two were made from different weights (SHA-256 in their manifests)")
    return Comparison(
        candidate=Side(ours.name, ours.description, ours.manifest),
        reference=Side(theirs.name, theirs.description, theirs.manifest),
        k=number,
        same_weights=same_weights,
        inputs=tuple(results),
        stages=stages,
        verdict=judge(results, stages, (ours.manifest.precision, theirs.manifest.precision)),
        notices=tuple(dict.fromkeys(notices)),
    )


def _compare_image(
    candidate: Probe,
    reference: Probe,
    k: int | None,
    image: Input,
    needs: Demands,
    notices: list[str],
    step: Callable[[], None],
) -> InputResult:
    as_run, same_graphs = DifferenceSum(needs.manifest), DifferenceSum(needs.manifest)
    stages: list[StageAgreement] = []
    for (images, *extras), shown in pieces(image, needs):
        ours = candidate.run(images, _given(candidate, k), *extras)
        as_run.add(ours, reference.run(images, _given(reference, k), *extras), shown)
        if k is not None:
            recorded, chosen = candidate.record(images, _given(candidate, k), *extras)
            graphs = [selection.graph for selection in chosen]
            forced, overruled = reference.force(images, _given(reference, k), graphs, *extras)
            same_graphs.add(recorded, forced, shown)
            precisions = (candidate.manifest.precision, reference.manifest.precision)
            found = agreements(chosen, overruled, k, tolerance(precisions).similarity)
            stages = [a + b for a, b in zip(stages, found, strict=True)] if stages else found
            if not np.array_equal(ours, recorded, equal_nan=True):
                notices.append("the candidate computes slightly otherwise while its key graphs are recorded")
        step()
    return InputResult(
        name=image.name,
        height=image.scene.height,
        width=image.scene.width,
        as_run=as_run.result(),
        same_graphs=None if k is None else same_graphs.result(),
        stages=tuple(stages),
    )


def check_comparable(candidate: Probe | Side, reference: Probe | Side) -> None:
    """Raise an `InputError` unless both are forms of one network."""
    ours, theirs = candidate.manifest, reference.manifest
    for name in _INTERFACE:
        _require_same(candidate, reference, name.replace("_", " "), getattr(ours, name), getattr(theirs, name))
    for name in sorted(ours.configuration.keys() | theirs.configuration.keys()):
        if name not in _FREE_SETTINGS:
            values = (manifest.configuration.get(name) for manifest in (ours, theirs))
            _require_same(candidate, reference, name, *map(_listed, values))
    if (ours.neighbours is None) != (theirs.neighbours is None):
        without = candidate.name if ours.neighbours is None else reference.name
        raise InputError(f"{without} has no key graph, the other has; compare two forms of one network")


def _require_same(candidate: Probe | Side, reference: Probe | Side, name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise InputError(
            f"{candidate.name} and {reference.name} are different networks: {name} is {ours} and {theirs}; "
            "compare two forms of one network"
        )


def _listed(value: Any) -> Any:
    """A tuple as a list: configurations that have been JSON hold lists."""
    return list(value) if isinstance(value, tuple) else value


def _common_k(candidate: Probe, reference: Probe, k: int | None) -> int | None:
    """The k that both sides run with; raises `InputError` where there is none."""
    sides = [(probe, probe.manifest.neighbours) for probe in (candidate, reference)]
    fixed = [neighbours.default for _, neighbours in sides if neighbours is not None and not neighbours.runtime]
    default = reference.manifest.neighbours.default if reference.manifest.neighbours else None
    number = k if k is not None else fixed[0] if fixed else default
    for probe, _ in sides:
        _given(probe, number)
    return number


def _given(probe: Probe, k: int | None) -> int | None:
    """What a side's `run` takes for this k; raises `InputError` when the model does not take it."""
    try:
        return resolve_k(probe.manifest, k)
    except InputError as error:
        raise InputError(f"{probe.name}: {error}") from None


def _add_jaccard(values: Sequence[dict[str, Any]], stages: Sequence[StageAgreement]) -> None:
    for value, stage in zip(values, stages, strict=True):
        value["jaccard"] = stage.jaccard


def _plain(value: Any) -> Any:
    """Make JSON's values of it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return JSON_PSNR_LIMIT if value > 0 else None
    return value
