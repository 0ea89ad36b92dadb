"""An error and the error that rounding explains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Standard deviation of a normal distribution, in units of its median absolute value.
_DEVIATIONS = 1.4826

#: RMS and median error of near ties.
TiesError: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class RoundingError:
    """An RMS error that was found, and the RMS error that rounding alone makes in the same network on the same input.

    Attributes
    ----------
    precision
        Whose rounding was measured: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    found
        RMS of the error, in the units of the values; NaN where a value is not finite.
    expected
        RMS of the error of rounding; the largest of several orders of summation.
    spread
        Largest over smallest expected error among the orders of summation; NaN for a single one.
    beside
        What `expected` contains beside rounding, in words: ``"near ties"``, ``"tiling"``; empty for nothing.
    alone
        The part of `expected` that is rounding; NaN where that is all of it.
    peak
        Length of the value range, for PSNRs; NaN for blocks.
    median, median_expected
        The median error (`median_error`) that was found, and the expected one, where near ties have a part: they
        change few values by much. NaN elsewhere.
    """

    precision: str
    found: float
    expected: float
    spread: float = math.nan
    beside: tuple[str, ...] = ()
    alone: float = math.nan
    peak: float = math.nan
    median: float = math.nan
    median_expected: float = math.nan

    @property
    def times(self) -> float:
        """The error found over the expected one; NaN where one of them is unknown."""
        if self.found == 0:
            return 0.0
        return self.found / self.expected if self.expected else math.inf

    @property
    def causes(self) -> str:
        """What explains the expected error, in words."""
        *others, last = (f"{self.precision} rounding", *self.beside)
        return f"{', '.join(others)} and {last}" if others else last

    def psnr(self, times: float = 1.0) -> float:
        """Return the PSNR in dB of this multiple of the expected error; NaN where it is unknown."""
        return self._decibels(times * self.expected)

    def psnr_of_rounding(self, times: float = 1.0) -> float:
        """Return the PSNR in dB of this multiple of the part that is rounding; NaN where it is unknown."""
        return self._decibels(times * (self.expected if math.isnan(self.alone) else self.alone))

    def _decibels(self, error: float) -> float:
        return 20 * math.log10(self.peak / error) if error > 0 else math.nan

    @property
    def median_times(self) -> float:
        """The median error found over the expected one; 0 where near ties have no part."""
        return self.median / self.median_expected if self.median > 0 and self.median_expected > 0 else 0.0

    def with_others(self, name: str, errors: Sequence[float]) -> RoundingError:
        """Return the same with further expected errors, which are independent: their squares add up.

        Parameters
        ----------
        name
            What they are, for `beside`.
        errors
            RMS, in the units of the values.
        """
        if not any(errors):
            return self
        alone = self.expected if math.isnan(self.alone) else self.alone
        expected = math.hypot(self.expected, *errors)
        return replace(self, expected=expected, alone=alone, beside=(*self.beside, name))

    def with_ties(self, ties: Sequence[TiesError], median: float = math.nan) -> RoundingError:
        """Return the same with the expected errors of near ties.

        Parameters
        ----------
        ties
            Of each side.
        median
            The median error that was found.
        """
        error = self.with_others("near ties", [rms for rms, _ in ties])
        if error is self:
            return self
        # As run, near ties move the usual value as well.
        expected = max(2 * self.expected, math.hypot(*(of_ties for _, of_ties in ties)))
        return replace(error, median=median, median_expected=expected)

    def worse(self, other: RoundingError | None) -> RoundingError:
        """Return whichever is the larger multiple of its expected error."""
        return other if other is not None and not other.times <= self.times else self


def median_error(values: NDArray[Any], exact: NDArray[Any]) -> float:
    """Return the median absolute difference, scaled to the standard deviation of a normal distribution with it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _DEVIATIONS * float(np.median(np.abs(np.subtract(values, exact, dtype=np.float64))))
