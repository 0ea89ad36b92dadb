"""Where a difference starts: the outputs of every block on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...instrumentation.metrics import psnr_of
from ...manifest import Manifest
from ...models.registry import by_name


@dataclass(frozen=True)
class BlockDifference:
    """One block's output, compared; of several images, the worst of each number.

    Attributes
    ----------
    name
        The module.
    psnr
        dB, with the reference's largest absolute value as the peak; NaN where a value is not finite.
    max_abs
        Largest absolute difference; NaN where a value is not finite.
    largest
        Largest finite absolute value of the candidate's output.
    precision
        Of the candidate's tensor: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    over_tolerance
        Whether it breaks the rule.
    alone
        As `psnr`, but with both blocks given the same inputs: what the block adds by itself, without what came before
        it. NaN where it is not known.
    nonfinite
        Values of the candidate's output that are NaN or infinite.
    reference_largest
        Largest finite absolute value of the reference's output; NaN where it is not known.
    """

    name: str
    psnr: float
    max_abs: float
    largest: float
    precision: str
    over_tolerance: bool
    alone: float = math.nan
    nonfinite: int = 0
    reference_largest: float = math.nan

    def worst(self, other: BlockDifference) -> BlockDifference:
        """The same block on one more image."""
        return replace(
            self,
            psnr=min(self.psnr, other.psnr, key=_nan_first),
            max_abs=-min(-self.max_abs, -other.max_abs, key=_nan_first),
            largest=max(self.largest, other.largest),
            over_tolerance=self.over_tolerance or other.over_tolerance,
            alone=float(np.fmin(self.alone, other.alone)),
            nonfinite=self.nonfinite + other.nonfinite,
            reference_largest=float(np.fmax(self.reference_largest, other.reference_largest)),
        )


@dataclass(frozen=True)
class BlockValues:
    """What goes into a block of one side, and what comes out.

    Attributes
    ----------
    name
        The module.
    output
        float32 or float16, of any shape.
    inputs
        Likewise, in the order in which they are taken; what is not of floating point is left out.
    precision
        Of the output as the side computes it: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    """

    name: str
    output: NDArray[Any]
    inputs: tuple[NDArray[Any], ...]
    precision: str


#: Takes a block as soon as it is done, in the order of execution.
See = Callable[[BlockValues], None]


def pattern(manifest: Manifest) -> str:
    """What the blocks of a network are called: see `Architecture.blocks`."""
    return by_name(manifest.architecture).blocks


def block_difference(candidate: BlockValues, reference: BlockValues, at_least: float) -> BlockDifference:
    """Compare one block's outputs, of the same shape.

    Parameters
    ----------
    candidate, reference
        The block on both sides.
    at_least
        PSNR in dB below which it is over tolerance.
    """
    largest, nonfinite = _largest(candidate.output)
    peak, _ = _largest(reference.output)
    decibels, max_abs = distance(candidate.output, reference.output, peak)
    return BlockDifference(
        name=candidate.name,
        psnr=decibels,
        max_abs=max_abs,
        largest=largest,
        precision=candidate.precision,
        over_tolerance=not decibels >= at_least,
        nonfinite=nonfinite,
        reference_largest=peak,
    )


def distance(a: NDArray[Any], b: NDArray[Any], peak: float) -> tuple[float, float]:
    """PSNR in dB and largest absolute difference; both NaN where a value is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        # Of numbers that are close the difference is exact in float32, and twice as fast.
        difference = a.astype(np.float32, copy=False) - b.astype(np.float32, copy=False)
        max_abs = _peak(difference)
        if not math.isfinite(max_abs):
            return math.nan, math.nan
        if max_abs == 0:
            return math.inf, 0.0
        squared = float(np.mean(np.square(difference, dtype=np.float64)))
        return psnr_of(squared, (0.0, peak)) if peak else -math.inf, max_abs


def merged(images: Sequence[Sequence[BlockDifference]]) -> tuple[BlockDifference, ...]:
    """The blocks of several images as one list: the worst of each."""
    found: dict[str, BlockDifference] = {}
    for block in (block for blocks in images for block in blocks):
        found[block.name] = found[block.name].worst(block) if block.name in found else block
    return tuple(found.values())


def _largest(values: NDArray[Any]) -> tuple[float, int]:
    """The largest finite absolute value, and how many are not finite."""
    peak = _peak(values)
    if math.isfinite(peak):
        return peak, 0
    finite = np.isfinite(values)
    return float(np.max(np.abs(values), where=finite, initial=0.0)), int(values.size - np.count_nonzero(finite))


def _peak(values: NDArray[Any]) -> float:
    """The largest absolute value; NaN where there is one."""
    return float(max(np.max(values, initial=0.0), -np.min(values, initial=0.0)))


def _nan_first(value: float) -> float:
    return -math.inf if math.isnan(value) else value
