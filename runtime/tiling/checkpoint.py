"""What tiled inference keeps of its work, so that a run that was stopped can go on."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import SessionMemoryError
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
