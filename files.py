"""Write files atomically, and check files before reading them."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DiskFullError, InputError
from .temporary_files import replace_folder, temporary_file, temporary_folder

#: Suffixes of PyTorch checkpoints.
CHECKPOINT_SUFFIXES = (".ckpt", ".pth", ".pt", ".safetensors")

#: What the name of the index of a checkpoint in several files ends with.
CHECKPOINT_INDEX = ".index.json"

#: What an engine's name ends with.
ENGINE_SUFFIX = ".plan"

#: What the name of a Zarr store ends with, a folder that holds one image.
STORE_SUFFIX = ".zarr"

#: Files by which a folder is a Zarr store: of version 3, and of an array and a group of version 2.
_STORE_FILES = ("zarr.json", ".zarray", ".zgroup")

#: Errors of a path that the system does not reach, whatever is there.
INACCESSIBLE = (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)

#: Errors of a full disk, or of a used-up quota.
FULL = (errno.ENOSPC, errno.EDQUOT)

#: With fewer free bytes, a write that was cut short for no given reason met a full disk.
_NO_SPACE = 1 << 16


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary file exists and is empty; see `temporary_files.temporary_file`.

    Raises
    ------
    InputError
        The folder does not exist or cannot be written, the disk is full (`DiskFullError`), or `path` is a folder or a
        device.
    """
    target = Path(path)
    _check_kind(target)
    try:
        with temporary_file(target) as temporary:
            yield temporary
            os.replace(temporary, target)
    except OSError as error:
        raise unwritable(target, error) from error


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder beside `path`; rename it to `path` on success, remove it on failure.

    A folder that exists is replaced. Until the new one is complete it stays as it was.

    Raises
    ------
    InputError
        The folder cannot be written there, or the disk is full (`DiskFullError`).
    """
    target = Path(path).absolute()
    try:
        with temporary_folder(target) as temporary:
            yield temporary
            replace_folder(temporary, target)
    except OSError as error:
        raise unwritable(Path(path), error) from error


def unwritable(target: Path, error: OSError) -> InputError:
    """Return the error that says why `target` could not be written: a `DiskFullError` where there is no space left.

    Call it before what was written of the file is removed: some libraries report only that a write was cut short.
    """
    free = _free_bytes(target.parent) if error.errno is None else None
    if error.errno in FULL or (free is not None and free < _NO_SPACE):
        return DiskFullError(
            f"cannot write {target}: {_reason(error, errno.ENOSPC)}; make room there, or choose another place"
        )
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"cannot write {target}: {_reason(error)}; choose a shorter name")
    if error.errno == errno.EFBIG:
        return InputError(f"cannot write {target}: {_reason(error)}; choose a place that takes larger files")
    return InputError(f"cannot write {target}: {_reason(error)}; choose another place")


def _reason(error: OSError, number: int | None = None) -> str:
    return error.strerror or (str(error) if number is None else os.strerror(number))


def check_place(path: Path) -> None:
    """Check, before any work, that a file can be written.

    Raises
    ------
    InputError
        `path` is a folder, a device or a pipe, its name is too long, or its folder does not exist or cannot be written.
    """
    _check_kind(path)
    check_parent(path)


def check_parent(path: Path) -> None:
    """Check that a file or a folder can be written beside what is there.

    Raises
    ------
    InputError
        The folder that is to hold it does not exist or cannot be written.
    """
    if not is_folder(path.parent):
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if not is_writable(path.parent):
        raise InputError(f"cannot write {path}: no permission to write in {path.parent}; choose another place")


def status(path: Path) -> os.stat_result | None:
    """Return the status of what a user's path names, links followed; None where there is nothing.

    `Path.exists` and its kin raise an `OSError` for some paths, or say that there is nothing where nobody can tell.

    Raises
    ------
    InputError
        It cannot be told: the name is too long, a folder on the way is closed, or links lead in a circle.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise inaccessible(path, error) from error


def is_folder(path: Path) -> bool:
    """Return whether a user's path names a folder; errors are those of `status`."""
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_store(path: Path) -> bool:
    """Return whether a user's path names a Zarr store: a folder that is one image. What cannot be reached is none."""
    if not os.path.isdir(path):
        return False
    return path.suffix.lower() == STORE_SUFFIX or holds_store(path)


def holds_store(folder: Path) -> bool:
    """Return whether a folder has what makes it a Zarr store, whatever its name is."""
    return any(os.path.exists(folder / name) for name in _STORE_FILES)


def is_regular(path: Path) -> bool:
    """Return whether a user's path names a regular file; errors are those of `status`."""
    found = status(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def inaccessible(path: str | os.PathLike[str], error: OSError) -> InputError:
    """Return the error that says why the system does not reach `path`."""
    advice = "choose a shorter name" if error.errno == errno.ENAMETOOLONG else "give another path"
    return InputError(f"cannot open {os.fspath(path)}: {_reason(error)}; {advice}")


def is_writable(folder: Path) -> bool:
    """Return whether files can be written in a folder that exists."""
    return os.access(folder, os.W_OK | os.X_OK)


def _check_kind(path: Path) -> None:
    """Check that `path` is a file if it exists: renaming a file to its place would remove a device."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise unwritable(path, error) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; name the file in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"cannot write {path}: it is a device or a pipe; name a file")


def require_utf8(path: Path) -> None:
    """Check that the name of an ONNX file is UTF-8, which ONNX and ONNX Runtime need.

    Raises
    ------
    InputError
        It is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path} has a name that is not UTF-8, which ONNX Runtime needs; give it another") from None


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check, before any work, that a disk has room for what will be written.

    Parameters
    ----------
    folder
        Where it is written; it may not exist yet.
    needed
        Estimate of the bytes.
    what
        What needs them, for the message: "the 3 results need".

    Raises
    ------
    InputError
        There is less space.
    """
    free = _free_bytes(folder)
    if free is not None and free < needed:
        raise InputError(
            f"{what} about {_bytes(needed)}, and {folder} has {_bytes(free)} free; make room there, or choose another "
            "place"
        )


def _free_bytes(folder: Path) -> int | None:
    """Return the free bytes of the disk of a folder, or of its nearest parent that exists; None if unknown."""
    absolute = folder.absolute()
    existing = next(place for place in (absolute, *absolute.parents) if os.path.exists(place))
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        return None


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


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
        The file is missing, a folder, a device, unreadable, empty, a web page, or a Git LFS pointer.
    """
    if os.path.exists(path) and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a device or a pipe; give {wanted}")
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
