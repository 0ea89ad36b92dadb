"""What became of an image: restored, failed, or left as it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import KeygraphError, printable
from .companion_files import read_with
from .io.input_files import InputFile

#: Why a result is left: the record describes it and it would be made alike again; it exists.
RECORDED = "recorded"
UNRECORDED = "not recorded"


@dataclass(frozen=True)
class FileState:
    """By what a later change of a file is noticed.

    Attributes
    ----------
    bytes
        Its size; of a folder, that of all files below it.
    modified
        Time of its last change in ns since 1970; of a folder, the latest below it.
    """

    bytes: int
    modified: int


@dataclass(frozen=True)
class Report:
    """How one file was restored.

    Attributes
    ----------
    source, target
        The files.
    height, width
        Size of the restored image in pixels, after the EXIF orientation is applied.
    k
        Neighbours of each node; None for a model without a key graph.
    tiles, tile, overlap, batch
        Number of tiles, their height and width, their least overlap, and how many ran together.
    padded
        True when the image was padded by reflection to the model's `size_multiple`, and cropped.
    sweeps
        Sweeps over the tiles for the exact result; 0 for a whole image and for blended tiles.
    seconds
        Time of the restoration, without reading and writing.
    engine
        What ran.
    notices
        Everything that was lost, or done otherwise than asked.
    read
        What was read, before it was; see `read_states`. Of several images only.
    written
        The files of the result, of several images only.
    """

    source: str
    target: str
    height: int
    width: int
    k: int | None
    tiles: int
    tile: tuple[int, int]
    overlap: int
    batch: int
    padded: bool
    sweeps: int
    seconds: float
    engine: str
    notices: tuple[str, ...]
    read: Mapping[str, tuple[FileState, ...]] = field(default_factory=dict)
    written: tuple[FileState, ...] = ()


@dataclass(frozen=True)
class FailedImage:
    """An image that is not restored.

    Attributes
    ----------
    source
        The file.
    error
        Why not, in one line that names the file.
    """

    source: str
    error: str

    @classmethod
    def of(cls, image: InputFile, error: Exception) -> FailedImage:
        """Return the failure that an exception means for an image."""
        source = printable(str(image))
        if isinstance(error, KeygraphError):
            message = str(error)
        else:
            kind = "out of memory" if isinstance(error, MemoryError) else f"unexpected {type(error).__name__}: {error}"
            message = f"{source}: {kind} (--fail-fast --debug shows where)"
        message = printable(" ".join(message.split()))
        return cls(str(image), message if printable(str(image.path)) in message else f"{source}: {message}")


@dataclass(frozen=True)
class SkippedImage:
    """An image whose result exists and is left.

    Attributes
    ----------
    source, target
        The files.
    skipped
        Why: `RECORDED` or `UNRECORDED`.
    """

    source: str
    target: str
    skipped: str


def read_states(inputs: Mapping[str, InputFile]) -> dict[str, tuple[FileState, ...]]:
    """Return the states of all files that are read for an image.

    Parameters
    ----------
    inputs
        The files by input: ``"image"`` and the model's others.

    Returns
    -------
    dict[str, tuple[FileState, ...]]
        By input; where an array or a page of a file was chosen, by ``"image:2"``.
    """
    return {
        name if file.variable is None else f"{name}:{file.variable}": file_states(read_with(file.path))
        for name, file in inputs.items()
    }


def file_states(paths: Iterable[Path]) -> tuple[FileState, ...]:
    """Return the states of those files or folders that exist."""
    states = []
    for path in paths:
        found = [path]
        if os.path.isdir(path):
            found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        existing = [file.stat() for file in found if os.path.exists(file)]
        if existing:
            latest = max(one.st_mtime_ns for one in existing)
            states.append(FileState(sum(one.st_size for one in existing), latest))
    return tuple(states)
