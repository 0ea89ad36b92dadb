"""The options of one restoration."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ..errors import InputError
from ..manifest import Manifest
from .backends.base import resolve_k


class RestoreKeywords(TypedDict, total=False):
    """The fields of `RestoreOptions` as keyword arguments of `Restorer`, for type checkers; `k` is its own argument."""

    tile: int | str
    overlap: int | str
    batch: int | None
    global_statistics: str | None
    scratch: str | os.PathLike[str] | None


@dataclass(frozen=True)
class RestoreOptions:
    """How an image is restored.

    Attributes
    ----------
    k
        Neighbours of each node, from 1 to the nodes of a window; None for the model's default.
    tile
        Side of the tiles in pixels, a multiple of the model's `size_multiple`; ``"none"`` for the whole image at once;
        ``"auto"`` chooses, and takes smaller tiles when memory runs out. A tile given as a number is never changed.
    overlap
        Least overlap of neighbouring tiles in pixels, a multiple of `size_multiple`, at most half a tile; or
        ``"auto"``.
    batch
        Tiles that run together, at least 1; None chooses. It does not change the result, and is halved when memory
        runs out.
    global_statistics
        For a model with statistics over the whole image, where the image is tiled. ``"exact"``: the result of the whole
        image, computed in several sweeps over the tiles with feature maps on disk in between. ``"tile"``: each tile is
        treated as a whole image. None: exact where the session supports it.
    scratch
        Folder for feature maps, and for large pictures that are on disk meanwhile; None for the system's temporary
        folder, and for the feature maps of large pictures that of the result, where they survive a stop.

    Raises
    ------
    InputError
        `global_statistics` is not one of its values.
    """

    k: int | None = None
    tile: int | str = "auto"
    overlap: int | str = "auto"
    batch: int | None = None
    global_statistics: str | None = None
    scratch: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.global_statistics not in (None, "exact", "tile"):
            raise InputError(f"global statistics are {self.global_statistics!r}; give exact or tile")

    def check(self, manifest: Manifest) -> None:
        """Check what a model must support; `tile_size.choose` checks tile, overlap and batch for an image's size.

        Raises
        ------
        InputError
            The model does not take this k, or has no global statistics.
        """
        resolve_k(manifest, self.k)
        if self.global_statistics is not None and not manifest.global_statistics:
            raise InputError(
                f"this model ({manifest.architecture}) takes no statistics over the whole image, so tiles need no "
                "other way; leave --global-statistics out"
            )

    @property
    def scratch_folder(self) -> Path:
        """Where feature maps and large pictures are stored."""
        return Path(tempfile.gettempdir() if self.scratch is None else self.scratch)
