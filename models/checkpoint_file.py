"""Read checkpoint files as data; no code from a pickle is run."""

from __future__ import annotations

import json
import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import CHECKPOINT_SUFFIXES, read_start


def read_file(path: Path) -> Any:
    """Load the content of a checkpoint file.

    Returns
    -------
    Any
        The object that was saved. For a safetensors file, a dictionary with its tensors under ``"state_dict"`` and, if
        `save_checkpoint` wrote it, keygraph's other entries.

    Raises
    ------
    InputError
        The file is missing, empty, truncated, not a checkpoint, or a pickle that would run code.
    """
    start = read_start(path, f"a checkpoint ({', '.join(CHECKPOINT_SUFFIXES)})")
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        return _read_safetensors(path, size)
    return _read_torch(path, start, size)


def _read_safetensors(path: Path, size: int) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise _damaged(path, size, str(error)) from error
    ours = json.loads(metadata["keygraph"]) if "keygraph" in metadata else {}
    return {**ours, "state_dict": tensors}


def _read_torch(path: Path, start: bytes, size: int) -> Any:
    if not start.startswith((b"PK", b"\x80")):
        raise _damaged(path, size, "it is neither PyTorch's format nor safetensors")
    # A zip file has its directory at the end: a file with only the start of one has been truncated.
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise _damaged(path, size, "the end of the file is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower() or _names_objects(path):
            raise InputError(
                f"{path} holds Python objects, not only weights, and loading it would run code from the file; "
                "where you trust it, load it with its authors' code and save only the weights: "
                "torch.save(model.state_dict(), path), or safetensors"
            ) from error
        raise _damaged(path, size, str(error)) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        UnicodeDecodeError,
    ) as error:
        raise _damaged(path, size, str(error)) from error


def _names_objects(path: Path) -> bool:
    """Tell whether a file is a plain pickle that refers to Python objects by name, without running it."""
    try:
        with path.open("rb") as file:
            return any(opcode.name in ("GLOBAL", "STACK_GLOBAL") for opcode, _, _ in pickletools.genops(file))
    except ValueError:
        return False


def _damaged(path: Path, size: int, reason: str) -> InputError:
    first = reason.strip().splitlines()[0][:120] if reason.strip() else "unknown format"
    amount = f"{size / 1e3:.0f} KB" if size < 1e6 else f"{size / 1e6:.0f} MB"
    return InputError(
        f"{path} ({amount}) cannot be read as a checkpoint: {first}; an incomplete download looks like this"
    )
