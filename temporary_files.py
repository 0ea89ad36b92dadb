"""Temporary files and folders beside a result, which the next run takes over where a killed one left them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: What the names begin with.
_PREFIX = ".keygraph-"

#: A longer ending of a name is no suffix by which a format is chosen.
_LONGEST_SUFFIX = 16

#: Of renameat2(2): a path is relative to the working directory, and both paths are exchanged.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def temporary_path(target: Path) -> Path:
    """Return a new path beside `target` for writing it, before it is renamed to its place.

    The name is hidden, so that what an interrupted write leaves is not taken for an image of the folder. It has the
    suffix of `target`, by which some writers choose the format, and is short: the name of `target` may be as long as
    the file system allows.
    """
    return _named(target, secrets.token_hex(8))


@contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """Yield an empty file beside `target`, which the caller renames; remove it if the caller fails.

    Its name is the same for each write of `target`, so that what a killed process left is used again and not left for
    ever. While another process writes `target`, it is that of `temporary_path`.

    Raises
    ------
    OSError
        It cannot be made.
    """
    with _claimed(target, os.O_RDWR, lambda path: path.touch(exist_ok=False)) as (path, lock):
        os.ftruncate(lock, 0)
        try:
            yield path
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, as `temporary_file` yields a file."""
    with _claimed(target, os.O_RDONLY | os.O_DIRECTORY, Path.mkdir) as (path, _lock):
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        try:
            yield path
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


def replace_folder(folder: Path, target: Path) -> None:
    """Rename a folder from `temporary_folder` to the place of another one, or of a link to one, which is removed.

    There is a folder in that place at any time, where the system can exchange two names at once.

    Raises
    ------
    OSError
        It cannot be renamed; `target` is then as it was.
    """
    if not os.path.lexists(target):
        folder.rename(target)
        return
    with contextlib.ExitStack() as held:
        earlier = folder
        with contextlib.suppress(OSError):  # So that no other process takes it over while it is removed.
            lock = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _exchanged(folder, target):
            earlier = temporary_path(target)
            target.rename(earlier)
            try:
                folder.rename(target)
            except OSError:
                earlier.rename(target)
                raise
        if earlier.is_symlink():
            earlier.unlink()
        else:
            shutil.rmtree(earlier, ignore_errors=True)


def _named(target: Path, word: str) -> Path:
    suffix = target.suffix if len(target.suffix) <= _LONGEST_SUFFIX else ""
    return target.with_name(f"{_PREFIX}{word}{suffix}")


@contextmanager
def _claimed(target: Path, flags: int, make: Callable[[Path], None]) -> Iterator[tuple[Path, int]]:
    """Yield a file or folder beside `target` that no other process uses, and its descriptor, opened with `flags`."""
    path = _named(target, hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16])
    descriptor = _lock(path, flags, make)
    if descriptor is None:
        path = temporary_path(target)
        make(path)
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield path, descriptor
    finally:
        os.close(descriptor)


def _lock(path: Path, flags: int, make: Callable[[Path], None]) -> int | None:
    """Open and lock what has a name, made where there is nothing; None where it is another process's."""
    made = False
    with contextlib.suppress(FileExistsError):
        make(path)
        made = True
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = _is_leftover(os.fstat(descriptor), os.lstat(path))
    except BlockingIOError:
        ours = False
    except OSError:
        ours = made  # A file system without locks; or the last holder has renamed it.
    if not ours:
        os.close(descriptor)
        return None
    return descriptor


def _is_leftover(opened: os.stat_result, named: os.stat_result) -> bool:
    """Return whether what was opened still has the name, and can only be what a run of this user left."""
    return (
        os.path.samestat(opened, named)
        and opened.st_uid == os.geteuid()
        and (stat.S_ISDIR(opened.st_mode) or (stat.S_ISREG(opened.st_mode) and opened.st_nlink == 1))
    )


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two names at once; return False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    names = (os.fsencode(first), os.fsencode(second))
    result: int = rename(_AT_FDCWD, ctypes.c_char_p(names[0]), _AT_FDCWD, ctypes.c_char_p(names[1]), _RENAME_EXCHANGE)
    return result == 0
