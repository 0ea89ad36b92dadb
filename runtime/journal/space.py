"""Which results are kept on disk while they are computed, and the space that they need."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..tiling.blend import Plan

#: A picture with at least this many pixels is kept on disk while it is computed in tiles. Such a picture takes seconds
#: even on a GPU; what is kept takes a small part of that.
KEPT_PIXELS = 2048 * 2048


@dataclass(frozen=True)
class Space:
    """Bytes on disk for a picture that is restored through files.

    Attributes
    ----------
    beside
        Beside the result: its samples, and tiles that are needed to go on.
    scratch
        In the folder for scratch files: the decoded picture, and the result's samples when they are encoded.
    """

    beside: int
    scratch: int


def space_for(
    plan: Plan,
    scale: int,
    image: tuple[int, int, int],
    image_type: np.dtype[Any],
    result: tuple[int, int, int],
    result_type: np.dtype[Any],
) -> Space | None:
    """Return the space for a picture that is restored in tiles; None for a small one, which is kept in memory.

    Parameters
    ----------
    plan, scale
        The tiles, and pixels of the result per pixel of the image.
    image, image_type
        Height, width, channels and type of the image.
    result, result_type
        The same of the result.
    """
    height, width, channels = result
    if height * width < KEPT_PIXELS:
        return None
    samples = height * width * channels * result_type.itemsize
    tile = plan.rows.tile * plan.columns.tile * scale**2 * channels * np.dtype(np.float32).itemsize
    decoded = image[0] * image[1] * image[2] * image_type.itemsize
    return Space(samples + plan.needed * tile, decoded + samples)


def folder_of(target: Path) -> Path:
    """Return the folder for a result: beside it, hidden, and with a short name, whatever the result is called."""
    return target.with_name(f".keygraph-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.partial")


def occupied(target: Path) -> int:
    """Return the bytes on disk that an earlier run of a result's job holds."""
    try:
        return sum(entry.stat().st_blocks * 512 for entry in os.scandir(folder_of(target)))
    except OSError:
        return 0


def on_one_disk(first: Path, second: Path) -> bool:
    """Return whether two folders, or their nearest parents that exist, are on one disk."""
    return _disk(first) == _disk(second)


def _disk(folder: Path) -> int:
    absolute = folder.absolute()
    return next(place.stat().st_dev for place in (absolute, *absolute.parents) if os.path.exists(place))
