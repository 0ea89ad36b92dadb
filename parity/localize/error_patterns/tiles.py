"""Where in an image a difference lies, by the tiles that the image was cut into."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....instrumentation.metrics import psnr_of
from ....runtime.tiling.blend import Axis, Plan
from ..tile_regions import Place
from .numbers import Image, psnr


def levels_of_tiles(
    candidate: Image, reference: Image, value_range: tuple[float, float], cut: Sequence[Place]
) -> dict[Place, float]:
    """PSNR in dB of every tile where it has no share with others; without those that have no such part."""
    return {
        place: psnr(candidate[place.inside], reference[place.inside], value_range)
        for place in cut
        if reference[place.inside].size
    }


@dataclass(frozen=True)
class Borders:
    """PSNR in dB where tiles meet, and elsewhere."""

    there: float
    elsewhere: float


def between_tiles(
    candidate: Image, reference: Image, value_range: tuple[float, float], plan: Plan, scale: int
) -> Borders | None:
    """Measure the borders apart from the rest; None where there is no rest."""
    off_rows, off_columns = (
        _off_borders(axis, scale, length)
        for axis, length in zip((plan.rows, plan.columns), reference.shape[:2], strict=True)
    )
    total = rest = 0.0
    for row, (ours, theirs) in enumerate(zip(candidate, reference, strict=True)):
        errors = np.square(ours.astype(np.float64) - theirs).sum(axis=1)
        total += float(errors.sum())
        rest += float(errors[off_columns].sum()) if off_rows[row] else 0.0
    everything = reference.size
    apart = int(off_rows.sum()) * int(off_columns.sum()) * reference.shape[2]
    if apart in (0, everything):
        return None
    there = psnr_of((total - rest) / (everything - apart), value_range)
    return Borders(there, psnr_of(rest / apart, value_range) if rest else math.inf)


def _off_borders(axis: Axis, scale: int, length: int) -> NDArray[np.bool_]:
    """True for the output pixels that are at least one input pixel away from all that two tiles share."""
    off = np.ones(length, np.bool_)
    for origin, following in itertools.pairwise(axis.origins):
        off[(following - 1) * scale : (origin + axis.tile + 1) * scale] = False
    return off
