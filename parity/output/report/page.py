"""Contents of the page: plain values for its scripts, and what its template needs in addition to the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ....instrumentation.metrics import LARGEST
from ....runtime.tiling.blend import Axis, Plan, seam_ratio
from ...metrics.blocks import BlockDifference
from ...metrics.image import Difference
from ...metrics.selection import StageAgreement
from ...pass_criteria import FACTOR, Failures, find_failures
from ...results import Comparison, Run
from .encoding import DECADES
from .pictures import OPENING, Shown, choose, picture_name


@dataclass(frozen=True)
class Page:
    """Everything that fills the template.

    Attributes
    ----------
    run
        The run.
    shown
        How each image is shown; None for images that are not.
    first
        Index of the image that is shown first: the worst.
    failing
        (candidate, image) -> why it fails the rule.
    data
        Plain JSON values for the scripts.
    """

    run: Run
    shown: list[Shown | None]
    first: int
    failing: Failures
    data: dict[str, Any]

    @property
    def first_pictures(self) -> int:
        """Number of pictures after which the page can be used; 0 if it has none."""
        return len(OPENING) if self.shown[self.first] is not None else 0

    @property
    def hidden(self) -> int:
        """Number of images that are not shown, to limit the size of the page."""
        return sum(one is None for one in self.shown)

    @property
    def with_clean(self) -> bool:
        """Whether any result has a clean image."""
        return any(result.clean is not None for one in self.run.comparisons for result in one.inputs)


def make_page(run: Run) -> Page:
    """Collect the contents of a page; without pictures if the run kept no images."""
    comparison, order = run.comparisons[0], _order(run)
    shown: list[Shown | None] = [None] * len(comparison.inputs)
    if run.images:
        shown = choose(run.images, comparison.reference.manifest, order)
    first = order[0]
    data = {
        "decades": DECADES,
        "limit": LARGEST["fp16"],
        "first": first,
        "candidates": [_candidate(comparison, run.settings.get("at_least")) for comparison in run.comparisons],
        "images": [_image(run, index, one) for index, one in enumerate(shown)],
    }
    return Page(run, shown, first, find_failures(run), data)


def _order(run: Run) -> list[int]:
    """Sort the indices of the images by their lowest PSNR, the worst first."""

    def least(index: int) -> float:
        found = [comparison.inputs[index].judged.psnr for comparison in run.comparisons]
        return min(-math.inf if math.isnan(psnr) else psnr for psnr in found)

    return sorted(range(len(run.comparisons[0].inputs)), key=least)


def _candidate(comparison: Comparison, at_least: float | None) -> dict[str, Any]:
    return {
        "name": comparison.candidate.name,
        "stages": [_stage(stage) for stage in comparison.stages],
        "blocks": [_block(block) for block in comparison.blocks],
        "tolerance": None if _measured(comparison, at_least) else _error(comparison.threshold),
        "factor": FACTOR,
        "divergence": None
        if comparison.first_divergence is None
        else {"block": comparison.first_divergence.block, "words": comparison.first_divergence.words},
        "results": [
            {"histogram": _histogram(result.judged), "same_graphs": result.same_graphs is not None}
            for result in comparison.inputs
        ],
    }


def _measured(comparison: Comparison, at_least: float | None) -> bool:
    """Return whether blocks are judged by what rounding explains of each, and by no common limit."""
    return at_least is None and any(block.rounding is not None for block in comparison.blocks)


def _histogram(numbers: Difference) -> dict[str, Any]:
    histogram = numbers.histogram
    return {"bits": histogram.bits, "labels": histogram.labels, "counts": histogram.counts}


def _stage(stage: StageAgreement) -> dict[str, Any]:
    return {
        "name": stage.name,
        "links": stage.common + stage.different,
        "common": stage.common,
        "near_ties": stage.near_ties,
        "beyond": stage.beyond_tolerance,
    }


def _block(block: BlockDifference) -> dict[str, Any]:
    """Return a block's numbers, with None for those that are not finite."""
    return {
        "name": block.name,
        "error": _error(block.psnr),
        "alone": _error(block.alone),
        "psnr": _finite(block.psnr),
        "max_abs": _finite(block.max_abs),
        "largest": _finite(block.largest),
        "reference": _finite(block.reference_largest),
        "nonfinite": block.nonfinite,
        "precision": block.precision,
        "times": None if block.rounding is None else _finite(block.rounding.times),
        "expected": _expected(block),
        "over": block.over_tolerance,
    }


def _expected(block: BlockDifference) -> float | None:
    """Return the error of rounding relative to the reference's largest value, as the errors of the chart."""
    if block.rounding is None or not block.reference_largest > 0:
        return None
    return _finite(block.rounding.expected / block.reference_largest)


def _error(psnr: float) -> float | None:
    """Convert a PSNR to the RMS error relative to the peak; 0 for equal outputs, None for NaN."""
    return None if math.isnan(psnr) else 10 ** (-psnr / 20)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _image(run: Run, index: int, shown: Shown | None) -> dict[str, Any]:
    result = run.comparisons[0].inputs[index]
    values: dict[str, Any] = {"name": result.name, "shown": shown is not None}
    if shown is None:
        return values
    part, image = shown.part, shown.image
    return values | {
        "part": "" if shown.whole else _part_note(shown),
        "top": part.top,
        "left": part.left,
        "height": part.height,
        "width": part.width,
        "pictures": {
            key: {
                "id": picture_name(index, key),
                "title": _title(run, key),
                "height": shown.size(key)[0],
                "width": shown.size(key)[1],
                "scale": shown.scale(key),
            }
            for key in shown.keys
        },
        "tiles": None if image.tiles is None else _tiles(image.tiles, shown),
    }


def _part_note(shown: Shown) -> str:
    height, width = shown.image.reference.shape[:2]
    part = shown.part
    return (
        f"Only {part.width} × {part.height} of {width} × {height} pixels are shown, around the largest difference, "
        f"from column {part.left} and row {part.top}; the numbers are those of the whole image."
    )


def _title(run: Run, key: str) -> str:
    kind, _, rest = key.partition("-")
    if kind == "candidate":
        return run.comparisons[int(rest)].candidate.name
    if kind == "reference":
        return run.comparisons[0].reference.name
    return rest if kind == "beside" else {"input": "input", "clean": "clean image"}.get(kind, "difference")


def _tiles(plan: Plan, shown: Shown) -> dict[str, Any]:
    """Return the tile grid in output pixels, and each candidate's seam ratio (see `seam_ratio`)."""
    scale = shown.manifest.scale
    values: dict[str, Any] = {
        name: {"tile": axis.tile * scale, "origins": [origin * scale for origin in axis.origins]}
        for name, axis in (("rows", plan.rows), ("columns", plan.columns))
    }
    if len(plan.tiles) > 1:
        seams = [seam_ratio(shown.difference(i), _cut(plan, shown), scale) for i in range(len(shown.image.candidates))]
        values["seams"] = [_finite(ratio) for ratio in seams]
    return values


def _cut(plan: Plan, shown: Shown) -> Plan:
    """Move the plan into the part that is shown; its tiles may start before it."""
    scale = shown.manifest.scale

    def moved(axis: Axis, start: int) -> Axis:
        return Axis(axis.length, axis.tile, tuple(origin - start // scale for origin in axis.origins))

    return Plan(moved(plan.rows, shown.part.top), moved(plan.columns, shown.part.left))
