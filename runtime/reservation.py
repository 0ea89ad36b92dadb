"""The memory budget of a session, and what a request takes of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

from .backends.base import Session
from .device.budget import MemoryBudget
from .io.regions import ArrayWriter, RegionWriter
from .preprocess.request import Request
from .tiling.run_memory import measured_bytes_per_pixel
from .tiling.tile_size import TileChoice
from .tiling.whole_image import (
    NO_LIMIT,
    fitted_to_budget,
    on_cpu,
    pixels_at_a_time,
    run_bytes_per_pixel,
    transfer_bytes_per_pixel,
)

#: Copies of a row of tiles, in float32, that are in memory while it is blended and converted to samples.
_ROW_COPIES = 4


class SessionBudget:
    """A budget of memory that the calls of one session share.

    What its runs take is measured now, by a few small runs; where that is not possible, it is assumed.

    Parameters
    ----------
    session
        The session.
    size
        Bytes; None for no limit: nothing is measured or held.
    """

    def __init__(self, session: Session, size: int | None) -> None:
        self._session = session
        self._budget = None if size is None else MemoryBudget(size)
        self._per_pixel = math.nan if size is None else _bytes_per_pixel(session)

    @property
    def run_pixels(self) -> int:
        """Most pixels of one run that the budget allows."""
        return NO_LIMIT if self._budget is None else int(self._budget.size / self._per_pixel)

    @contextlib.contextmanager
    def reserved(
        self, request: Request, writer: RegionWriter, choice: TileChoice, check: Callable[[], None]
    ) -> Iterator[TileChoice]:
        """Hold the memory for a request inside the block, which gets tiles that fit into the budget.

        Parameters
        ----------
        request
            The image.
        writer
            Takes the result; one in memory is counted.
        choice
            The tiles, as they are without a budget.
        check
            As for `MemoryBudget.reserve`.

        Raises
        ------
        InputError
            As `fitted_to_budget`.
        """
        if self._budget is None:
            yield choice
            return
        session, channels = self._session, request.channels
        manifest = session.manifest
        result = writer.values.nbytes if isinstance(writer, ArrayWriter) else 0
        of_a_row = _ROW_COPIES * 4 * channels.channels * request.width * manifest.scale**2

        def need(tiles: TileChoice) -> int:
            pixels = pixels_at_a_time(manifest, session, tiles, channels.planes)
            return result + of_a_row * tiles.tile[0] + math.ceil(pixels * self._per_pixel)

        size = (request.height, request.width)
        fitting = fitted_to_budget(manifest, size, choice, need, self._budget.size)
        with self._budget.reserve(need(fitting), check):
            yield fitting


def _bytes_per_pixel(session: Session) -> float:
    """Return the bytes of host memory to allow for each pixel of a run."""
    manifest = session.manifest
    measured = measured_bytes_per_pixel(session) if on_cpu(session) else None
    if measured is None:
        return run_bytes_per_pixel(manifest, session)
    return max(measured, transfer_bytes_per_pixel(manifest))
