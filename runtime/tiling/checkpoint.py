"""What tiled inference keeps of its work, so that a run that was stopped can go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import SessionMemoryError
from ..io.scratch_file import ScratchFile
from .tile_size import TileChoice


class Checkpoint(Protocol):
    """Keeps restored tiles, and how many rows of tiles have been written.

    Tiles are saved in the order in which they are blended; a row of tiles is committed when all the pixels that it
    completes have been written.
    """

    @property
    def choice(self) -> TileChoice | None:
        """The tiles of an earlier run, which must be used again for the same result; None for no such run."""

    @property
    def begun(self) -> bool:
        """True when there is work that would be lost with other tiles."""

    def start(self, choice: TileChoice) -> int:
        """Begin, or go on, with one choice of tiles.

        Parameters
        ----------
        choice
            The tiles. What was kept of other tiles is forgotten; a smaller batch is no other tile.

        Returns
        -------
        int
            Number of rows of tiles that are committed.
        """

    def load(self, tile: int) -> NDArray[np.float32] | None:
        """Return a saved tile, or None where it is missing or damaged.

        Parameters
        ----------
        tile
            Its place in `Plan.tiles`.
        """

    def save(self, tile: int, values: NDArray[np.float32]) -> None:
        """Keep a tile until no later row of tiles shares a pixel with it.

        Parameters
        ----------
        tile
            Its place in `Plan.tiles`.
        values
            float32[C, h, w], as `blend` takes it.
        """

    def commit(self) -> None:
        """Make sure that what was written of the next row of tiles survives, and count the row as done."""

    @property
    def sweeps(self) -> SweepCheckpoint:
        """What is kept of exact tiles, which have no rows; `start` is called for them, too."""


class SweepCheckpoint(Protocol):
    """Keeps what the sweeps of exact tiles have found."""

    def plane(self, number: int) -> PlaneCheckpoint:
        """Return what is kept of one plane of the image, which is restored by itself."""


class PlaneCheckpoint(Protocol):
    """Keeps the statistics and feature maps of one plane, sweep by sweep.

    Attributes
    ----------
    folder
        Where the maps are.
    """

    folder: Path

    @property
    def done(self) -> int:
        """Number of complete sweeps."""

    @property
    def statistics(self) -> dict[str, NDArray[Any]]:
        """What they found over the whole image, by name."""

    def map(self, name: str, height: int, width: int, channels: int, dtype: np.dtype[Any]) -> ScratchFile:
        """Return the file of a feature map: an earlier run's, or a new one.

        Parameters
        ----------
        name
            Of the map.
        height, width, channels, dtype
            Its shape and type.
        """

    def commit(self, statistics: Mapping[str, NDArray[Any]], maps: Mapping[str, ScratchFile]) -> None:
        """Make sure that the next sweep's work survives, and count it as complete.

        Parameters
        ----------
        statistics
            What it found.
        maps
            The maps that later sweeps read, this one's and those before it. All others may be removed.
        """


def require_kept_tiles(checkpoint: Checkpoint | None, choice: TileChoice, less: TileChoice, reason: str) -> None:
    """Check that a choice of less memory loses no work that is done.

    Parameters
    ----------
    checkpoint
        None where nothing is kept.
    choice, less
        The tiles so far, and those of less memory.
    reason
        Why less memory is needed.

    Raises
    ------
    SessionMemoryError
        There is work that would be lost with other tiles.
    """
    if checkpoint is not None and checkpoint.begun and less.tile != choice.tile:
        raise SessionMemoryError(
            f"{reason}, and smaller tiles would lose the work that is done; free or allow more memory, then give the "
            "same command to go on"
        )
