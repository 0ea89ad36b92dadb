"""The folder in which the work done for one result is kept until the result is complete."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...files import unwritable
from ..io.scratch_file import ScratchFile
from ..tiling.blend import Axis, Plan
from ..tiling.tile_size import TileChoice
from .kept_sweeps import KeptSweeps
from .part_file import Part, part_path, read_tile
from .record_file import RecordFile
from .space import folder_of

#: Format of the folder; another one is refused.
FORMAT = 1

#: Kinds of records: the job, its tiles, a saved tile, a part file, a committed row of tiles, a sweep of exact tiles.
_JOB, _CHOICE, _TILE, _PART, _ROW, _SWEEP = "job", "tiles", "tile", "part", "row", "sweep"

#: Files in the folder.
_JOURNAL, _RESULT, _TILES = "journal", "result", "tiles"

#: Digits of a SHA-256.
_DIGEST = 64

#: Rows that are read at a time to check what an earlier run wrote.
_STRIP_ROWS = 64


def require_none(target: Path) -> None:
    """Check that no run with other options has left work for a result that is not kept itself.

    Parameters
    ----------
    target
        File for the result.

    Raises
    ------
    InputError
        One has.
    """
    if folder_of(target).exists():
        raise InputError(
            f"{target}: a run with other options was stopped, or is still at work; {_advice(folder_of(target))}"
        )


class JobFolder:
    """Keeps the work done for one result. Implements `tiling.checkpoint.Checkpoint` and `io.regions.RegionWriter`.

    The folder holds the samples of the result as far as they are complete (``result``), the restored tiles that share
    pixels with what is missing (``tiles``; ``part-N`` where several processes restore), the feature maps of exact tiles
    (``map-N-...``), and the journal: what job it is, and a checksum for all of these. Samples reach the disk before the
    journal's record of them does. What has no record, or another checksum than its record, is computed again.

    Parameters
    ----------
    target
        File for the result.
    identity
        What the samples of the result depend on, by name; values are JSON.
    size
        Height, width and channels of the result.
    dtype
        Type of its samples.
    scale
        Pixels of the result per pixel of the image.

    Attributes
    ----------
    folder
        The folder.
    result
        The samples of the result.
    sweeps
        See `Checkpoint.sweeps`.
    damaged
        True when what an earlier run wrote is not as it wrote it; it counts as not done.

    Raises
    ------
    InputError
        Another process writes this result, the folder cannot be written, or an earlier run had another identity.
    """

    def __init__(
        self, target: Path, identity: Mapping[str, Any], size: tuple[int, int, int], dtype: np.dtype[Any], scale: int
    ) -> None:
        self.folder = folder_of(target)
        self._target, self._height, self._scale = target, size[0], scale
        self._choice: TileChoice | None = None
        self._rows: list[int] = []  # The checksum of each committed row of tiles.
        self._saved: dict[int, tuple[int, list[int]]] = {}  # Tile -> checksum and shape.
        self._parts: dict[int, Part] = {}  # Tile -> the part file that holds it.
        self._crc = 0
        self.sweeps = KeptSweeps(self.folder, self._append_sweep)
        with contextlib.ExitStack() as opened:
            try:
                self.folder.mkdir(exist_ok=True)
                self._records = opened.enter_context(contextlib.closing(RecordFile(self.folder / _JOURNAL)))
                self._replay(self._records.read(), {"format": FORMAT, **identity})
                self._tiles = os.open(self.folder / _TILES, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                opened.callback(os.close, self._tiles)
            except BlockingIOError as error:
                raise InputError(
                    f"{target} is being restored by another process; wait for it, or choose another place with -o"
                ) from error
            except OSError as error:
                raise unwritable(target, error) from error
            self.result = opened.enter_context(contextlib.closing(ScratchFile(self.folder, *size, dtype, name=_RESULT)))
            self.damaged = self._drop_damaged() | self.sweeps.forget_damaged()
            self._opened = opened.pop_all()

    @property
    def choice(self) -> TileChoice | None:
        """See `Checkpoint.choice`."""
        return self._choice

    @property
    def begun(self) -> bool:
        """True when there is work that would be lost with the folder."""
        return bool(self._rows or self._saved or self._parts or self.sweeps.done)

    @property
    def done(self) -> int:
        """Rows of pixels of the result that are complete."""
        return self._row_end(len(self._rows) - 1) if self._rows else 0

    @property
    def position(self) -> str:
        """How far the job is, in words."""
        return f"sweep {self.sweeps.done + 1}" if self.sweeps.done else f"row {self.done} of {self._height}"

    def start(self, choice: TileChoice) -> int:
        """See `Checkpoint.start`."""
        if choice != self._choice:
            self._take(choice)
            self._append([_CHOICE, dataclasses.asdict(choice)])
        self._crc = 0
        return len(self._rows)

    def load(self, tile: int) -> NDArray[np.float32] | None:
        """See `Checkpoint.load`."""
        if tile not in self._saved:
            return read_tile(self.folder, self._parts[tile], tile) if tile in self._parts else None
        crc, shape = self._saved[tile]
        values = np.empty(shape, np.float32)
        view = memoryview(cast(Any, values)).cast("B")
        # Another tile may have replaced it: then its checksum differs.
        found = os.preadv(self._tiles, [view], self._slot(tile) * values.nbytes)
        return values if found == values.nbytes and zlib.crc32(view) == crc else None

    def save(self, tile: int, values: NDArray[np.float32]) -> None:
        """See `Checkpoint.save`."""
        values = np.ascontiguousarray(values)
        view, place = memoryview(cast(Any, values)).cast("B"), self._slot(tile) * values.nbytes
        crc = zlib.crc32(view)
        try:
            while view:
                count = os.pwrite(self._tiles, view, place)
                view, place = view[count:], place + count
        except OSError as error:
            raise unwritable(self._target, error) from error
        self._saved[tile] = crc, list(values.shape)
        self._append([_TILE, tile, *self._saved[tile]])

    def has(self, tile: int) -> bool:
        """Return whether a tile is kept; `load` may still find it damaged."""
        return tile in self._saved or tile in self._parts

    def add_part(self, part: Part) -> None:
        """Keep the tiles of a part file in the folder until no later row of tiles shares a pixel with them."""
        self._append([_PART, dataclasses.asdict(part)])
        self._take_part(part)

    def forget(self, tile: int) -> None:
        """Forget a tile that is damaged."""
        self._saved.pop(tile, None)
        self._parts.pop(tile, None)

    def write(self, top: int, left: int, values: NDArray[Any]) -> None:
        """Write a part of the result; see `RegionWriter.write`.

        Rows of blended tiles are written from top to bottom and in full width, so that each has a checksum.

        Parameters
        ----------
        top, left
            Where it goes, in pixels.
        values
            [height, width, C]
        """
        values = np.ascontiguousarray(values, self.result.dtype)
        self.result.write(top, left, values)
        self._crc = zlib.crc32(memoryview(cast(Any, values)).cast("B"), self._crc)

    def commit(self) -> None:
        """See `Checkpoint.commit`."""
        try:
            os.fdatasync(self.result.fileno())
            self._append([_ROW, len(self._rows), self._crc])
            self._records.sync()
        except OSError as error:
            raise unwritable(self._target, error) from error
        self._rows.append(self._crc)
        self._crc = 0
        self._remove_parts()

    def close(self) -> None:
        """Close the files; the folder stays where work would be lost with it, for a later run."""
        if not self.begun:
            self.remove()
        self._opened.close()

    def remove(self) -> None:
        """Remove the folder: the result is complete."""
        # Under the lock. The journal goes first: without it nothing else counts.
        (self.folder / _JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _replay(self, records: list[Any], identity: Mapping[str, Any]) -> None:
        """Take over what an earlier run recorded, if it was of the same job."""
        now = json.loads(json.dumps(identity, default=int))
        for kind, *values in records[1:]:
            if kind == _CHOICE:
                self._take(_choice_from(*values))
            elif kind == _TILE:
                tile, crc, shape = values
                self._saved[tile] = crc, shape
            elif kind == _PART:
                (part,) = values
                self._take_part(Part(part["first"], tuple(part["shape"]), tuple(part["checksums"])))
            elif kind == _SWEEP:
                self.sweeps.replay(values)
            else:
                row, crc = values
                self._rows[row:] = [crc]
        if not self.begun:
            self._choice = None
            self._records.clear()
            self._records.append([_JOB, now])
            return
        before = records[0][1]
        if before != now:
            differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
            changed = " and ".join(_change(name, before.get(name), now.get(name)) for name in differing)
            raise InputError(
                f"{self._target}: a run that was stopped at {self.position} had {changed}; {_advice(self.folder)}"
            )

    def _take(self, choice: TileChoice) -> None:
        """Set the tiles, and forget what was done with others; another batch is no other tile."""
        if self._choice is None or dataclasses.replace(choice, batch=self._choice.batch) != self._choice:
            self._rows, self._saved, self._parts = [], {}, {}
            self.sweeps.forget()
        self._choice = choice

    def _take_part(self, part: Part) -> None:
        self._parts.update(dict.fromkeys(range(part.first, part.end), part))

    def _remove_parts(self) -> None:
        """Remove the part files whose tiles share no pixel with what is missing."""
        assert self._choice is not None
        axis, rows = self._choice.plan.rows, len(self._rows)
        needed = axis.first_overlapping(min(rows, len(axis.origins) - 1)) * len(self._choice.plan.columns.origins)
        for part in {part for part in self._parts.values() if part.end <= needed}:
            part_path(self.folder, part.first).unlink(missing_ok=True)
            for tile in range(part.first, part.end):
                self._parts.pop(tile, None)

    def _drop_damaged(self) -> bool:
        """Forget rows of tiles from the first one on whose samples differ from its checksum; return whether any do."""
        intact = 0
        while intact < len(self._rows) and self._checksum_of(intact) == self._rows[intact]:
            intact += 1
        damaged = intact < len(self._rows)
        del self._rows[intact:]
        return damaged

    def _append(self, record: Any) -> None:
        try:
            self._records.append(record)
        except OSError as error:
            raise unwritable(self._target, error) from error

    def _append_sweep(self, values: list[Any]) -> None:
        self._append([_SWEEP, *values])
        self._records.sync()

    def _slot(self, tile: int) -> int:
        """Return the place of a tile: tiles that share no pixel with what is missing are replaced by later ones."""
        assert self._choice is not None
        return tile % self._choice.plan.needed

    def _row_end(self, row: int) -> int:
        """Return where the pixels end that a row of tiles completes."""
        assert self._choice is not None
        rows = self._choice.plan.rows
        return min(self._height, [*rows.origins[1:], rows.length][row] * self._scale)

    def _checksum_of(self, row: int) -> int | None:
        """Return the checksum of the pixels that a row of tiles completes, or None where there are none."""
        start, end = self._row_end(row - 1) if row else 0, self._row_end(row)
        crc = 0
        try:
            for top in range(start, end, _STRIP_ROWS):
                strip = self.result.read(top, 0, min(_STRIP_ROWS, end - top), self.result.shape[1])
                crc = zlib.crc32(memoryview(cast(Any, strip)).cast("B"), crc)
        except EOFError:
            return None
        return crc


def _choice_from(values: dict[str, Any]) -> TileChoice:
    """Return the tiles of a record."""
    rows, columns = (
        Axis(axis["length"], axis["tile"], tuple(axis["origins"]))
        for axis in (values["plan"]["rows"], values["plan"]["columns"])
    )
    return TileChoice(**{**values, "plan": Plan(rows, columns), "tile": tuple(values["tile"])})


def _advice(folder: Path) -> str:
    return f"give the command of that run to go on, or begin anew after: rm -r {shlex.quote(str(folder))}"


def _change(name: str, before: Any, now: Any) -> str:
    """Return in words what changed; digests are not shown."""
    if any(isinstance(value, str) and len(value) == _DIGEST for value in (before, now)):
        return f"another {name}"
    return f"{name} {before!r} (now {now!r})"
