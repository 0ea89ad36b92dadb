"""The rule that decides whether a candidate passes, and the reasons when it does not."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import counted
from ..instrumentation.metrics import TOLERANCES, Tolerance
from .metrics.selection import StageAgreement
from .results import Comparison, InputResult, Run, Verdict

#: (index of the candidate, index of the image) -> reasons of the failure, one line each.
Failures = dict[tuple[int, int], list[str]]


def tolerance(precisions: Sequence[str]) -> Tolerance:
    """Return the tolerance for two sides: that of the lower precision."""
    return min((TOLERANCES[precision] for precision in precisions), key=lambda t: t.psnr)


def least_psnr(precisions: Sequence[str], at_least: float | None = None) -> float:
    """Return the lowest PSNR in dB that passes: the requested one, else that of the precisions' tolerance."""
    return tolerance(precisions).psnr if at_least is None else at_least


def judge(
    results: Sequence[InputResult],
    stages: Sequence[StageAgreement],
    precisions: Sequence[str],
    at_least: float | None = None,
) -> Verdict:
    """Apply the rule to the results of one candidate.

    Parameters
    ----------
    results
        One for each input.
    stages
        Summed over all inputs; empty for networks without key graphs.
    precisions
        Of both sides.
    at_least
        Lowest PSNR in dB that passes; None for that of the precisions' tolerance.

    Raises
    ------
    InputError
        There is no tolerance for one of the precisions.
    """
    allowed, threshold = tolerance(precisions), least_psnr(precisions, at_least)
    rule = f"every value finite, at least {threshold:g} dB"
    if at_least is not None:
        rule += f" (requested; the default is {allowed.psnr:g} dB)"
    if stages:
        rule += (
            " with the same key graphs, and the graphs themselves differ by near ties only "
            f"(similarities within {allowed.similarity:g} of a row's largest); "
            "as run, the median error of every tile is within the same limit"
        )
    graphs = _graph_reasons(stages)
    reasons = [
        *_nonfinite_reasons(results),
        *_cause_reasons(results),
        *graphs,
        *_psnr_reasons(results, threshold),
    ]
    if not graphs:  # With wrong key graphs the image as run is expected to differ.
        reasons += _tile_reasons(results, threshold)
    return Verdict(not reasons, rule, tuple(reasons))


def judge_image(comparison: Comparison, result: InputResult, at_least: float | None) -> list[str]:
    """Return why one image fails the rule; empty when it passes.

    Parameters
    ----------
    comparison
        To which the image belongs.
    result
        Of the image.
    at_least
        As for `judge`.
    """
    precisions = (comparison.candidate.manifest.precision, comparison.reference.manifest.precision)
    return list(judge([result], result.stages, precisions, at_least).reasons)


def find_failures(run: Run) -> Failures:
    """Apply the rule to each image alone."""
    found: Failures = {}
    for candidate, comparison in enumerate(run.comparisons):
        for index, result in enumerate(comparison.inputs):
            reasons = judge_image(comparison, result, run.settings.get("at_least"))
            if reasons:
                found[candidate, index] = reasons
    return found


def _nonfinite_reasons(results: Sequence[InputResult]) -> list[str]:
    reasons = []
    for result in results:
        for side in ("candidate", "reference"):
            count = max(getattr(numbers, f"nonfinite_{side}") for numbers in (result.judged, result.as_run))
            if count:
                reasons.append(f"{result.name}: the {side} gives {count} NaN or infinite values")
    return reasons


def _cause_reasons(results: Sequence[InputResult]) -> list[str]:
    return [f"{result.name}: {cause.text}" for result in results for cause in result.causes]


def _graph_reasons(stages: Sequence[StageAgreement]) -> list[str]:
    """Describe the first stage that is wrong; errors in later stages may only follow from it."""
    for stage in stages:
        error = None
        if stage.links_candidate != stage.links_reference:
            kept = [links / stage.rows for links in (stage.links_candidate, stage.links_reference)]
            error = f"the candidate keeps {kept[0]:g} neighbours of each node, the reference {kept[1]:g}"
        for side, count in (("candidate", stage.misjudged), ("reference", stage.misjudged_reference)):
            if count:
                error = error or f"the {side} chooses {counted(count, 'link')} wrongly by its own features"
                slip = f", it {stage.slip}" if stage.slip else ""
                return [f"{stage.name}: {error}: the {side}'s KeyGraph is at fault{slip}"]
        if stage.beyond_tolerance:
            error = error or (
                f"{counted(stage.beyond_tolerance, 'difference')} beyond near ties, right by both sides' features"
            )
            return [f"{stage.name}: {error}: the numbers differ before this stage"]
    return []


def _psnr_reasons(results: Sequence[InputResult], threshold: float) -> list[str]:
    return [
        f"{result.name}: {result.judged.psnr:.1f} dB"
        + (" with the same key graphs" if result.same_graphs is not None else "")
        + f", less than {threshold:g} dB"
        for result in results
        if result.judged.finite and result.judged.psnr < threshold
    ]


def _tile_reasons(results: Sequence[InputResult], threshold: float) -> list[str]:
    """Describe images that pass with the same key graphs, but differ as run by more than near ties can explain."""
    return [
        f"{result.name}: as run, the median tile error is {result.typical:.1f} dB, below the limit of {threshold:g} dB"
        f"; near ties do not explain that, and with the same key graphs the PSNR is {result.judged.psnr:.1f} dB"
        for result in results
        if result.judged.finite and result.judged.psnr >= threshold and result.typical < threshold
    ]
