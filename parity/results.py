"""The outcome on one image: what the verdict is made from."""

from __future__ import annotations

from dataclasses import dataclass

from .difference import Difference
from .stages import StageAgreement


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
        With the candidate's key graphs used by the reference as well; None for networks without key graphs.
    stages
        The choice of neighbours, one for each key graph in the order of execution.
    """

    name: str
    height: int
    width: int
    as_run: Difference
    same_graphs: Difference | None
    stages: tuple[StageAgreement, ...]

    @property
    def judged(self) -> Difference:
        """The difference that the verdict is about: the one in which no near tie has a part."""
        return self.same_graphs if self.same_graphs is not None else self.as_run
