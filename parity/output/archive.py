"""Runs that are kept: what went in, and what came out, so that it can be repeated."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...files import unwritable
from ...manifest import IMAGE_INPUT
from ..failures import read_run
from ..inputs import Sample
from ..run import ComparedImage, Run

#: The file that makes a folder a saved run, and the folder of its arrays.
RUN, INPUTS = "run.json", "inputs"

#: The name of a clean image among the arrays of a sample; no input of a model is called so.
_CLEAN = "(clean)"


@dataclass(frozen=True)
class SavedRun:
    """A run as it was.

    Attributes
    ----------
    models
        Candidates and the reference, as `specs.parse_spec` reads them.
    samples
        What they were run on.
    settings
        See `Run.settings`.
    result
        `Run.as_json` of it.
    """

    models: tuple[str, ...]
    samples: tuple[Sample, ...]
    settings: Mapping[str, Any]
    result: Mapping[str, Any]


def check_folder(folder: Path) -> None:
    """Check, before any work, that a run can be saved here; raises `InputError`: only an earlier run is replaced."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / RUN).is_file()):
        raise InputError(f"{folder} is there, and no saved run; name a new folder, or an earlier run to replace")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"cannot make {folder}: the folder {folder.parent} does not exist; create it first")


def save(folder: str | os.PathLike[str], run: Run) -> None:
    """Save a run whose images were kept; the folder appears whole or not at all.

    Raises
    ------
    InputError
        The folder cannot be written, or is something else than an earlier run.
    """
    target = Path(folder)
    check_folder(target)
    temporary = target.absolute().with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        (temporary / INPUTS).mkdir(parents=True)
        low, high = run.comparisons[0].reference.manifest.value_range
        samples = [_store(temporary, index, image, low, high) for index, image in enumerate(run.images)]
        text = json.dumps(run.as_json() | {"samples": samples}, indent=1, allow_nan=False)
        (temporary / RUN).write_text(text + "\n")
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: str | os.PathLike[str]) -> SavedRun:
    """Read what `save` wrote.

    Raises
    ------
    InputError
        The folder is no saved run, or a part of it is missing or damaged.
    """
    source = Path(folder)
    if not (source / RUN).is_file():
        raise InputError(f"{source} is no saved run: it holds no {RUN}; make one with keygraph compare ... --save")
    result = read_run(source / RUN)
    try:
        comparisons = result["comparisons"]
        models = (*(one["candidate"]["name"] for one in comparisons), comparisons[0]["reference"]["name"])
        samples = tuple(_restore(source, one) for one in result["samples"])
        settings = dict(result["settings"])
    except (KeyError, IndexError, TypeError, AttributeError):
        raise InputError(
            f"{source / RUN} lacks what a saved run has; make it again with keygraph compare ... --save"
        ) from None
    return SavedRun(models, samples, settings, result)


def _store(folder: Path, index: int, image: ComparedImage, low: float, high: float) -> dict[str, Any]:
    """Write one image's arrays; return where they are."""
    arrays = image.arrays
    if image.clean is not None:
        unit = (low, high) == (0.0, 1.0)
        arrays[_CLEAN] = image.clean if unit else (image.clean - np.float32(low)) / np.float32(high - low)
    files = {name: f"{INPUTS}/{index}-{name.strip('()')}.npy" for name in arrays}
    for name, file in files.items():
        np.save(folder / file, arrays[name], allow_pickle=False)
    return {"name": image.name, "arrays": files}


def _restore(folder: Path, entry: Mapping[str, Any]) -> Sample:
    arrays = {name: _read(folder, file) for name, file in entry["arrays"].items()}
    clean = arrays.pop(_CLEAN, None)
    if IMAGE_INPUT not in arrays:
        raise KeyError(IMAGE_INPUT)
    return Sample(entry["name"], arrays, clean)


def _read(folder: Path, file: str) -> NDArray[Any]:
    path = folder / INPUTS / Path(file).name
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path}, an input of the saved run ({error}); save it again") from None
    return values
