"""The driver's stand-in for the sessions of the workers: it knows the model, and lets them restore its tiles."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

import numpy as np
import ray
from numpy.typing import NDArray

from ..errors import KeygraphError
from ..files import check_space
from ..manifest import Manifest, from_json
from ..runtime.journal.job_folder import JobFolder
from ..runtime.journal.part_file import Part
from ..runtime.preprocess.request import Request
from ..runtime.tiling.checkpoint import Checkpoint
from ..runtime.tiling.progress import Progress
from ..runtime.tiling.run import tiles_together
from ..runtime.tiling.tile_size import TileChoice
from .worker import Description, Outcome
from .workers import Workers

#: Tiles of one call: enough to keep a GPU busy for a second, and few to do again when a worker dies.
_PART_TILES = 64

#: At the least so many calls for each worker, so that all end at about the same time.
_PARTS_EACH = 4


class RemoteSession:
    """A session whose tiles are restored by workers. Implements `Session` and `TileSession`.

    Parameters
    ----------
    workers
        Who restores.
    described
        Their session.
    """

    def __init__(self, workers: Workers, described: Description) -> None:
        self._workers, self._described = workers, described
        self._manifest = from_json(described.manifest, "the workers' model")
        self.content, self.device = described.content, described.device
        self.streams, self.runs_library = described.streams, described.runs_library

    @property
    def manifest(self) -> Manifest:
        """See `Session.manifest`."""
        return self._manifest

    @property
    def description(self) -> str:
        """See `Session.description`."""
        return self._described.description

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raise an error: workers get the paths of images, and no pixels."""
        raise KeygraphError("this session restores parts of pictures on disk only")

    def kept_tiles(
        self,
        request: Request,
        choice: TileChoice,
        k: int | None,
        progress: Progress | None,
        checkpoint: Checkpoint | None,
        first: int,
    ) -> Iterator[NDArray[np.float32]]:
        """See `TileSession.kept_tiles`. The checkpoint is a `JobFolder`, in which the workers write part files.

        Parts may end in any order; the workers are ahead of the tile that is needed next by a bounded number of parts.
        """
        assert isinstance(checkpoint, JobFolder)
        count = choice.plan.count
        size = part_size(count, tiles_together(choice, request.channels.planes), len(self._workers))
        ahead = size * self._workers.most_calls
        height, width = choice.plan.rows.tile, choice.plan.columns.tile
        of_a_tile = 4 * request.channels.channels * height * width * self._manifest.scale**2
        check_space(checkpoint.folder, min(ahead, count) * of_a_tile, "tiles in work need")
        folder, shared = checkpoint.folder.absolute(), ray.put(request)
        running: dict[int, Future[Outcome[Part]]] = {}
        following = first // size * size
        done = first + sum(map(checkpoint.has, range(first, count)))

        def start(part: int) -> None:
            end = min(part + size, count)
            running[part] = self._workers.submit("restore_part", folder, shared, choice, k, part, end)

        def take_finished() -> None:
            """Wait for a part, and record all that have ended."""
            nonlocal done
            wait(running.values(), return_when=FIRST_COMPLETED)
            for part in [part for part, future in running.items() if future.done()]:
                finished = running.pop(part).result().result()
                checkpoint.add_part(finished)
                done += len(finished.checksums)
            if progress is not None:
                progress(min(done, count), count)

        try:
            for tile in range(first, count):
                while following < min(tile + ahead, count):
                    if not all(map(checkpoint.has, range(max(first, following), min(following + size, count)))):
                        start(following)
                    following += size
                while (values := checkpoint.load(tile) if checkpoint.has(tile) else None) is None:
                    if (part := tile // size * size) not in running:  # What is kept of it is damaged.
                        for one in range(part, min(part + size, count)):
                            checkpoint.forget(one)
                        start(part)
                    take_finished()
                yield values
        finally:
            for future in running.values():
                future.cancel()


def part_size(tiles: int, together: int, workers: int) -> int:
    """Return the tiles of a part: whole batches, about `_PART_TILES`, or fewer so that all workers have some.

    Parameters
    ----------
    tiles
        Tiles of the picture.
    together
        Tiles of a batch.
    workers
        Number of workers.
    """
    wanted = min(_PART_TILES, max(1, tiles // (_PARTS_EACH * workers)))
    return max(1, round(wanted / together)) * together
