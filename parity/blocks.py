"""Where a difference starts: the outputs of every block on both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
        Largest absolute difference.
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
