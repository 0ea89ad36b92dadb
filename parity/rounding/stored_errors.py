"""Expected errors that are kept between runs, in the user's cache folder.

Each file holds a few numbers; its name is the SHA-256 of everything that they depend on: the reference's weights and
manifest, the inputs, how is computed, versions, and keygraph's own code. So none is ever out of date, and all may be
deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ... import models, plugins
from ...errors import InputError
from ...files import atomic_path
from ...runtime.backends.user_cache import cache_folder
from ...version import version
from ..sides.base import Probe

#: Most files. When there are more, the oldest half is deleted.
MOST = 2000

Errors = tuple[float, ...]


class StoredErrors:
    """The errors of one reference on one batch.

    Parameters
    ----------
    reference
        The reference, opened from a file: its digests are those of what runs.
    inputs
        float32[B, C, H, W]: the images and the extra inputs.
    k
        As for `Probe.run`.
    """

    def __init__(self, reference: Probe, inputs: Sequence[NDArray[np.float32]], k: int | None) -> None:
        digest = hashlib.sha256(_code())
        digest.update(reference.manifest.to_json().encode())
        digest.update(json.dumps([dict(reference.digests), k, [one.shape for one in inputs]]).encode())
        for one in inputs:
            digest.update(np.ascontiguousarray(one).data)
        self._inputs = digest.digest()

    def remember(self, key: str, measure: Callable[[], Errors]) -> Errors:
        """Return what an earlier run stored, else measure and store it.

        Parameters
        ----------
        key
            What is measured.
        measure
            Returns the errors.
        """
        path = _folder() / f"{hashlib.sha256(self._inputs + key.encode()).hexdigest()}.json"
        found = _read(path)
        if found is None:
            found = measure()
            _write(path, found)
        return found


def _folder() -> Path:
    return cache_folder() / "rounding"


@cache
def _code() -> bytes:
    """Return a digest of the versions and of the code by which errors are measured."""
    digest = hashlib.sha256(json.dumps([version(), torch.__version__, np.__version__]).encode())
    for folder in (Path(__file__).parent, *(Path(package.__path__[0]) for package in (models, plugins))):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.digest()


def _read(path: Path) -> Errors | None:
    """Return the stored errors; None where there are none, or the file is damaged."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(values, list) or not all(type(one) is float for one in values):
        return None
    return tuple(values)


def _write(path: Path, errors: Errors) -> None:
    """Store errors, if they are finite; without a folder that can be written nothing is stored."""
    if not np.isfinite(errors).all():
        return
    with contextlib.suppress(OSError, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(errors))
        _limit(path.parent)


def _limit(folder: Path) -> None:
    files = list(folder.glob("*.json"))
    if len(files) > MOST:
        files.sort(key=lambda file: file.stat().st_mtime)
        for file in files[: len(files) // 2]:
            file.unlink(missing_ok=True)
