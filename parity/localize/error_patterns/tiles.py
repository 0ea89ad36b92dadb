"""Differences by tile, and at the borders between tiles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....instrumentation.metrics import psnr_of
from ....runtime.tiling.blend import Axis, Plan
from ..tile_regions import TileRegion
from .pattern import Image, psnr


def psnr_by_tile(
    candidate: Image, reference: Image, value_range: tuple[float, float], tiles: Sequence[TileRegion]
) -> dict[TileRegion, float]:
    """Return the PSNR of every tile where no other tile contributes; tiles without such a region are left out.

    Parameters
    ----------
    candidate, reference
        float32[H, W, C], finite.
    value_range
        Values of black and white.
    tiles
        Regions of the tiles.
    """
    return {
        tile: psnr(candidate[tile.exclusive], reference[tile.exclusive], value_range)
        for tile in tiles
        if reference[tile.exclusive].size
    }


@dataclass(frozen=True)
class BorderPsnr:
    """PSNR in dB where tiles meet, and elsewhere."""

    borders: float
    elsewhere: float


def psnr_at_borders(
    candidate: Image, reference: Image, value_range: tuple[float, float], plan: Plan, scale: int
) -> BorderPsnr | None:
    """Measure the PSNR where tiles meet apart from the rest.

    Parameters
    ----------
    candidate, reference
        float32[H, W, C], finite.
    value_range
        Values of black and white.
    plan
        The tiling plan.
    scale
        Output pixels per input pixel.

    Returns
    -------
    None where one of the two parts is empty.
    """
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
    borders = psnr_of((total - rest) / (everything - apart), value_range)
    return BorderPsnr(borders, psnr_of(rest / apart, value_range) if rest else math.inf)


def _off_borders(axis: Axis, scale: int, length: int) -> NDArray[np.bool_]:
    """Mark the output pixels that are at least one input pixel away from every overlap of two tiles."""
    off = np.ones(length, np.bool_)
    for origin, following in itertools.pairwise(axis.origins):
        off[(following - 1) * scale : (origin + axis.tile + 1) * scale] = False
    return off
