"""The memory that a request takes of a budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .backends.base import Session
from .device.budget import MemoryBudget
from .io.regions import ArrayWriter, RegionWriter
from .preprocess.request import Request
from .tiling.tile_size import TileChoice
from .tiling.whole_image import fitted_to_budget, run_bytes

#: Copies of a row of tiles, in float32, that are in memory while it is blended and converted to samples.
_ROW_COPIES = 4


@contextlib.contextmanager
def reserved(
    budget: MemoryBudget | None,
    session: Session,
    request: Request,
    writer: RegionWriter,
    choice: TileChoice,
    check: Callable[[], None],
) -> Iterator[TileChoice]:
    """Hold the memory for a request inside the block, which gets tiles that fit into the budget.

    Parameters
    ----------
    budget
        None for no limit.
    session
        The session that restores the image.
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
    if budget is None:
        yield choice
        return
    manifest, channels = session.manifest, request.channels
    result = writer.values.nbytes if isinstance(writer, ArrayWriter) else 0
    of_a_row = _ROW_COPIES * 4 * channels.channels * request.width * manifest.scale**2

    def need(tiles: TileChoice) -> int:
        return result + of_a_row * tiles.tile[0] + run_bytes(manifest, session, tiles, channels.planes)

    fitting, wanted = fitted_to_budget(manifest, (request.height, request.width), choice, need, budget.size)
    with budget.reserve(wanted, check):
        yield fitting
