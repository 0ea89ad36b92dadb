"""Saved runs: inputs and results in a folder, from which a run can be repeated."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...files import atomic_folder, is_folder, is_regular
from ...manifest import IMAGE_INPUT
from ..inputs import Sample
from ..results import ComparedImage, Run
from .baseline import read_run

#: The file by which a folder is recognised as a saved run, and the subfolder of its arrays.
RUN, INPUTS = "run.json", "inputs"

#: Name of a clean image among the arrays of a sample. No model input has this name.
_CLEAN = "(clean)"


@dataclass(frozen=True)
class SavedRun:
    """A run read from a folder.

    Attributes
    ----------
    models
        Specifications of the candidates and, last, the reference; see `sides.spec.parse_spec`.
    samples
        The inputs.
    settings
        See `Run.settings`.
    result
        The run in its JSON form, see `Run.as_json`.
    changed
        What was changed in the folder since it was saved, one line each.
    """

    models: tuple[str, ...]
    samples: tuple[Sample, ...]
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    changed: tuple[str, ...] = ()


def check_folder(folder: Path) -> None:
    """Check that a run can be saved in a folder. Only an earlier run is ever replaced.

    Raises
    ------
    InputError
        The folder holds something else, also beside an earlier run, or cannot be created.
    """
    if is_regular(folder) or (is_folder(folder) and any(folder.iterdir()) and not is_regular(folder / RUN)):
        raise InputError(f"{folder} exists and is not a saved run; give a new folder, or an earlier run to replace")
    if other := _other_content(folder):
        raise InputError(f"{folder} holds {other}, which is no part of the saved run there; give a new folder")
    if not is_folder(folder.absolute().parent):
        raise InputError(f"cannot create {folder}: the folder {folder.parent} does not exist; create it first")


def _other_content(folder: Path) -> str:
    """Return the name of something in the folder of a saved run that is not its own; empty if there is nothing."""
    if not folder.is_dir():
        return ""
    own = {folder / RUN, folder / INPUTS}
    others = [path for path in folder.iterdir() if path not in own]
    others += [path for path in (folder / INPUTS).glob("*") if path.suffix != ".npy" or not path.is_file()]
    return str(others[0].relative_to(folder)) if others else ""


def save(folder: str | os.PathLike[str], run: Run) -> None:
    """Save a run whose images were kept. The folder is written beside its place and renamed.

    Raises
    ------
    InputError
        The folder cannot be written, or exists and is not an earlier run.
    """
    target = Path(folder)
    check_folder(target)
    with atomic_folder(target) as temporary:
        (temporary / INPUTS).mkdir()
        low, high = run.comparisons[0].reference.manifest.value_range
        samples = [_store(temporary, index, image, low, high) for index, image in enumerate(run.images)]
        text = json.dumps(run.as_json() | {"samples": samples}, indent=1, allow_nan=False)
        (temporary / RUN).write_text(text + "\n")


def load(folder: str | os.PathLike[str]) -> SavedRun:
    """Read what `save` wrote.

    Raises
    ------
    InputError
        The folder is not a saved run, or a part of it is missing or damaged.
    """
    source = Path(folder)
    if not is_regular(source / RUN):
        raise InputError(f"{source} is not a saved run, it has no {RUN}; make one with keygraph compare ... --save")
    result = read_run(source / RUN)
    try:
        comparisons = result["comparisons"]
        models = (*(one["candidate"]["name"] for one in comparisons), comparisons[0]["reference"]["name"])
        samples = tuple(_restore(source, one) for one in result["samples"])
        samples[0]  # A run has at least one.
        settings = dict(result["settings"])
        changed = _changed_inputs(samples, result["samples"])
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise InputError(f"{source / RUN} is incomplete; make it again with keygraph compare ... --save") from None
    return SavedRun(models, samples, settings, result, changed)


def _store(folder: Path, index: int, image: ComparedImage, low: float, high: float) -> dict[str, Any]:
    """Write one image's arrays; return its entry for the JSON file."""
    arrays = image.arrays
    if image.clean is not None:
        unit = (low, high) == (0.0, 1.0)
        arrays[_CLEAN] = image.clean if unit else (image.clean - np.float32(low)) / np.float32(high - low)
    files = {name: f"{INPUTS}/{index}-{name.strip('()')}.npy" for name in arrays}
    for name, file in files.items():
        np.save(folder / file, arrays[name], allow_pickle=False)
    return {"name": image.name, "arrays": files, "sha256": {name: _sha256(arrays[name]) for name in files}}


def _restore(folder: Path, entry: Mapping[str, Any]) -> Sample:
    arrays = {name: _read(folder, file) for name, file in entry["arrays"].items()}
    clean = arrays.pop(_CLEAN, None)
    if IMAGE_INPUT not in arrays:
        raise KeyError(IMAGE_INPUT)
    return Sample(entry["name"], arrays, clean)


def _changed_inputs(samples: Sequence[Sample], entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return a line for each array that is not the one that was saved; runs of older versions do not tell."""
    lines = []
    for index, (sample, entry) in enumerate(zip(samples, entries, strict=True)):
        arrays = dict(sample.arrays) | ({} if sample.clean is None else {_CLEAN: sample.clean})
        for name, saved in entry.get("sha256", {}).items():
            if _sha256(arrays[name]) != saved:
                what = "clean image" if name == _CLEAN else name
                lines.append(f"input {index} ({sample.name}): the {what} has changed since")
    return tuple(lines)


def _sha256(values: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's type, shape and values."""
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _read(folder: Path, file: str) -> NDArray[Any]:
    path = folder / INPUTS / Path(file).name
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path}, an input of the saved run ({error}); save the run again") from None
    return values
