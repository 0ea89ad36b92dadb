"""First divergence: where a difference starts, located from block differences.

The result is one block, a kind of block, an overflow, or rounding in most blocks.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...instrumentation.metrics import EQUAL_DB, LARGEST
from ..metrics.blocks import BlockDifference

#: In dB: a block that is this far below the others has a systematic error.
STANDS_OUT = 20.0

#: In dB: PSNR after a single rounding, with the largest value as the peak. No block needs to agree better.
_ROUNDING = {"fp32": 144.5, "fp16": 66.2, "bf16": 48.2}


@dataclass(frozen=True)
class FirstDivergence:
    """Where a difference starts.

    Attributes
    ----------
    kind
        ``"overflow"``: values exceed the type's range; ``"block"``: one or few blocks differ although their inputs
        agree; ``"rounding"``: no block stands out; ``"behind"``: every block agrees, but the outputs do not;
        ``"hint"``: every block agrees, but one or few less closely than others of their kind; ``"nowhere"``: everything
        agrees.
    block
        The first block that is at fault; None where none is.
    words
        The result as a sentence.
    """

    kind: str
    block: str | None
    words: str


def find_first_divergence(
    blocks: Sequence[BlockDifference],
    restored: float,
    at_least: float,
    by_rounding: bool = False,
    described: bool = True,
) -> FirstDivergence:
    """Find where a difference starts.

    A block is at fault when its output differs although its inputs agree: when its difference *alone*, on the same
    inputs as the reference's block, is over tolerance. The outputs as run do not show this: all blocks after a fault
    differ, and rounding accumulates.

    Parameters
    ----------
    blocks
        In the order of execution.
    restored
        PSNR in dB between the outputs, NaN where a value is not finite.
    at_least
        PSNR in dB below which a block is over tolerance; with `by_rounding`, below which the outputs differ by more
        than rounding explains.
    by_rounding
        Whether the blocks over tolerance are those whose own error is beyond what rounding explains.
    described
        Whether keygraph knows the network: else its code may compute between the blocks.
    """
    broken = next((block for block in blocks if block.nonfinite), None)
    if broken is not None:
        return _not_finite(broken)
    names = [block.name for block in blocks]
    # A layer differs whenever a block inside it does, so only the innermost blocks are counted.
    parts = [block for block in blocks if not any(name.startswith(f"{block.name}.") for name in names)]
    over = next((block for block in blocks if block.over_tolerance), None)
    if over is None:
        agree = FirstDivergence("nowhere", None, "every block agrees on the piece that was compared")
        return _outside(blocks, restored, at_least, described) or (
            agree if by_rounding else _hint(parts, blocks, agree)
        )
    known = [block for block in blocks if not math.isnan(block.alone)]
    if not known:
        return FirstDivergence(
            "block", over.name, f"the first block over tolerance is {over.name}: {_decibels(over.psnr)}"
        )
    off = _innermost([block for block in known if block.over_tolerance]) if by_rounding else _below(known, at_least)
    if _of_most_kinds(off, parts):
        return _everywhere(over, off, parts)
    if off:
        return _few(off, blocks)
    worst = min(known, key=lambda block: block.alone)
    low = _below(known, worst.alone + STANDS_OUT)
    if not _of_most_kinds(low, parts):
        return _few(low, blocks)
    return FirstDivergence(
        "rounding",
        None,
        f"no block stands out: given the same input, every block agrees (the worst, {worst.name}, at "
        f"{_decibels(worst.alone)}); the difference grows evenly, as rounding does, and exceeds the tolerance in "
        f"{over.name} ({_decibels(over.psnr)})",
    )


def _below(blocks: Sequence[BlockDifference], decibels: float) -> list[BlockDifference]:
    """Select the blocks below this PSNR alone, without those that contain another such block."""
    return _innermost([block for block in blocks if block.alone < decibels])


def _innermost(blocks: Sequence[BlockDifference]) -> list[BlockDifference]:
    """Leave out blocks that contain another one."""
    return [block for block in blocks if not any(one.name.startswith(f"{block.name}.") for one in blocks)]


def _kind(name: str) -> str:
    """Return the kind of a block: the last word of its name that is not a number."""
    return next((word for word in reversed(name.split(".")) if not word.isdecimal()), name)


def _of_most_kinds(low: Sequence[BlockDifference], parts: Sequence[BlockDifference]) -> bool:
    """Return whether most blocks of most kinds are low.

    Rounding affects most block kinds; a systematic fault affects one or two.
    """
    blocks, lows = (Counter(_kind(block.name) for block in found) for found in (parts, [b for b in low if b in parts]))
    return 2 * sum(2 * lows[kind] >= count for kind, count in blocks.items()) >= len(blocks)


def _not_finite(block: BlockDifference) -> FirstDivergence:
    values = "1 value is" if block.nonfinite == 1 else f"{block.nonfinite} values are"
    if block.precision == "fp32":
        return FirstDivergence(
            "overflow", block.name, f"the difference starts in {block.name}: {values} NaN or infinite there"
        )
    limit = LARGEST[block.precision]
    reach = f"the reference's output reaches {block.reference_largest:.4g}"
    inside = "" if block.reference_largest > limit else ", so a value inside the block exceeds this"
    return FirstDivergence(
        "overflow",
        block.name,
        f"{block.precision} overflows in {block.name}: {values} NaN or infinite; {block.precision} holds at most "
        f"{limit:.5g}, {reach}{inside}",
    )


def _hint(
    parts: Sequence[BlockDifference], blocks: Sequence[BlockDifference], agree: FirstDivergence
) -> FirstDivergence:
    """Find blocks that stand out although they are within the tolerance, which allows for networks that round more."""
    kinds: dict[str, list[float]] = {}
    for block in parts:
        if not math.isnan(block.alone):
            kinds.setdefault(_kind(block.name), []).append(min(block.alone, _ROUNDING[block.precision]))
    usual = {kind: statistics.median(values) for kind, values in kinds.items()}
    everywhere = statistics.median(usual.values()) if usual else math.nan

    def expected(block: BlockDifference) -> float:
        kind = _kind(block.name)
        # For a rare kind, or one that is low as a whole, the other kinds show what to expect.
        return max(usual[kind], everywhere) if len(kinds) > 2 else usual[kind]

    low = [b for b in parts if not math.isnan(b.alone) and b.alone < expected(b) - STANDS_OUT]
    if not low or _of_most_kinds(low, parts):
        return agree
    found = _few(low, blocks)
    return FirstDivergence("hint", found.block, found.words)


def _outside(
    blocks: Sequence[BlockDifference], restored: float, at_least: float, described: bool
) -> FirstDivergence | None:
    if not blocks or restored >= at_least:
        return None
    last, worst = blocks[-1], min(blocks, key=lambda block: block.psnr)
    words = "is not finite" if math.isnan(restored) else f"agrees only at {_decibels(restored)}"
    if not described:
        first, second = max(itertools.pairwise([*blocks, last]), key=lambda pair: pair[0].psnr - pair[1].psnr)
        return FirstDivergence(
            "behind",
            None,
            f"no block is at fault by itself, but the output {words}: the difference is in code outside of the blocks "
            f"that were compared alone. It grows most from {first.name} ({_decibels(first.psnr)}) to {second.name} "
            f"({_decibels(second.psnr)})",
        )
    return FirstDivergence(
        "behind",
        None,
        f"every block agrees (the worst, {worst.name}, at {_decibels(worst.psnr)}), but the output {words}: the "
        f"difference starts after the last block, {last.name}",
    )


def _everywhere(
    over: BlockDifference, off: Sequence[BlockDifference], parts: Sequence[BlockDifference]
) -> FirstDivergence:
    """Describe a difference in most blocks: rounding, unless one block is far worse than the others."""
    usual = statistics.median(min(block.alone, EQUAL_DB) for block in off)
    worst = min(off, key=lambda block: block.alone)
    if worst.alone < usual - STANDS_OUT:
        return FirstDivergence(
            "block",
            worst.name,
            f"{worst.name} stands out: given the same input, its output agrees at {_decibels(worst.alone)}, the "
            f"others at about {_decibels(usual)}, which is more than rounding as well",
        )
    return FirstDivergence(
        "rounding",
        None,
        f"no block stands out: {len(off)} of {len(parts)} blocks differ by about as much (given the same input, they "
        f"agree at {_decibels(usual)}, the worst, {worst.name}, at {_decibels(worst.alone)}); the difference grows "
        f"evenly, as rounding in lower precision does, and exceeds the tolerance in {over.name}",
    )


def _few(off: Sequence[BlockDifference], blocks: Sequence[BlockDifference]) -> FirstDivergence:
    first = off[0]
    others = [min(block.alone, EQUAL_DB) for block in blocks if block not in off and not math.isnan(block.alone)]
    usual = f", the others at about {_decibels(statistics.median(others))}" if others else ""
    before = next((blocks[i - 1] for i, block in enumerate(blocks) if block == first and i), None)
    previous = f"the block before it agrees at {_decibels(before.psnr)}; " if before is not None else ""
    alike = f"; {_describe_others(off[1:])} affected in the same way" if len(off) > 1 else ""
    return FirstDivergence(
        "block",
        first.name,
        f"the difference starts in {first.name}: {previous}given the same input, its output agrees only at "
        f"{_decibels(first.alone)}{usual}{alike}",
    )


def _describe_others(others: Sequence[BlockDifference]) -> str:
    """Describe further blocks by their number and kinds."""
    kinds = Counter(_kind(block.name) for block in others)
    words = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(3))
    if len(others) == 1:
        return f"{others[0].name} is"
    return f"{len(others)} more ({words}{', ...' if len(kinds) > 3 else ''}) are"


def _decibels(value: float) -> str:
    if math.isnan(value):
        return "no dB (NaN or infinite values)"
    return "no difference" if value == math.inf or value == EQUAL_DB else f"{value:.0f} dB"
