"""What one comparison found on one image, and what any of it is called."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .localize.error_patterns import Cause
from .metrics.image import Difference
from .metrics.selection import StageAgreement


@dataclass(frozen=True)
class CleanPsnr:
    """Both sides against the clean image, in dB, on values that are clipped to the value range but not rounded.

    Attributes
    ----------
    candidate, reference
        NaN where a value is not finite.
    """

    candidate: float
    reference: float

    @property
    def change(self) -> float:
        """What the candidate gains (above zero) or loses."""
        return 0.0 if self.candidate == self.reference else self.candidate - self.reference


@dataclass(frozen=True)
class InputResult:
    """The outcome on one image.

    Attributes
    ----------
    name
        The file, or ``"generated picture"``.
    height, width
        Of the image, in pixels.
    as_run
        Both sides as users run them.
    same_graphs
        With the candidate's key graphs used by the reference as well; None where they cannot be (networks without key
        graphs, engines).
    stages
        The choice of neighbours, one for each key graph in the order of execution.
    clean
        Both sides against the clean image; None where none was given.
    typical
        As run: the median of the absolute differences over the value range in dB, of the tile (or piece) where that is
        worst; see `difference.typical`. Near ties change some rows of some windows: they move a PSNR, no median.
    causes
        What is wrong with the image, where it failed and that is beyond doubt; see `diagnosis.diagnose`.
    """

    name: str
    height: int
    width: int
    as_run: Difference
    same_graphs: Difference | None
    stages: tuple[StageAgreement, ...]
    clean: CleanPsnr | None = None
    typical: float = math.inf
    causes: tuple[Cause, ...] = ()

    @property
    def judged(self) -> Difference:
        """The difference that the verdict is about: the one in which no near tie has a part."""
        return self.same_graphs if self.same_graphs is not None else self.as_run
