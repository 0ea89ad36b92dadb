"""What would mend a candidate of low precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..runtime.session import Inputs
from .cutting import TRACED, distances, worst_piece
from .inputs import Sample, demands, read_inputs

if TYPE_CHECKING:
    from .run import Run


@dataclass(frozen=True)
class Mending:
    """What would mend a candidate, or why nothing does.

    Attributes
    ----------
    possible
        Whether keeping more in FP32 mends it.
    islands
        What to keep in FP32 besides what is kept already, none of which can be left out: patterns for
        ``keygraph export --keep-fp32``.
    psnr
        PSNR in dB that is reached with them, with the same key graphs; None where nothing was tried.
    words
        In a sentence.
    command
        The command line that makes such a file; None where there is none.
    """

    possible: bool
    islands: tuple[str, ...]
    psnr: float | None
    words: str
    command: str | None = None


def worst_pieces(run: Run, index: int) -> list[tuple[str, Inputs]]:
    """Of every image that was kept, the piece where a candidate and the reference are furthest apart.

    Parameters
    ----------
    run
        With its images.
    index
        Of the candidate.

    Returns
    -------
    The image's name, and what a session takes but k.
    """
    needs = demands(run.comparisons[index].reference.manifest)
    found = []
    for image in run.images:
        (given,) = read_inputs([Sample(image.name, image.arrays)], needs)
        inputs, _ = worst_piece(given, needs, distances(image.candidates[index], image.reference), TRACED)
        found.append((image.name, inputs))
    return found
