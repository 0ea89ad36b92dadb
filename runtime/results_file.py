"""The record of a folder of results, ``results.jsonl``: how each was made, and of what.

One line of JSON for each image, appended when its result is complete. The last line about a result counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DiskFullError, InputError
from ..files import is_regular, status, unwritable
from .io.encoding import DEFAULT, Encoding
from .reports import FailedImage, Report, SkippedImage
from .restore_options import RestoreOptions
from .restorer import Restorer

#: Name of the file.
RESULTS_FILE = "results.jsonl"

#: How each of its lines starts, as `as_record` and `json` write it.
_START = b'{"source": '

#: Options that do not change a result.
_WITHOUT_EFFECT = ("batch", "scratch")


@dataclass(frozen=True)
class Recipe:
    """What all results of a run are made with.

    Attributes
    ----------
    model
        `Restorer.fingerprint`.
    engine
        What runs it, `Restorer.description`.
    options
        The options that change a result, as they were given.
    """

    model: str
    engine: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, restorer: Restorer, options: RestoreOptions, encoding: Encoding = DEFAULT) -> Recipe:
        """Return the recipe of a run.

        Parameters
        ----------
        restorer
            The model.
        options
            How images are restored.
        encoding
            How results are encoded.
        """
        given = dataclasses.asdict(options)
        kept = {name: value for name, value in given.items() if name not in _WITHOUT_EFFECT}
        kept |= {"compression": encoding.compression, "pyramid": encoding.pyramid} if encoding != DEFAULT else {}
        return cls(restorer.fingerprint, restorer.description, kept)


def as_record(result: Report | FailedImage | SkippedImage, recipe: Recipe) -> dict[str, Any]:
    """Return what is recorded and printed about an image, values for JSON.

    Parameters
    ----------
    result
        What became of it.
    recipe
        What it was made with.
    """
    record = dataclasses.asdict(result)
    return record if isinstance(result, SkippedImage) else {**record, **dataclasses.asdict(recipe)}


class ResultsFile:
    """The record of a folder, open for new lines, from any thread.

    Parameters
    ----------
    folder
        The folder of the results, which exists.
    recipe
        What this run makes results with.

    Raises
    ------
    InputError
        There is another file or something else of this name, or it cannot be written.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.path = folder / RESULTS_FILE
        self._folder, self._recipe = folder, recipe
        self._lock = threading.Lock()
        check_ours(self.path)
        try:
            self._file: BinaryIO = open(self.path, "a+b", buffering=0)  # noqa: SIM115 - closed by `close`
            _cut_torn_line(self._file)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def append(self, result: Report | FailedImage) -> None:
        """Record what became of an image.

        Raises
        ------
        InputError
            The line of a result cannot be written, `DiskFullError` where the disk is full. That of a failure is then
            left out.
        """
        record = as_record(result, self._recipe)
        if isinstance(result, Report):
            record["name"] = result_name(Path(result.target), self._folder)
        with self._lock:
            try:
                self._write(json.dumps(record).encode() + b"\n")
            except DiskFullError:
                if isinstance(result, Report):
                    raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: bytes) -> None:
        """Write a line whole or not at all, as far as a full disk is concerned."""
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) < len(line):
                self._file.write(line)  # Raises what the reason is.
                raise OSError
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            raise unwritable(self.path, error) from error


def result_name(target: Path, folder: Path) -> str:
    """Return a result's name in the record: its path below the folder of the results."""
    return target.relative_to(folder).as_posix() if target.is_relative_to(folder) else target.as_posix()


def check_ours(file: Path) -> bool:
    """Return whether a record exists.

    Raises
    ------
    InputError
        Something else has its name, or it cannot be read.
    """
    if status(file) is None:
        return False
    if not is_regular(file):
        raise InputError(f"{file} is no regular file, and the results are recorded there; choose another folder")
    try:
        with file.open("rb") as content:
            first = content.read(len(_START))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}; it is the record of the results") from error
    if first and not first.startswith(_START):
        raise InputError(
            f"{file} is no record of results of keygraph's, and one would be written there; move it away, or choose "
            "another folder"
        )
    return True


def parsed(line: str) -> dict[str, Any] | None:
    """Return a line of the record; None for one that was cut off, or is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("source"), str) or "model" not in record:
        return None
    if "written" in record and not isinstance(record.get("name"), str):
        return None
    return record


def _cut_torn_line(file: BinaryIO) -> None:
    """Remove the end of a line that was cut off by a crash, so that the next line is whole."""
    end = file.seek(0, os.SEEK_END)
    position = end
    while position > 0:
        start = max(0, position - (1 << 16))
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position < end:
        file.truncate(position)
