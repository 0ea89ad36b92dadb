"""Where a difference starts, read from the blocks: one block, a kind of block, an overflow, or rounding everywhere."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...instrumentation.metrics import EQUAL_DB, LARGEST
from ..metrics.blocks import BlockDifference

#: In dB: a block this far below the others does something else than they do.
STANDS_OUT = 20.0

#: In dB: what one rounding leaves of the largest value. No block need agree better.
_ROUNDING = {"fp32": 144.5, "fp16": 66.2, "bf16": 48.2}


@dataclass(frozen=True)
class Origin:
    """Where a difference starts.

    Attributes
    ----------
    kind
        ``"overflow"``: values leave the type's range; ``"block"``: one or few blocks are off though their inputs agree;
        ``"rounding"``: no block stands out; ``"behind"``: every block agrees, but not what was restored;
        ``"hint"``: every block agrees, but one or few less well than others like them; ``"nowhere"``: nothing is off.
    block
        The first block that is at fault; None where none is.
    words
        In a sentence.
    """

    kind: str
    block: str | None
    words: str


def origin(blocks: Sequence[BlockDifference], restored: float, at_least: float) -> Origin:
    """Find where a difference starts.

    A block is at fault when its output is off although its inputs agree: when it is off *alone*, given the same inputs
    as the reference's. The outputs themselves do not tell: behind a fault all are off, and rounding adds up.

    Parameters
    ----------
    blocks
        In the order of execution.
    restored
        PSNR in dB of the restored pieces, NaN where a value is not finite.
    at_least
        PSNR in dB below which a block is over tolerance.
    """
    broken = next((block for block in blocks if block.nonfinite), None)
    if broken is not None:
        return _not_finite(broken)
    names = [block.name for block in blocks]
    # A layer is off with what is in it, and says nothing of its own then.
    parts = [block for block in blocks if not any(name.startswith(f"{block.name}.") for name in names)]
    over = next((block for block in blocks if block.over_tolerance), None)
    if over is None:
        return _behind(blocks, restored, at_least) or _hint(parts, blocks)
    known = [block for block in blocks if not math.isnan(block.alone)]
    if not known:
        return Origin("block", over.name, f"the first block over tolerance is {over.name}: {_decibels(over.psnr)}")
    off = _below(known, at_least)
    if _of_most_kinds(off, parts):
        return _everywhere(over, off, parts)
    if off:
        return _few(off, blocks)
    worst = min(known, key=lambda block: block.alone)
    low = _below(known, worst.alone + STANDS_OUT)
    if not _of_most_kinds(low, parts):
        return _few(low, blocks)
    return Origin(
        "rounding",
        None,
        f"no block stands out: given the same input, none is off (the worst, {worst.name}, agrees at "
        f"{_decibels(worst.alone)}); the difference grows evenly, as rounding does, and passes the tolerance in "
        f"{over.name} ({_decibels(over.psnr)})",
    )


def _below(blocks: Sequence[BlockDifference], decibels: float) -> list[BlockDifference]:
    """The blocks that agree alone at less, without those that only do because of a block inside of them."""
    low = [block for block in blocks if block.alone < decibels]
    return [block for block in low if not any(one.name.startswith(f"{block.name}.") for one in low)]


def _kind(name: str) -> str:
    """What a block is, wherever it is: the last word of its name, without numbers."""
    return next((word for word in reversed(name.split(".")) if not word.isdecimal()), name)


def _of_most_kinds(low: Sequence[BlockDifference], parts: Sequence[BlockDifference]) -> bool:
    """Whether blocks are low whatever they are: most blocks of most kinds.

    Rounding is everywhere but where there is little of it, in norms; a fault in all norms is in one kind or two.
    """
    blocks, lows = (Counter(_kind(block.name) for block in found) for found in (parts, [b for b in low if b in parts]))
    return 2 * sum(2 * lows[kind] >= count for kind, count in blocks.items()) >= len(blocks)


def _not_finite(block: BlockDifference) -> Origin:
    values = "1 value is" if block.nonfinite == 1 else f"{block.nonfinite} values are"
    if block.precision == "fp32":
        return Origin("overflow", block.name, f"it starts in {block.name}: {values} NaN or infinite there")
    limit = LARGEST[block.precision]
    reach = f"the reference's output reaches {block.reference_largest:.4g}"
    inside = "" if block.reference_largest > limit else ", so it is a value inside of the block that passes this"
    return Origin(
        "overflow",
        block.name,
        f"{block.precision} overflows in {block.name}: {values} NaN or infinite; {block.precision} holds at most "
        f"{limit:.5g}, {reach}{inside}",
    )


def _hint(parts: Sequence[BlockDifference], blocks: Sequence[BlockDifference]) -> Origin:
    """What stands out though it is within the tolerance, which has room for networks that round more: a small fault."""
    kinds: dict[str, list[float]] = {}
    for block in parts:
        if not math.isnan(block.alone):
            kinds.setdefault(_kind(block.name), []).append(min(block.alone, _ROUNDING[block.precision]))
    usual = {kind: statistics.median(values) for kind, values in kinds.items()}
    everywhere = statistics.median(usual.values()) if usual else math.nan

    def expected(block: BlockDifference) -> float:
        kind = _kind(block.name)
        # Of a kind that is rare, or off as a whole, the others tell.
        return max(usual[kind], everywhere) if len(kinds) > 2 else usual[kind]

    low = [b for b in parts if not math.isnan(b.alone) and b.alone < expected(b) - STANDS_OUT]
    if not low or _of_most_kinds(low, parts):
        return Origin("nowhere", None, "every block agrees on the piece that was looked at")
    found = _few(low, blocks)
    return Origin("hint", found.block, found.words)


def _behind(blocks: Sequence[BlockDifference], restored: float, at_least: float) -> Origin | None:
    if not blocks or restored >= at_least:
        return None
    last, worst = blocks[-1], min(blocks, key=lambda block: block.psnr)
    words = "is not finite" if math.isnan(restored) else f"agrees at {_decibels(restored)} only"
    return Origin(
        "behind",
        None,
        f"every block agrees (the worst, {worst.name}, at {_decibels(worst.psnr)}), but what is restored {words}: the "
        f"difference starts behind the last block, {last.name}",
    )


def _everywhere(over: BlockDifference, off: Sequence[BlockDifference], parts: Sequence[BlockDifference]) -> Origin:
    """Most blocks are off alone: rounding, unless one is off far more than they are."""
    usual = statistics.median(min(block.alone, EQUAL_DB) for block in off)
    worst = min(off, key=lambda block: block.alone)
    if worst.alone < usual - STANDS_OUT:
        return Origin(
            "block",
            worst.name,
            f"{worst.name} stands out: given the same input, its output agrees at {_decibels(worst.alone)}, that of "
            f"the others at about {_decibels(usual)}, which is more than rounding as well",
        )
    return Origin(
        "rounding",
        None,
        f"no block stands out: {len(off)} of {len(parts)} blocks are off by about as much (given the same input, they "
        f"agree at {_decibels(usual)}, the worst, {worst.name}, at {_decibels(worst.alone)}); the difference grows "
        f"evenly, as rounding of lower precision does, and passes the tolerance in {over.name}",
    )


def _few(off: Sequence[BlockDifference], blocks: Sequence[BlockDifference]) -> Origin:
    first = off[0]
    others = [min(block.alone, EQUAL_DB) for block in blocks if block not in off and not math.isnan(block.alone)]
    usual = f", that of others at about {_decibels(statistics.median(others))}" if others else ""
    before = next((blocks[i - 1] for i, block in enumerate(blocks) if block == first and i), None)
    came = f"the block before it agrees at {_decibels(before.psnr)}; " if before is not None else ""
    alike = f"; {_alike(off[1:])} off in the same way" if len(off) > 1 else ""
    return Origin(
        "block",
        first.name,
        f"it starts in {first.name}: {came}given the same input, its output agrees at {_decibels(first.alone)} "
        f"only{usual}{alike}",
    )


def _alike(others: Sequence[BlockDifference]) -> str:
    """How many more, by their kinds."""
    kinds = Counter(_kind(block.name) for block in others)
    words = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(3))
    if len(others) == 1:
        return f"{others[0].name} is"
    return f"{len(others)} more ({words}{', ...' if len(kinds) > 3 else ''}) are"


def _decibels(value: float) -> str:
    if math.isnan(value):
        return "no dB (NaN or infinite values)"
    return "no difference" if value == math.inf or value == EQUAL_DB else f"{value:.0f} dB"
