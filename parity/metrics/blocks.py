"""Differences between the block outputs of both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...instrumentation.metrics import psnr_of
from ...manifest import Manifest
from ...models.architecture import CUSTOM
from ...models.registry import by_name
from .rounding import RoundingError


@dataclass(frozen=True)
class BlockDifference:
    """Difference of one block's output; over several images, the worst of each number.

    Attributes
    ----------
    name
        Name of the module.
    psnr
        In dB, with the reference's largest absolute value as the peak; NaN where a value is not finite.
    max_abs
        Largest absolute difference; NaN where a value is not finite.
    largest
        Largest finite absolute value of the candidate's output.
    precision
        Of the candidate's tensor: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    over_tolerance
        Whether the block fails the rule: `rounding` is beyond what rounding explains or, where that does not decide,
        `psnr` is below the limit.
    alone
        As `psnr`, with the reference's block computing on the candidate's inputs: the error of the block itself,
        without the error that it inherits. NaN where unknown.
    nonfinite
        Number of NaN or infinite values in the candidate's output.
    reference_largest
        Largest finite absolute value of the reference's output; NaN where unknown.
    rounding
        The block's own error against float64 on the same input, and what rounding explains of it; None where unknown.
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
    rounding: RoundingError | None = None

    def worst(self, other: BlockDifference) -> BlockDifference:
        """Merge with the same block on another image: the worst of each number."""
        return replace(
            self,
            psnr=min(self.psnr, other.psnr, key=_nan_first),
            max_abs=-min(-self.max_abs, -other.max_abs, key=_nan_first),
            largest=max(self.largest, other.largest),
            over_tolerance=self.over_tolerance or other.over_tolerance,
            alone=float(np.fmin(self.alone, other.alone)),
            nonfinite=self.nonfinite + other.nonfinite,
            reference_largest=float(np.fmax(self.reference_largest, other.reference_largest)),
            rounding=other.rounding if self.rounding is None else self.rounding.worse(other.rounding),
        )


@dataclass(frozen=True)
class BlockValues:
    """Inputs and output of one block.

    Attributes
    ----------
    name
        Name of the module.
    output
        float32 or float16, of any shape.
    inputs
        Likewise, in the order of the block's arguments; inputs that are not of floating point are left out.
    precision
        Of the output as it is computed: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    """

    name: str
    output: NDArray[Any]
    inputs: tuple[NDArray[Any], ...]
    precision: str


#: Pattern for the names of a network's blocks where every module is one, except the network itself.
EVERY_MODULE = ".+"

#: Called with each block as soon as it has run, in the order of execution.
BlockObserver = Callable[[BlockValues], None]


def block_pattern(manifest: Manifest) -> str:
    """Return the regular expression for the names of a network's blocks: `Architecture.blocks`.

    Of a network without a description, every module is a block.
    """
    return EVERY_MODULE if manifest.architecture == CUSTOM else by_name(manifest.architecture).blocks


def block_difference(candidate: BlockValues, reference: BlockValues, at_least: float) -> BlockDifference:
    """Compare one block's outputs, of the same shape.

    Parameters
    ----------
    candidate, reference
        The same block on both sides.
    at_least
        PSNR in dB below which the difference is over tolerance.
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
    """Return the PSNR in dB and the largest absolute difference; both NaN where a value is not finite.

    Parameters
    ----------
    a, b
        Arrays of the same shape.
    peak
        Of the PSNR; with 0 the PSNR of different arrays is -inf.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        # The difference of close numbers is exact in float32, and twice as fast.
        difference = a.astype(np.float32, copy=False) - b.astype(np.float32, copy=False)
        max_abs = _peak(difference)
        if not math.isfinite(max_abs):
            return math.nan, math.nan
        if max_abs == 0:
            return math.inf, 0.0
        squared = float(np.mean(np.square(difference, dtype=np.float64)))
        return psnr_of(squared, (0.0, peak)) if peak else -math.inf, max_abs


def merged(images: Sequence[Sequence[BlockDifference]]) -> tuple[BlockDifference, ...]:
    """Merge the blocks of several images into one list: the worst of each."""
    found: dict[str, BlockDifference] = {}
    for block in (block for blocks in images for block in blocks):
        found[block.name] = found[block.name].worst(block) if block.name in found else block
    return tuple(found.values())


def _largest(values: NDArray[Any]) -> tuple[float, int]:
    """Return the largest finite absolute value and the number of values that are not finite."""
    peak = _peak(values)
    if math.isfinite(peak):
        return peak, 0
    finite = np.isfinite(values)
    return float(np.max(np.abs(values), where=finite, initial=0.0)), int(values.size - np.count_nonzero(finite))


def _peak(values: NDArray[Any]) -> float:
    """Return the largest absolute value; NaN if any value is NaN."""
    return float(max(np.max(values, initial=0.0), -np.min(values, initial=0.0)))


def _nan_first(value: float) -> float:
    return -math.inf if math.isnan(value) else value
