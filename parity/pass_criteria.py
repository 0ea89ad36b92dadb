"""The rule that decides whether a candidate passes, and the reasons when it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..errors import counted
from ..instrumentation.metrics import TOLERANCES, Tolerance
from .metrics.blocks import BlockDifference
from .metrics.rounding import RoundingError
from .metrics.selection import StageAgreement
from .results import BlockRounding, Comparison, InputResult, Run, Verdict

#: (index of the candidate, index of the image) -> reasons of the failure, one line each.
Failures = dict[tuple[int, int], list[str]]

#: An error of more than this many times the expected error of rounding is no rounding. Correct programs stay below 3.5
#: times; docs/measurements/comparison.md has the measurements.
FACTOR = 4.0

#: As run, near ties move the usual value as well: the median error of a tile may be this many times that of rounding.
TYPICAL_FACTOR = 2 * FACTOR

#: Correct programs stay below this many times the expected error of rounding: two errors below it are both noise.
NOISE_FACTOR = 1.5

#: A file with fused operators may be this much worse, in dB, than the same file without.
CONTROL_DB = 1.0


def tolerance(precisions: Sequence[str]) -> Tolerance:
    """Return the tolerance for two sides: that of the lower precision."""
    return min((TOLERANCES[precision] for precision in precisions), key=lambda t: t.psnr)


def least_psnr(precisions: Sequence[str], at_least: float | None = None) -> float:
    """Return the lowest PSNR in dB that passes: the requested one, else that of the precisions' tolerance."""
    return tolerance(precisions).psnr if at_least is None else at_least


def beyond(error: RoundingError) -> bool:
    """Return whether an error is beyond what rounding explains: more than `FACTOR` times the expected error."""
    return not error.found <= FACTOR * error.expected or error.median_times > FACTOR


def worse_than_control(times: float, control: float) -> bool:
    """Return whether a file is worse than its control: more than noise, and by more than `CONTROL_DB`.

    Parameters
    ----------
    times
        The file's largest error as a multiple of what rounding explains, of all runs.
    control
        The same of its control.
    """
    return times > NOISE_FACTOR and not times <= control * 10 ** (CONTROL_DB / 20)


def by_rounding(result: InputResult, at_least: float | None) -> bool:
    """Return whether rounding decides on an image: it was measured, and no other limit was requested."""
    return at_least is None and result.rounding is not None and math.isfinite(result.rounding.expected)


def limit_of(result: InputResult, threshold: float, at_least: float | None) -> float:
    """Return the lowest PSNR in dB with which an image passes.

    Parameters
    ----------
    result
        Of the image.
    threshold
        Where rounding does not decide.
    at_least
        As for `judge`.
    """
    if not by_rounding(result, at_least) or result.rounding is None:
        return threshold
    limit = result.rounding.psnr(FACTOR)
    return threshold if math.isnan(limit) else limit


def innermost_beyond(blocks: Sequence[BlockRounding]) -> tuple[BlockRounding, ...]:
    """Return the blocks whose own error is beyond what rounding explains, without those that contain another one.

    Parameters
    ----------
    blocks
        In the order of execution.
    """
    names = [block.name for block in blocks if beyond(block.error)]
    return tuple(
        block for block in blocks if block.name in names and not any(one.startswith(f"{block.name}.") for one in names)
    )


