"""Engine files on disk: paths, lookup by ingredients, the lock, and atomic writes of an engine with its metadata."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, MissingDependencyError
from ..files import check_place, unwritable
from ..installation import install_line
from ..runtime.backends.engine_metadata import EngineMetadata, check_digest, metadata_path, read
from ..runtime.companion_files import log_path as log_path
from . import cache_key

try:
    from filelock import FileLock, Timeout
except ImportError as error:
    raise MissingDependencyError(
        f"building engines needs {error.name}; install it with: {install_line('rtx')}, or for TensorRT with: "
        f"{install_line('tensorrt')}"
    ) from error

_PARTIAL = ".partial"


def engine_path(model: Path, target: str, folder: Path | None) -> Path:
    """Return the path of an engine.

    Parameters
    ----------
    model
        The ONNX file, for instance ``kgt.onnx``.
    target
        For instance ``"sm_89"``, which gives ``kgt.sm89.plan``.
    folder
        The folder of the engine; None for the ONNX file's folder.
    """
    return (folder or model.parent) / f"{model.stem}.{target.replace('_', '')}.plan"


def find(engine: Path, ingredients: dict[str, str]) -> tuple[EngineMetadata | None, str]:
    """Look for an engine that was made of exactly these ingredients.

    Returns
    -------
    metadata : EngineMetadata | None
        The engine's metadata, or None when it has to be built.
    reason : str
        Why it has to be built although files exist: what changed, or what is wrong with them. Otherwise empty.
    """
    if not engine.exists() and not metadata_path(engine).exists():
        return None, ""
    try:
        metadata = read(engine)
        if changes := cache_key.changes(metadata.ingredients, ingredients):
            return None, ", ".join(changes)
        check_digest(engine, metadata)
    except InputError as error:
        return None, str(error).partition(";")[0]
    return metadata, ""


def _hidden_name(engine: Path) -> str:
    """Return how the names of an engine's lock and partial files begin; short, whatever the engine is called."""
    return f".keygraph-{hashlib.sha256(os.fsencode(engine.name)).hexdigest()[:16]}"


@contextmanager
def locked(engine: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of an engine inside the block, so that one process builds it at a time.

    The lock is an flock on a file beside the engine. The operating system releases it when the process dies, and the
    next holder removes the partial files that a killed builder left.

    Parameters
    ----------
    engine
        Path of the engine.
    waiting
        Called once when another process holds the lock.

    Raises
    ------
    InputError
        The folder does not exist or cannot be written.
    """
    check_place(engine)  # filelock would create a missing folder.
    path = engine.with_name(f"{_hidden_name(engine)}.lock")
    lock = FileLock(path)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waiting()
            lock.acquire()
    except OSError as error:
        raise unwritable(engine, error) from error
    try:
        for partial in engine.parent.glob(f"{_hidden_name(engine)}.*{_PARTIAL}"):
            partial.unlink(missing_ok=True)
        yield
    finally:
        # filelock leaves the file in place. A process that waits for a removed file notices that it has no name any
        # more (filelock >= 4 checks st_nlink after each flock), and opens the file again.
        path.unlink(missing_ok=True)
        lock.release()


def commit(engine: Path, data: memoryview | bytes, metadata: EngineMetadata) -> None:
    """Write an engine and its metadata, each completely or not at all.

    A process that is killed between the two renames leaves a new engine with old metadata. The metadata contains the
    SHA-256 of its engine, so such a pair is refused when it is loaded and the next build replaces both.

    Parameters
    ----------
    engine
        Path of the engine.
    data
        The serialized engine.
    metadata
        Its metadata.

    Raises
    ------
    InputError
        The disk is full, or the folder cannot be written. The files that existed before are unchanged.
    """
    partials: list[Path] = []
    try:
        for content in (data, metadata.to_json().encode()):
            partial = engine.with_name(f"{_hidden_name(engine)}.{secrets.token_hex(4)}{_PARTIAL}")
            partials.append(partial)
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.replace(partials[0], engine)
        os.replace(partials[1], metadata_path(engine))
    except OSError as error:
        raise unwritable(engine, error) from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
