"""A run of comparisons as text, one screen for each candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..parity import Comparison, Difference, InputResult, Run, StageAgreement
from ..parity.failures import CEILING, CLEAN_MARGIN, PSNR_MARGIN, Failures
from .table import show


def show_run(run: Run, regressions: Failures | None = None, moved: Sequence[str] | None = None) -> None:
    """Print a run.

    Parameters
    ----------
    run
        What was found.
    regressions
        What got worse than in the baseline; None where there is no baseline.
    moved
        Numbers that are not those of the run that this one repeats; None where it repeats none.
    """
    for index, comparison in enumerate(run.comparisons):
        if index:
            print()
        _show(comparison)
    if moved is not None:
        print(f"\nREPEATED: {len(moved)} numbers moved" if moved else "\nREPEATED: the same numbers as then")
        _indented(moved)
    if regressions is not None:
        print(
            f"\n{'WORSE' if regressions else 'NOT WORSE'} than the baseline, by more than {PSNR_MARGIN:g} dB (up to "
            f"{CEILING:g} dB), or {CLEAN_MARGIN:g} dB against the clean image"
        )
        _indented([line for lines in regressions.values() for line in lines])


def _show(comparison: Comparison) -> None:
    sides = (("candidate", comparison.candidate), ("reference", comparison.reference))
    show(
        ("", "", "", ""),
        [
            (title, side.name, f"{side.manifest.architecture} {side.manifest.precision}", side.description)
            for title, side in sides
        ],
        left=4,
    )
    if comparison.k is not None:
        print(f"k {comparison.k}")
    print()
    _show_images(comparison.inputs)
    print()
    _show_histograms(comparison.inputs)
    if comparison.stages:
        print()
        show(
            ("key graph", "neighbours", "Jaccard", "links", "differ", "near ties: harmless", "beyond: a bug"),
            [_stage_cells(stage) for stage in comparison.stages],
        )
    print()
    for line in comparison.notices:
        print(f"note: {line}")
    verdict = comparison.verdict
    print(f"{'AGREE' if verdict.good else 'DIFFERENT'}: the rule is: {verdict.rule}")
    _indented(verdict.reasons)


def _show_images(results: Sequence[InputResult]) -> None:
    with_clean = any(result.clean is not None for result in results)
    rows = []
    for result in results:
        clean: tuple[str, ...] = ()
        if with_clean:
            found = result.clean
            clean = ("", "") if found is None else (f"{found.candidate:.2f}", f"{found.change:+.4f}")
        rows.append((result.name, f"{result.width}x{result.height}", "as run", *_cells(result.as_run), *clean))
        if result.same_graphs is not None:
            rows.append(("", "", "same graphs", *_cells(result.same_graphs), *[""] * len(clean)))
    header = ("image", "size", "", "PSNR dB", "SSIM", "max abs", "mean abs", "8-bit equal", "finite")
    show((*header, *(("clean dB", "change") if with_clean else ())), rows, left=3)


def _show_histograms(results: Sequence[InputResult]) -> None:
    """Shares of values by how many steps of the output they are apart."""
    longest = max(results, key=lambda result: result.judged.histogram.bits).judged.histogram
    used = 1 + max(
        index for result in results for index, count in enumerate(result.judged.histogram.counts) if count or index < 2
    )
    rows = []
    for result in results:
        histogram = result.judged.histogram
        total = sum(histogram.counts) or 1
        counts = [*histogram.counts, *[0] * len(longest.counts)][:used]
        rows.append(
            (result.name, f"{histogram.bits} bit", *(_share(count / total) if count else "-" for count in counts))
        )
    show(("steps apart", "", *longest.labels[:used]), rows, left=2)


def _cells(numbers: Difference) -> tuple[str, ...]:
    return (
        "equal" if math.isinf(numbers.psnr) else f"{numbers.psnr:.1f}",
        "-" if math.isnan(numbers.ssim) else f"{numbers.ssim:.6f}",
        f"{numbers.max_abs:.1e}",
        f"{numbers.mean_abs:.1e}",
        _share(numbers.identical_8bit),
        "yes" if numbers.finite else "NO",
    )


def _stage_cells(stage: StageAgreement) -> tuple[str, ...]:
    kept = sorted({f"{links / stage.rows:g}" for links in (stage.links_candidate, stage.links_reference)})
    return (
        stage.name,
        " and ".join(kept),
        f"{stage.jaccard:.6f}",
        f"{stage.links_reference:,}",
        f"{stage.different:,}",
        f"{stage.near_ties:,}",
        f"{stage.beyond_tolerance:,}",
    )


def _indented(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"  {line}")


def _share(part: float) -> str:
    """A percentage that says 100 only when it is."""
    return "100 %" if part == 1 else f"{min(100 * part, 99.999):.3f} %"
