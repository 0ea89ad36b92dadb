"""Results of earlier runs: which of them a run that makes only what is missing leaves."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import is_folder
from ..manifest import IMAGE_INPUT
from .companion_files import written_with
from .io.input_files import InputFile, matching_inputs
from .reports import RECORDED, UNRECORDED, FileState, SkippedImage, file_states, read_states
from .results_file import RESULTS_FILE, Recipe, check_ours, parsed, result_name

#: What a record says of a result's making -> the word for it.
_WORDS = {"model": "model", "options": "options", "engine": "engine", "read": "input"}


@dataclass(frozen=True)
class Existing:
    """A result that exists.

    Attributes
    ----------
    recorded
        True when the record describes this file.
    changed
        What has changed since it was made, in words: ``"model"``, ``"options"``, ``"engine"``, ``"input"``; empty where
        it would be made alike again, and where it is not recorded.
    """

    recorded: bool
    changed: tuple[str, ...] = ()


class EarlierResults:
    """The results that exist, for a run that makes only what is missing.

    Parameters
    ----------
    folder
        Folder of the results; its record is read if there is one.
    recipe
        What this run makes results with.

    Raises
    ------
    InputError
        The record cannot be read, or is another file.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self._folder, self._recipe = folder, recipe
        self._records: dict[str, dict[str, Any]] = {}
        file = folder / RESULTS_FILE
        if not is_folder(folder) or not check_ours(file):
            return
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                record = parsed(line)
                if record is not None and "written" in record:
                    self._records[record["name"]] = record

    def find(self, target: Path, read: Mapping[str, tuple[FileState, ...]]) -> Existing | None:
        """Return what is known about the result of an image; None where it does not exist, or not completely.

        Parameters
        ----------
        target
            Its file.
        read
            What it would be made of, `read_states`.
        """
        files = written_with(target)
        written = file_states(files)
        if len(written) < len(files):
            return None
        record = self._records.get(result_name(target, self._folder))
        if record is None or record["written"] != _plain(written):
            return Existing(recorded=False)
        now = {**_plain(self._recipe), "read": {name: _plain(states) for name, states in read.items()}}
        return Existing(True, tuple(word for name, word in _WORDS.items() if record.get(name) != now[name]))


def find_missing(
    wanted: Iterable[tuple[InputFile, Path]], inputs: Mapping[str, InputFile], earlier: EarlierResults
) -> tuple[list[tuple[InputFile, Path]], list[SkippedImage], Counter[str]]:
    """Find the images whose results are missing, or would not be made alike again.

    Parameters
    ----------
    wanted
        All images, with the files for their results.
    inputs
        The model's other inputs by name, as they were given.
    earlier
        What is known about the results that exist.

    Returns
    -------
    missing : list[tuple[InputFile, Path]]
        Those to restore.
    skipped : list[SkippedImage]
        Those to leave.
    changed : Counter[str]
        How many of `missing` have results, by what has changed since.
    """
    missing, skipped, changed = [], [], Counter[str]()
    for image, target in wanted:
        found = _find(image, target, inputs, earlier)
        if found is None or found.changed:
            missing.append((image, target))
            changed.update([] if found is None else [" and ".join(found.changed)])
        else:
            skipped.append(SkippedImage(str(image), str(target), RECORDED if found.recorded else UNRECORDED))
    return missing, skipped, changed


def _find(image: InputFile, target: Path, inputs: Mapping[str, InputFile], earlier: EarlierResults) -> Existing | None:
    """Return the result of an image if it exists; an input that is missing is reported when the image is planned."""
    try:
        return earlier.find(target, read_states({IMAGE_INPUT: image, **matching_inputs(image, inputs)}))
    except (InputError, OSError):
        return None


def skipped_words(skipped: Collection[SkippedImage], changed: Mapping[str, int]) -> str:
    """Return one line about the results that exist, empty where there are none.

    Parameters
    ----------
    skipped, changed
        What `find_missing` returned.
    """
    lines = []
    if skipped:
        unknown = sum(one.skipped == UNRECORDED for one in skipped)
        line = f"{_results(len(skipped))} left" + (
            f", {unknown} without a record of how they were made" if unknown else ""
        )
        lines.append(line)
    if changed:
        reasons = ", ".join(f"{words} changed ({count})" for words, count in sorted(changed.items()))
        lines.append(f"{_results(sum(changed.values()))} made again: {reasons}")
    return "; ".join(lines)


def _results(count: int) -> str:
    return "1 result exists and is" if count == 1 else f"{count} results exist and are"


def _plain(value: Recipe | tuple[FileState, ...]) -> Any:
    """Return a value as it is read from JSON."""
    plain = [dataclasses.asdict(state) for state in value] if isinstance(value, tuple) else dataclasses.asdict(value)
    return json.loads(json.dumps(plain))
