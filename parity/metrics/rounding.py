"""An error and the error that rounding explains."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
    """

    precision: str
    found: float
    expected: float
    spread: float = math.nan

    @property
    def times(self) -> float:
        """The error found over the expected one; NaN where one of them is unknown."""
        if self.found == 0:
            return 0.0
        return self.found / self.expected if self.expected else math.inf

    def worse(self, other: RoundingError | None) -> RoundingError:
        """Return whichever is the larger multiple of its expected error."""
        return other if other is not None and not other.times <= self.times else self
