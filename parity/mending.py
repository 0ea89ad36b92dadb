"""Where a candidate that has to be mended is furthest from the reference."""

from __future__ import annotations

from ..runtime.backends.base import Inputs
from .inputs import Sample, demands, read_inputs
from .piecewise import TRACED, distances, worst_piece
from .results import Run


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
