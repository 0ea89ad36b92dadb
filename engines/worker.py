"""Worker process that builds one engine: ``python -m keygraph.engines.worker``.

A build takes minutes, and a builder may crash on a user's file, so each runs in a process of its own and several run in
parallel. The job is one line of JSON on stdin. Events are written to stdout, one JSON object per line. Output of native
code goes to the engine's log. The worker exits when stdin is closed, because then its caller has ended.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ..errors import InputError, KeygraphError
from ..files import unwritable
from ..runtime.backends.engine_metadata import EngineMetadata, Plugin, file_sha256
from ..runtime.backends.tensorrt_bindings import PLUGINS, Backend, load_backend, load_plugins
from . import cache, cache_key, fallbacks, lint, network, preflight
from .engine_check import read_back
from .job import Job
from .model import Model, load_model
from .options import engine_manifest
from .targets import TARGETS

#: Writes an event, given its name and values.
Emit = Callable[..., None]


def main() -> int:
    """Run the job on stdin; return the exit code, 0 if the engine exists afterwards."""
    # `_logged` redirects descriptors 1 and 2 to the log, because native code prints to them.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")

    def emit(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    job = Job.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_caller, daemon=True).start()
    try:
        make(job, emit)
    except KeygraphError as error:
        emit("error", message=str(error), exit_code=error.exit_code)
        return 1
    except Exception as error:
        emit("error", message=f"unexpected {type(error).__name__}: {error}", exit_code=1)
        raise
    return 0


def make(job: Job, emit: Emit) -> None:
    """Find the engine in the cache or build it, under its lock; report with events."""
    model = load_model(job.model)
    ingredients = job.ingredients(model)
    with cache.locked(job.engine, lambda: emit("note", message=f"another process builds {job.engine}: waiting for it")):
        metadata, reason = cache.find(job.engine, ingredients)
        if metadata is not None and not job.force:
            emit("done", state="cached")
            return
        if job.preflight:
            preflight.check(model, job.engine.parent)
        emit("building", reason=reason)
        with _logged(cache.log_path(job.engine)) as log:
            metadata = build(job, model, ingredients, log, emit)
        emit("done", state="built")


def build(job: Job, model: Model, ingredients: dict[str, str], log: TextIO, emit: Emit) -> EngineMetadata:
    """Build the engine and write it with its metadata.

    Parameters
    ----------
    job
        The request.
    model
        The exported file.
    ingredients
        The ingredients of the cache key.
    log
        The build log.
    emit
        Writes events.

    Raises
    ------
    KeygraphError
        The engine cannot be built, or the model changed meanwhile.
    """
    start = time.monotonic()
    stamp = model.stamp()
    target = TARGETS[job.target]
    plain = load_backend(job.software.backend)
    backend = dataclasses.replace(plain, log=_logger(plain.module, log))
    if job.plugin is not None:
        _load_plugins(backend, job.plugin)
    _lint(job, model, log)
    percent = -1

    def progress(done: float) -> None:
        nonlocal percent
        if int(100 * done) > percent:
            percent = int(100 * done)
            emit("progress", percent=percent)

    def notice(message: str) -> None:
        log.write(f"KEYGRAPH {message}\n")
        emit("note", message=f"{job.engine.name}: {message}")

    try:
        built, attempts = fallbacks.build_with_fallbacks(
            job.options,
            lambda attempt: network.build(backend, model, job.options, target, attempt, job.timing_cache, progress),
            notice,
        )
    except fallbacks.BuilderError as error:
        raise KeygraphError(f"{job.software} cannot build {job.model} for {job.target}: {error}") from error
    if model.stamp() != stamp:
        raise KeygraphError(f"{job.model} changed while its engine was built; build it again")
    # A version-compatible engine contains the part of TensorRT that runs it.
    host_code = job.options.version_compatible
    found = read_back(
        backend,
        built.data,
        built.tensors,
        model.manifest,
        job.options.profiles,
        target,
        job.gpu,
        stripped=job.options.strip_weights,
        host_code=host_code,
    )
    metadata = EngineMetadata(
        engine_sha256=hashlib.sha256(built.data).hexdigest(),
        engine_bytes=built.data.nbytes,
        key=cache_key.digest(ingredients),
        ingredients=ingredients,
        model=job.model.name,
        backend=job.software.backend,
        version=job.software.version,
        cuda=job.software.cuda,
        target=job.target,
        capability=target.capability,
        device=job.device,
        plugin=Plugin(job.plugin.name, file_sha256(job.plugin)) if job.plugin else None,
        compatible=job.options.compatible,
        version_compatible=job.options.version_compatible,
        host_code=host_code,
        stripped=job.options.strip_weights,
        tensors=built.tensors,
        options=job.words,
        attempts=attempts,
        memory=network.memory_of(list(backend.log.memory)),
        seconds=round(time.monotonic() - start, 1),
        read_back=found,
        made_with={name: importlib.metadata.version(name) for name in ("keygraph", "onnx")},
        manifest=engine_manifest(model.manifest, job.options),
        model_digest=model.digest,
    )
    cache.commit(job.engine, built.data, metadata)
    return metadata


def _load_plugins(backend: Backend, library: Path) -> None:
    try:
        ctypes.CDLL(str(library))  # TensorRT does not report why a library does not load.
    except OSError as error:
        raise InputError(f"the plugin library {library} does not load: {error}; give another with --plugin") from error
    load_plugins(backend, library)


def _lint(job: Job, model: Model, log: TextIO) -> None:
    findings = lint.lint(model, [name for name, _, _ in PLUGINS] if job.plugin else ())
    log.writelines(f"KEYGRAPH {finding.severity} {finding}\n" for finding in findings)
    lint.refuse(model, findings)


def _logger(module: Any, file: TextIO) -> Any:
    """Create a logger that writes all but verbose lines, and keeps errors and reports of memory."""
    severity = module.ILogger.Severity

    class Log(module.ILogger):  # type: ignore[misc]  # the module is chosen at run time
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)
            self.memory: deque[str] = deque(maxlen=16)

        def log(self, level: Any, message: str) -> None:
            if level == severity.VERBOSE:
                return
            line = " ".join(message.split())
            file.write(f"{level.name} {line}\n")
            if level == severity.ERROR:
                self.errors.append(line)
            elif "Memory: " in line:
                self.memory.append(line)

    return Log()


@contextmanager
def _logged(path: Path) -> Iterator[TextIO]:
    """Open the log and redirect the output of native code to it."""
    try:
        file = path.open("w", buffering=1, encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error
    # On a full disk the error that matters is that of the engine, not that of the log.
    with suppress(OSError), file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        yield file


def _end_with_caller() -> None:
    while os.read(0, 1024):  # Not sys.stdin, whose lock would block interpreter exit.
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
