"""A run of comparisons as text, one screen for each candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import counted
from ..parity import BlockDifference, Comparison, Difference, InputResult, Run, StageAgreement
from ..parity.output.baseline import CEILING, CLEAN_MARGIN, PSNR_MARGIN
from ..parity.output.report.formatting import share, times
from ..parity.pass_criteria import Failures
from .table import show

#: Most rows of the table of blocks, not counting those around the first divergence and the first over tolerance.
ROWS = 24


def show_run(run: Run, regressions: Failures | None = None, changed: Sequence[str] | None = None) -> None:
    """Print a run.

    Parameters
    ----------
    run
        The run.
    regressions
        What got worse than in the baseline; None without a baseline.
    changed
        Numbers that differ from the run that this one repeats; None if it repeats none.
    """
    for index, comparison in enumerate(run.comparisons):
        if index:
            print()
        _show(comparison)
    if changed is not None:
        print(f"\nREPEATED: {counted(len(changed), 'change')}" if changed else "\nREPEATED: the same numbers as then")
        _indented(changed)
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
    if any(result.rounding is not None for result in comparison.inputs):
        _show_rounding(comparison.inputs)
        print()
    _show_histograms(comparison.inputs)
    if comparison.stages:
        print()
        show(
            ("key graph", "neighbours", "Jaccard", "links", "differ", "near ties: harmless", "beyond: a bug"),
            [_stage_cells(stage) for stage in comparison.stages],
        )
    if comparison.blocks:
        print()
        _show_blocks(comparison)
    print()
    for line in comparison.notices:
        print(f"note: {line}")
    verdict = comparison.verdict
    print(f"{'AGREE' if verdict.good else 'DIFFERENT'}: the rule is: {verdict.rule}")
    _indented(verdict.reasons)
    search = comparison.precision_search
    if search is not None:
        print(f"PRECISION SEARCH: {search.words}")
        _indented([search.command] if search.command else [])


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


def _show_rounding(results: Sequence[InputResult]) -> None:
    """Print what rounding explains of the errors."""
    show(
        ("RMS error", "", "found", "rounding explains", "times"),
        [
            (result.name, error.precision, f"{error.found:.1e}", f"{error.expected:.1e}", times(error.times))
            for result in results
            if (error := result.rounding) is not None
        ],
        left=2,
    )


def _show_histograms(results: Sequence[InputResult]) -> None:
    """Print the percentage of values by their difference in steps of the output."""
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
            (result.name, f"{histogram.bits} bit", *(share(count / total) if count else "-" for count in counts))
        )
    show(("steps apart", "", *longest.labels[:used]), rows, left=2)


def _cells(numbers: Difference) -> tuple[str, ...]:
    return (
        "equal" if math.isinf(numbers.psnr) else f"{numbers.psnr:.1f}",
        "-" if math.isnan(numbers.ssim) else f"{numbers.ssim:.6f}",
        f"{numbers.max_abs:.1e}",
        f"{numbers.mean_abs:.1e}",
        share(numbers.identical_8bit),
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


def _show_blocks(comparison: Comparison) -> None:
    """Print the blocks; of a large network only the most informative ones."""
    blocks, start = (
        comparison.blocks,
        comparison.first_divergence.block if comparison.first_divergence is not None else None,
    )
    rows, last = [], -1
    for index in _select_rows(blocks, start):
        if index > last + 1:
            rows.append((f"... {index - last - 1} more", *[""] * 8))
        block, last = blocks[index], index
        rows.append((block.name, block.precision, *_block_cells(block), "starts here" if block.name == start else ""))
    header = ("block", "", "PSNR dB", "alone dB", "x rounding", "max abs", "largest", "reference's", "")
    show(header, rows, left=2)


def _select_rows(blocks: Sequence[BlockDifference], start: str | None) -> list[int]:
    """Select the blocks to show: all, or those around the divergence and others at even steps."""
    if len(blocks) <= ROWS:
        return list(range(len(blocks)))
    chosen = {round(i * (len(blocks) - 1) / (ROWS // 2 - 1)) for i in range(ROWS // 2)}
    found = [next((i for i, block in enumerate(blocks) if block.name == start), None)]
    found.append(next((i for i, block in enumerate(blocks) if block.over_tolerance), None))
    for index in found:
        chosen |= set() if index is None else set(range(max(0, index - 2), min(len(blocks), index + 3)))
    return sorted(chosen)


def _block_cells(block: BlockDifference) -> tuple[str, ...]:
    psnr = "equal" if math.isinf(block.psnr) else "NaN" if math.isnan(block.psnr) else f"{block.psnr:.1f}"
    alone = "equal" if math.isinf(block.alone) else "-" if math.isnan(block.alone) else f"{block.alone:.1f}"
    return (
        f"{psnr}{' OVER' if block.over_tolerance else ''}",
        alone,
        "-" if block.rounding is None else times(block.rounding.times),
        "-" if math.isnan(block.max_abs) else f"{block.max_abs:.1e}",
        f"{block.largest:.4g}" if not block.nonfinite else f"{block.nonfinite} not finite",
        f"{block.reference_largest:.4g}",
    )


def _indented(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"  {line}")
