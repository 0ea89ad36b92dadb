"""What a restoration gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from .tiling.blend import Plan


@dataclass(frozen=True)
class Restored:
    """A restored image, and how it was computed.

    Attributes
    ----------
    image
        [H * scale, W * scale] or [H * scale, W * scale, C], where the given image is larger than H x W by the model's
        margin; in another layout if the given image has one, with its alpha. A NumPy array, whatever was given. Of the
        given type, but float32 for spectra (`normalization.result_type`).
    k
        Neighbours of each node; None for a model without a key graph.
    plan
        The tiles; ``plan.count == 1`` for a whole image. Exact tiles are listed without their halos.
    tile
        Height and width of a tile in pixels, with the halo of an exact one.
    overlap
        Least overlap of two tiles in pixels, with the halos of exact ones; 0 for a whole image.
    batch
        Tiles that ran together.
    padded
        True when the image was padded by reflection to the model's `size_multiple`, and cropped.
    sweeps
        Sweeps over the tiles for the exact result; 0 where tiles were blended, and for a whole image.
    notices
        Lines to show to the user.
    """

    image: NDArray[Any]
    k: int | None
    plan: Plan
    tile: tuple[int, int]
    overlap: int
    batch: int
    padded: bool
    sweeps: int
    notices: tuple[str, ...]
