"""Read checkpoint files as data, by their content and not by their name. No code in a file is run."""

from __future__ import annotations

import json
import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import CHECKPOINT_SUFFIXES, is_folder, is_pickle, is_safetensors, read_start
from . import shards
from .foreign_files import foreign, foreign_folder, foreign_zip, zip_names
from .pickled.archive import read_pickle, read_zip
from .pickled.values import DamagedPickleError, Log, RefusedPickleError, entries, printable

#: First bytes of pickles of protocols 0 and 1, which have no header.
_OLD_PICKLES = (b"(", b"c", b"}", b"]")


def read_file(path: Path) -> tuple[Any, list[str]]:
    """Load the content of a checkpoint file.

    Parameters
    ----------
    path
        The file: PyTorch's zip format, its format before 1.6, a pickle, safetensors, the index of a checkpoint in
        several files, or one of these files.

    Returns
    -------
    content, notes
        The object that was saved, with `pickled.values.Stub` for what is neither data nor tensor. For a safetensors
        file, a dictionary with its tensors under ``"state_dict"`` and, if `save_checkpoint` wrote it, keygraph's other
        entries. The notes are lines for the user.

    Raises
    ------
    InputError
        The file is missing, empty, truncated, not a checkpoint, or a pickle that does more than build data.
    """
    if is_folder(path):
        raise foreign_folder(path)
    start = read_start(path, f"a checkpoint ({', '.join(CHECKPOINT_SUFFIXES)})")
    if shards.is_index(start, path):
        tensors, notes = shards.read_index(path, _read_shard)
        return {"state_dict": tensors}, notes
    if shards.siblings(path) is not None:
        tensors, notes = shards.read_siblings(path, _read_shard)
        return {"state_dict": tensors}, notes
    return _read_whole(path, start)


def _read_shard(path: Path) -> dict[str, Any]:
    content, _ = _read_whole(path, read_start(path, "a part of a checkpoint"))
    found = entries(content) or {}
    return dict(entries(found.get("state_dict")) or found)


def _read_whole(path: Path, start: bytes) -> tuple[Any, list[str]]:
    size = path.stat().st_size
    if is_safetensors(start):
        return _read_safetensors(path, size)
    log = Log()
    try:
        if start.startswith(b"PK"):
            # A zip file has its directory at the end: a file with only the start of one has been truncated.
            if not zipfile.is_zipfile(path):
                raise _damaged(path, size, "the end of the file is missing", download=True)
            unknown = foreign_zip(path, zip_names(path))
            if unknown is not None:
                raise unknown
            return read_zip(path, log), log.notes()
        if is_pickle(start) or start.startswith(_OLD_PICKLES):
            return read_pickle(path, log), log.notes()
    except RefusedPickleError as error:
        raise InputError(
            f"{path} is not only data, and loading it would run code from the file ({printable(error)}); where you "
            "trust it, load it with its authors' code and save only the weights: torch.save(model.state_dict(), path), "
            "or safetensors"
        ) from error
    except (
        *(DamagedPickleError, OSError, ValueError, RuntimeError, NotImplementedError),
        *(zipfile.BadZipFile, EOFError, struct.error, zlib.error, lzma.LZMAError),  # what zipfile lets through
    ) as error:
        unknown = foreign(path, start) if start.startswith(_OLD_PICKLES) else None
        raise unknown or _damaged(path, size, str(error), download=not start.startswith(b"PK")) from error
    unknown = foreign(path, start)
    if unknown is not None:
        raise unknown
    raise _damaged(path, size, f"it is neither PyTorch's format nor safetensors: it begins with {start[:8].hex(' ')}")


def _read_safetensors(path: Path, size: int) -> tuple[Any, list[str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, size, str(error), download=True) from error
    if "keygraph" not in metadata:
        return {"state_dict": tensors}, []
    try:
        ours = json.loads(metadata["keygraph"])
        if isinstance(ours["architecture"], str) and isinstance(ours["config"], dict):
            return {"architecture": ours["architecture"], "config": ours["config"], "state_dict": tensors}, []
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return {"state_dict": tensors}, ["metadata 'keygraph' is not what save_checkpoint writes: not used"]


def _damaged(path: Path, size: int, reason: str, download: bool = False) -> InputError:
    first = printable(reason.strip().splitlines()[0], 160) if reason.strip() else "unknown format"
    amount = f"{size / 1e3:.0f} KB" if size < 1e6 else f"{size / 1e6:.0f} MB"
    hint = "; an incomplete download looks like this" if download else ""
    return InputError(f"{path} ({amount}) cannot be read as a checkpoint: {first}{hint}")
