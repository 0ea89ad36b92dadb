"""The rule by which a candidate passes, and the words that say why it did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..instrumentation.metrics import TOLERANCES, Tolerance
from .metrics.selection import StageAgreement
from .results import InputResult


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate computes what the reference computes.

    Attributes
    ----------
    good
        True when the rule holds for every input.
    rule
        The rule, in a sentence.
    reasons
        What breaks it, a line each, the most telling first; empty when good.
    """

    good: bool
    rule: str
    reasons: tuple[str, ...]


def tolerance(precisions: Sequence[str]) -> Tolerance:
    """The rule for two sides: that of the lower precision.

    Raises
    ------
    InputError
        There is no rule for one of the precisions.
    """
    unknown = [precision for precision in precisions if precision not in TOLERANCES]
    if unknown:
        raise InputError(f"there is no rule yet for {unknown[0]}; there is one for {', '.join(TOLERANCES)}")
    return min((TOLERANCES[precision] for precision in precisions), key=lambda t: t.psnr)


def least_psnr(precisions: Sequence[str], at_least: float | None = None) -> float:
    """What passes, in dB: what was asked for, else the rule's; raises as `tolerance`."""
    return tolerance(precisions).psnr if at_least is None else at_least


def judge(
    results: Sequence[InputResult],
    stages: Sequence[StageAgreement],
    precisions: Sequence[str],
    at_least: float | None = None,
) -> Verdict:
    """Apply the rule.

    Parameters
    ----------
    results
        One for each input.
    stages
        Summed over all inputs; empty for networks without key graphs.
    precisions
        Of both sides.
    at_least
        Least PSNR in dB that was asked for; None for that of the precisions.

    Raises
    ------
    InputError
        There is no rule for one of the precisions.
    """
    allowed, threshold = tolerance(precisions), least_psnr(precisions, at_least)
    rule = f"every value finite, at least {threshold:g} dB"
    if at_least is not None:
        rule += f" (asked for; {allowed.psnr:g} dB by itself)"
    if stages:
        rule += (
            " with the same key graphs, and the graphs themselves differ by near ties only "
            f"(similarities within {allowed.similarity:g} of a row's largest); "
            "as run, half of every tile's values are as close"
        )
    graphs = _graphs(stages)
    reasons = [*_not_finite(results), *_causes(results), *graphs, *_images(results, threshold)]
    if not graphs:  # Other neighbours make another image: that follows.
        reasons += _as_run(results, threshold)
    return Verdict(not reasons, rule, tuple(reasons))


def _not_finite(results: Sequence[InputResult]) -> list[str]:
    reasons = []
    for result in results:
        for side in ("candidate", "reference"):
            # As run, or with the same key graphs: the one of the two that has them, has them.
            count = max(getattr(numbers, f"nonfinite_{side}") for numbers in (result.judged, result.as_run))
            if count:
                reasons.append(f"{result.name}: the {side} gives {count} NaN or infinite values")
    return reasons


def _causes(results: Sequence[InputResult]) -> list[str]:
    return [f"{result.name}: {cause.text}" for result in results for cause in result.causes]


def _graphs(stages: Sequence[StageAgreement]) -> list[str]:
    """The first stage that is wrong, with what is wrong in it; the ones after it may only follow from it."""
    for stage in stages:
        said = None
        if stage.links_candidate != stage.links_reference:
            kept = [links / stage.rows for links in (stage.links_candidate, stage.links_reference)]
            said = f"the candidate keeps {kept[0]:g} neighbours of each node, the reference {kept[1]:g}"
        for side, count in (("candidate", stage.misjudged), ("reference", stage.misjudged_reference)):
            if count:
                said = said or f"the {side} chooses {count} links wrongly by its own features"
                slip = f", it {stage.slip}" if stage.slip else ""
                return [f"{stage.name}: {said}: the {side}'s KeyGraph is at fault{slip}"]
        if stage.beyond_tolerance:
            said = said or (
                f"{stage.beyond_tolerance} links differ by more than near ties, but are right by both sides' features"
            )
            return [f"{stage.name}: {said}: the numbers differ before this stage"]
    return []


def _images(results: Sequence[InputResult], threshold: float) -> list[str]:
    return [
        f"{result.name}: {result.judged.psnr:.1f} dB"
        + (" with the same key graphs" if result.same_graphs is not None else "")
        + f", less than {threshold:g} dB"
        for result in results
        if result.judged.finite and result.judged.psnr < threshold
    ]


def _as_run(results: Sequence[InputResult], threshold: float) -> list[str]:
    """What is right with the same key graphs, and wrong as users run it in a way that no near tie explains."""
    return [
        f"{result.name}: as run, half of a tile is only {result.typical:.1f} dB close, less than {threshold:g} dB; "
        f"near ties do not explain that, and with the same key graphs it is {result.judged.psnr:.1f} dB"
        for result in results
        if result.judged.finite and result.judged.psnr >= threshold and result.typical < threshold
    ]