def judge_blocks(blocks: Sequence[BlockDifference], at_least: float | None) -> tuple[BlockDifference, ...]:
    """Apply the rule to blocks.

    Where rounding decides, a block is over tolerance when its own error is beyond what rounding explains; blocks of
    which that is unknown pass, because the error that they inherit is judged elsewhere.

    Parameters
    ----------
    blocks
        Of one image, in the order of execution.
    at_least
        As for `judge`.
    """
    if at_least is not None or all(block.rounding is None for block in blocks):
        return tuple(blocks)
    return tuple(
        replace(block, over_tolerance=bool(block.nonfinite) or (block.rounding is not None and beyond(block.rounding)))
        for block in blocks
    )


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
        Lowest PSNR in dB that passes; None for what rounding explains or, where that could not be measured, the PSNR
        of the precisions' tolerance.

    Raises
    ------
    InputError
        There is no tolerance for one of the precisions.
    """
    allowed, threshold = tolerance(precisions), least_psnr(precisions, at_least)
    graphs = _graph_reasons(stages)
    reasons = [
        *_nonfinite_reasons(results),
        *_cause_reasons(results),
        *graphs,
        *(line for result in results for line in _error_reasons(result, threshold, at_least)),
    ]
    if not graphs:  # With wrong key graphs the image as run is expected to differ.
        reasons += _tile_reasons(results, threshold, at_least)
    return Verdict(not reasons, _rule(results, stages, allowed, at_least), tuple(reasons))


def _rule(
    results: Sequence[InputResult], stages: Sequence[StageAgreement], allowed: Tolerance, at_least: float | None
) -> str:
    """Return the rule as a sentence."""
    measured = next((one.rounding for one in results if by_rounding(one, at_least) and one.rounding is not None), None)
    if at_least is not None:
        limit = f"at least {at_least:g} dB (requested, in place of what rounding explains)"
    elif measured is None:
        limit = f"at least {allowed.psnr:g} dB"
    else:
        limit = _limit_by_rounding(measured.causes, not math.isnan(measured.median))
    rule = f"every value finite, {limit}"
    if stages:
        rule += (
            " with the same key graphs, and the graphs themselves differ by near ties only "
            f"(similarities within {allowed.similarity:g} of a row's largest); "
            "as run, the median error of every tile is within "
        )
        if measured is None:
            rule += "the same limit"
        else:
            rule += f"{TYPICAL_FACTOR:g} times what rounding explains"
    return rule


def rule_by_rounding(causes: str, median: bool = False) -> str:
    """Return the rule as a sentence, for a candidate without key graphs of which rounding was measured.

    Parameters
    ----------
    causes
        What explains errors: `RoundingError.causes`.
    median
        Whether the median error is judged as well.
    """
    return f"every value finite, {_limit_by_rounding(causes, median)}"


def _limit_by_rounding(causes: str, median: bool) -> str:
    what = "an error, and a median error," if median else "an error"
    return f"{what} of at most {FACTOR:g} times what {causes} explain{'' if ' and ' in causes else 's'}"


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


def _error_reasons(result: InputResult, threshold: float, at_least: float | None) -> list[str]:
    """Describe an image whose error is over the limit, and the blocks where it arises."""
    if not result.judged.finite:
        return []
    same = " with the same key graphs" if result.same_graphs is not None else ""
    if not by_rounding(result, at_least) or result.rounding is None:
        return [f"{result.name}: {result.judged.psnr:.1f} dB{same}, less than {threshold:g} dB"] * (
            result.judged.psnr < threshold
        )
    error, reasons = result.rounding, []
    if beyond(error):
        alone = f" ({' and '.join(('rounding', *error.beside))} alone: {error.psnr():.1f} dB)"
        if not error.found > FACTOR * error.expected:
            alone = ""  # The median error is beyond.
        reasons.append(f"{result.name}: {result.judged.psnr:.1f} dB{same}: {describe_error(error)}{alone}")
    if result.beyond_rounding:
        reasons.append(f"{result.name}: {describe_blocks(result.beyond_rounding)}")
    return reasons


def describe_error(error: RoundingError) -> str:
    """Return an error as a multiple of the expected one, in words."""
    if math.isnan(error.found):
        return "NaN or infinite values"
    if error.found <= FACTOR * error.expected and error.median_times > FACTOR:
        return f"median error {_number(error.median_times)} times what {_explain(error)}"
    return f"error {_number(error.times)} times what {_explain(error)}"


def describe_blocks(blocks: Sequence[BlockRounding]) -> str:
    """Return in words where errors are beyond what rounding explains.

    Parameters
    ----------
    blocks
        At least one, as `InputResult.beyond_rounding`.
    """
    first, *others = blocks
    cause = f"; it computes as with {first.suspect}" if first.suspect else ""
    more = f" and {counted(len(others), 'more block')}" if others else ""
    return (
        f"{describe_error(first.error)} in {first.name}{more}, given the same input; within it everywhere else{cause}"
    )


def rounding_note(result: InputResult, threshold: float, at_least: float | None) -> str | None:
    """Return what a reader should know about an image beside the verdict; None for nothing.

    Parameters
    ----------
    result
        Of the image.
    threshold
        The usual lowest PSNR in dB, or the requested one.
    at_least
        As for `judge`.
    """
    error = result.rounding
    if error is None or not result.judged.finite:
        return None
    if at_least is not None:
        if result.judged.psnr >= at_least and beyond(error):
            return (
                f"{result.name}: within the limit that was requested, but the error is {_number(error.times)} times "
                f"what {_explain(error)}"
            )
    elif by_rounding(result, at_least) and not beyond(error) and result.judged.psnr < threshold:
        return (
            f"{result.name}: {error.precision} rounding explains the error, but {result.judged.psnr:.1f} dB is little "
            f"(usual are {threshold:g} dB); --fail-under sets a floor"
        )
    return None


def _explain(error: RoundingError) -> str:
    return f"{error.causes} explain{'' if error.beside else 's'}"


def _number(times: float) -> str:
    return f"{times:,.0f}" if times >= 9.95 else f"{times:.1f}"


def _tile_reasons(results: Sequence[InputResult], threshold: float, at_least: float | None) -> list[str]:
    """Describe images that pass with the same key graphs, but differ as run by more than near ties can explain."""
    reasons = []
    for result in results:
        limit = _typical_limit(result, threshold, at_least)
        if result.judged.finite and not _error_reasons(result, threshold, at_least) and result.typical < limit:
            same = (
                ""
                if result.same_graphs is None
                else f", and with the same key graphs the PSNR is {result.judged.psnr:.1f} dB"
            )
            reasons.append(
                f"{result.name}: as run, the median tile error is {result.typical:.1f} dB, below the limit of "
                f"{limit:.4g} dB; near ties do not explain that{same}"
            )
    return reasons


def _typical_limit(result: InputResult, threshold: float, at_least: float | None) -> float:
    """Return the lowest median tile error, as run, with which an image passes, in dB."""
    if not by_rounding(result, at_least) or result.rounding is None:
        return threshold
    limit = result.rounding.psnr_of_rounding(TYPICAL_FACTOR)
    return threshold if math.isnan(limit) else limit
