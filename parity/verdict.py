"""The rule by which a candidate passes, and the words that say why it did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..runtime.metrics import TOLERANCES, Tolerance
from .results import InputResult
from .stages import StageAgreement


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
    allowed = tolerance(precisions)
    threshold = allowed.psnr if at_least is None else at_least
    rule = f"every value finite, at least {threshold:g} dB"
    if at_least is not None:
        rule += f" (asked for; {allowed.psnr:g} dB by itself)"
    if stages:
        rule += (
            " with the same key graphs, and the graphs themselves differ by near ties only "
            f"(similarities within {allowed.similarity:g} of a row's largest)"
        )
    reasons = [*_not_finite(results), *_graphs(stages), *_images(results, threshold)]
    return Verdict(not reasons, rule, tuple(reasons))


def _not_finite(results: Sequence[InputResult]) -> list[str]:
    reasons = []
    for result in results:
        numbers = result.judged
        for side, count in (
            ("candidate", numbers.nonfinite_candidate),
            ("reference", numbers.nonfinite_reference),
        ):
            if count:
                reasons.append(f"{result.name}: the {side} gives {count} NaN or infinite values")
    return reasons


def _graphs(stages: Sequence[StageAgreement]) -> list[str]:
    """The first stage that is wrong, with what is wrong in it; the ones after it may only follow from it."""
    for stage in stages:
        if stage.links_candidate != stage.links_reference:
            kept = [links / stage.rows for links in (stage.links_candidate, stage.links_reference)]
            return [f"{stage.name}: the candidate keeps {kept[0]:g} neighbours of each node, the reference {kept[1]:g}"]
        if stage.misjudged:
            return [
                f"{stage.name}: the candidate chooses {stage.misjudged} links wrongly by its own features: "
                "its KeyGraph is at fault"
            ]
        if stage.beyond_tolerance:
            return [
                f"{stage.name}: {stage.beyond_tolerance} links differ by more than near ties, but are right by the "
                "candidate's own features: the numbers differ before this stage"
            ]
    return []


def _images(results: Sequence[InputResult], threshold: float) -> list[str]:
    return [
        f"{result.name}: {result.judged.psnr:.1f} dB"
        + (" with the same key graphs" if result.same_graphs is not None else "")
        + f", less than {threshold:g} dB"
        for result in results
        if result.judged.finite and result.judged.psnr < threshold
    ]
