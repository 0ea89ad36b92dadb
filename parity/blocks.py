"""Where a difference starts: the outputs of every block on both sides."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockDifference:
    """One block's output, compared.

    Attributes
    ----------
    name
        The module.
    psnr
        dB, with the reference's largest absolute value as the peak.
    max_abs
        Largest absolute difference.
    largest
        Largest finite absolute value of the candidate's output.
    precision
        Of the candidate's tensor.
    over_tolerance
        Whether it breaks the rule.
    """

    name: str
    psnr: float
    max_abs: float
    largest: float
    precision: str
    over_tolerance: bool
