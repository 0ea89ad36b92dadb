"""Write files atomically, and check files before reading them."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError

#: Suffixes of PyTorch checkpoints.
CHECKPOINT_SUFFIXES = (".ckpt", ".pth", ".pt", ".safetensors")

#: What the name of the index of a checkpoint in several files ends with.
CHECKPOINT_INDEX = ".index.json"

#: What an engine's name ends with.
ENGINE_SUFFIX = ".plan"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary file exists and is empty. It has the suffix of `path`, by which some writers choose the format.

    Raises
    ------
    InputError
        The folder does not exist or cannot be written, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def unwritable(target: Path, error: OSError) -> InputError:
    """Return the `InputError` that says why `target` could not be written."""
    reason = error.strerror or str(error)
    return InputError(f"cannot write {target}: {reason}; choose another place with -o, or make room there")


def check_place(path: Path) -> None:
    """Check, before any work, that a file can be written.

    Raises
    ------
    InputError
        `path` is a folder, or its folder does not exist or cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file in it")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: no permission to write in {path.parent}; choose another place with -o")


def decode_json(text: str | bytes) -> Any:
    """Decode JSON that comes from a file.

    Raises
    ------
    ValueError
        The text is not JSON, or nested too deeply for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def read_start(path: Path, wanted: str) -> bytes:
    """Read the first 512 bytes of a file, and check that it is not one of the usual mistakes.

    Parameters
    ----------
    path
        The file.
    wanted
        What it should be, for messages: "an exported .onnx file".

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        The file is missing, a folder, unreadable, empty, a web page, or a Git LFS pointer.
    """
    try:
        # Opening a named pipe would wait for ever for somebody to write into it.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise InputError(f"{path} is not a regular file, but a pipe or a device; give {wanted}")
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give {wanted}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; give {wanted}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give {wanted}") from error
    text = start.lstrip().lower()
    if not start:
        raise InputError(f"{path} is empty (0 bytes); make or download it again: it should be {wanted}")
    if text.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer, not {wanted}; fetch the file with: git lfs pull")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path} is a web page, not {wanted}; download the file itself, not the page about it")
    return start


def is_checkpoint(path: Path, start: bytes) -> bool:
    """Tell whether a file is a PyTorch checkpoint, by its name or its first bytes."""
    if path.suffix.lower() in CHECKPOINT_SUFFIXES or path.name.endswith(CHECKPOINT_INDEX):
        return True
    return start.startswith(b"PK\x03\x04") or is_pickle(start) or is_safetensors(start)


def is_pickle(start: bytes) -> bool:
    """Tell whether a file is a pickle of protocol 2 or newer, by its first bytes."""
    return start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def is_safetensors(start: bytes) -> bool:
    """Tell whether a file is in the safetensors format, by its first bytes: the length of a JSON object, and that."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000
