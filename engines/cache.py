"""Where engines are: an engine and its sidecar are found, locked and written together."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from ..files import unwritable
from ..runtime.backends.engine_metadata import Sidecar, check_digest, read, sidecar_path
from . import cache_key

_PARTIAL = ".partial"


def engine_path(model: Path, target: str, folder: Path | None) -> Path:
    """Return the engine's place: ``kgt.sm89.plan`` beside ``kgt.onnx``, or in a folder."""
    return (folder or model.parent) / f"{model.stem}.{target.replace('_', '')}.plan"


def log_path(engine: Path) -> Path:
    """Return where what the builder said is kept."""
    return engine.with_name(f"{engine.name}.log")


def find(engine: Path, ingredients: dict[str, str]) -> tuple[Sidecar | None, str]:
    """Look for an engine made of exactly these ingredients.

    Returns
    -------
    Its sidecar, or None; and why there is none: what changed, or what is wrong with what is there. The empty string
    when there is nothing at all.
    """
    if not engine.exists() and not sidecar_path(engine).exists():
        return None, ""
    try:
        sidecar = read(engine)
        if changes := cache_key.changes(sidecar.ingredients, ingredients):
            return None, ", ".join(changes)
        check_digest(engine, sidecar)
    except InputError as error:
        return None, str(error).partition(";")[0]
    return sidecar, ""


@contextmanager
def locked(engine: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Be the only one that builds this engine, for as long as the block runs, and clean up after one that was killed.

    Parameters
    ----------
    engine
        Its place; the lock is a file beside it, which the kernel frees when its owner dies.
    waiting
        Called once when another process has the lock.

    Raises
    ------
    InputError
        The folder cannot be written.
    """
    path = engine.with_name(f".{engine.name}.lock")
    while True:
        try:
            file = path.open("a")
        except OSError as error:
            raise unwritable(engine, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever had it before removed it, perhaps after we had opened it: then it is no lock any more.
            if not _is_at(file.fileno(), path):
                continue
            try:
                for partial in engine.parent.glob(f".{engine.name}.*{_PARTIAL}"):
                    partial.unlink(missing_ok=True)
                yield
                return
            finally:
                path.unlink(missing_ok=True)


def commit(engine: Path, data: memoryview | bytes, sidecar: Sidecar) -> None:
    """Write an engine and its sidecar, each whole or not at all.

    Killed between the two renames, this leaves a new engine beside an old sidecar; the sidecar names the SHA-256 of its
    engine, so nothing loads that, and the next build makes both again.

    Raises
    ------
    InputError
        There is no room, or the place cannot be written. What was there before is still there.
    """
    partials: list[Path] = []
    try:
        for content in (data, sidecar.to_json().encode()):
            partial = engine.with_name(f".{engine.name}.{secrets.token_hex(4)}{_PARTIAL}")
            partials.append(partial)
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.replace(partials[0], engine)
        os.replace(partials[1], sidecar_path(engine))
    except OSError as error:
        raise unwritable(engine, error) from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
