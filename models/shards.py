"""Checkpoints in several files (shards), with an index or with numbered names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import CHECKPOINT_INDEX
from .pickled.values import printable

_NUMBERED = re.compile(r"(.+)-(\d{1,5})-of-(\d{1,5})(\.\w+)")


def is_index(start: bytes, path: Path) -> bool:
    """Tell whether a file is an index, by its name or first bytes."""
    return path.name.endswith(CHECKPOINT_INDEX) or (start.lstrip().startswith(b"{") and b'"weight_map"' in start)


def read_index(path: Path, read: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Read all shards that an index names.

    Parameters
    ----------
    path
        The index: JSON with a ``weight_map`` from tensors to files.
    read
        Reads one shard.

    Returns
    -------
    tensors, notes

    Raises
    ------
    InputError
        The index is none, or a shard or a tensor is missing.
    """
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
        valid = files and all(Path(name).name == name for name in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        valid = False
    if not valid:
        raise InputError(f"{path} is no index of a checkpoint: it has no weight_map from tensors to files beside it")
    tensors = _read_all(path, [path.with_name(name) for name in files], read)
    missing = [name for name in places if name not in tensors]
    if missing:
        raise InputError(
            f"{path}: the shards have no {printable(missing[0])} and {len(missing) - 1} more; download them again"
        )
    return {name: tensors[name] for name in places}, [f"read from {len(files)} shards"]


def siblings(path: Path) -> list[Path] | None:
    """Return the paths of all shards of which a file is one, by its name; None for a file that stands alone.

    A file without another shard or an index beside it may be a whole checkpoint, such as that of epoch 1 of 99.
    """
    files = _numbered(path)
    if files is None:
        return None
    match = _NUMBERED.fullmatch(path.name)
    index = path.with_name(f"{match[1]}{match[4]}.index.json") if match else path
    others = [file for file in files if file.name != path.name and file.exists()]
    return files if others or index.exists() else None


def number_by_name(path: Path) -> int:
    """Return how many shards there are by the name of one; 1 for other names."""
    return len(_numbered(path) or [path])


def _numbered(path: Path) -> list[Path] | None:
    match = _NUMBERED.fullmatch(path.name)
    if match is None or int(match[3]) < 2 or not 0 < int(match[2]) <= int(match[3]):
        return None
    # `1-of-12` counts without zeros, `00001-of-00012` and `01-of-12` with as many as the total has digits.
    width = len(match[3]) if len(match[2]) == len(match[3]) else 1
    return [path.with_name(f"{match[1]}-{i:0{width}}-of-{match[3]}{match[4]}") for i in range(1, int(match[3]) + 1)]


def read_siblings(path: Path, read: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Read all shards of which a file is one; parameters, results and errors as for `read_index`."""
    files = siblings(path) or []
    return _read_all(path, files, read), [f"read from {len(files)} shards"]


def _read_all(path: Path, files: list[Path], read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    missing = [file.name for file in files if not file.exists()]
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise InputError(
            f"{path} belongs to a checkpoint of {len(files)} files, of which {len(missing)} are missing: {listed}; "
            "put them in the same folder"
        )
    tensors: dict[str, Any] = {}
    for file in files:
        part = read(file)
        twice = tensors.keys() & part.keys()
        if twice:
            raise InputError(
                f"{file} and another shard both have {printable(min(map(str, twice)))}; download them again"
            )
        tensors.update(part)
    return tensors
