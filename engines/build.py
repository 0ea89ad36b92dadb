"""Build engines for several targets in parallel worker processes, unless they are in the cache."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, KeygraphError
from ..runtime.backends.engine_metadata import EngineMetadata, read
from ..runtime.backends.tensorrt_bindings import PLUGINS, loader_path
from ..runtime.device.processor import usable_cores
from . import cache, lint, preflight
from .job import Job
from .model import Model

BUILT, CACHED, FAILED = "built", "cached", "failed"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """The result for one target.

    Attributes
    ----------
    target, engine
        Name of the target and path of the engine.
    state
        ``"built"``, ``"cached"`` or ``"failed"``.
    seconds
        Duration of the build, also of a cached engine; 0 after a failure.
    bytes
        Size of the engine.
    activations
        Bytes of GPU memory for the activations of the largest profile, as reported by the builder; 0 if unknown.
    reason
        What changed, if an existing engine was built again; otherwise empty.
    error, exit_code
        The error message and the exit code of its class.
    """

    target: str
    engine: Path
    state: str
    seconds: float = 0.0
    bytes: int = 0
    activations: int = 0
    reason: str = ""
    error: str = ""
    exit_code: int = 0


def build(
    model: Model,
    jobs: list[Job],
    *,
    notice: Callable[[str], None] = lambda _line: None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Build engines, or find them in the cache. The failure of one does not affect the others.

    Parameters
    ----------
    model
        The file that all jobs build from.
    jobs
        One job for each target.
    notice
        Called with messages for the user.
    progress
        Called with the completed and the total work, 100 for each engine that is built.

    Returns
    -------
    list of Outcome
        One outcome for each job, in order.

    Raises
    ------
    InputError
        No engine can be built from this file; the message names the module.
    """
    outcomes: dict[int, Outcome] = {}
    for i, job in enumerate(jobs):
        metadata, _ = cache.find(job.engine, job.ingredients(model))
        if metadata is not None and not job.force:
            outcomes[i] = _outcome(job, CACHED, metadata)
    waiting = [i for i in range(len(jobs)) if i not in outcomes]
    if waiting:
        _check(model, jobs[0])
        total = _Progress(len(waiting), progress)
        with loader_path(jobs[0].software.backend) as environment:
            workers = _Workers(environment, notice, total)
            pool = ThreadPoolExecutor(preflight.parallel(model, min(len(waiting), usable_cores())))
            try:
                outcomes |= zip(waiting, pool.map(workers.run, (jobs[i] for i in waiting)), strict=True)
            finally:
                workers.end()
                pool.shutdown(cancel_futures=True)
    return [outcomes[i] for i in range(len(jobs))]


def _check(model: Model, job: Job) -> None:
    """Lint the file before a process is started for it."""
    lint.refuse(model, lint.lint(model, [name for name, _, _ in PLUGINS] if job.plugin else ()))


def _outcome(job: Job, state: str, metadata: EngineMetadata, reason: str = "") -> Outcome:
    """Return the outcome for an engine that exists."""
    activations = metadata.memory.get("activations", 0)
    return Outcome(job.target, job.engine, state, metadata.seconds, metadata.engine_bytes, activations, reason)


class _Progress:
    """Combines the progress of all builds."""

    def __init__(self, count: int, progress: Progress | None) -> None:
        self._percents: dict[str, int] = {}
        self._total = 100 * count
        self._progress = progress
        self._lock = threading.Lock()

    def set(self, target: str, percent: int) -> None:
        with self._lock:
            self._percents[target] = percent
            if self._progress is not None:
                self._progress(sum(self._percents.values()), self._total)


class _Workers:
    """Runs worker processes."""

    def __init__(self, environment: dict[str, str], notice: Callable[[str], None], progress: _Progress) -> None:
        self._environment = environment
        self._notice = notice
        self._progress = progress
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def run(self, job: Job) -> Outcome:
        """Build one engine in a worker process, and wait for it."""
        if self._ended:
            return Outcome(job.target, job.engine, FAILED, error="not started", exit_code=1)
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,  # Ctrl-C must only reach this process.
        )
        self._running.add(process)
        try:
            return self._follow(job, process)
        finally:
            self._running.discard(process)
            self._progress.set(job.target, 100)

    def end(self) -> None:
        """Kill all workers, after an interruption or an error."""
        self._ended = True
        for process in list(self._running):
            process.kill()

    def _follow(self, job: Job, process: subprocess.Popen[str]) -> Outcome:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(job.to_json() + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # The worker died at once; its stderr says why.
        reason, last = "", None
        for line in process.stdout:
            event = json.loads(line)
            match event["event"]:
                case "progress":
                    self._progress.set(job.target, event["percent"])
                case "note":
                    self._notice(event["message"])
                case "building":
                    reason = event["reason"]
                    if reason:
                        self._notice(f"{job.engine.name} is built again: {reason}")
                case _:
                    last = event
        said = process.stderr.read()
        code = process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
        if last is not None and last["event"] == "done":
            return _outcome(job, last["state"], read(job.engine), reason)
        log = cache.log_path(job.engine)
        if last is not None:
            hint = "" if last["exit_code"] == InputError.exit_code or not log.exists() else f"; the log is {log}"
            return self._failure(job, last["message"] + hint, last["exit_code"])
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        tail = " ".join(said.split()[-40:])
        where = f"; its output is in {log}" if log.exists() else ""
        message = f"the builder's process ended with {ending}{f' ({tail})' if tail else ''}{where}"
        return self._failure(job, message, KeygraphError.exit_code)

    @staticmethod
    def _failure(job: Job, message: str, exit_code: int) -> Outcome:
        return Outcome(job.target, job.engine, FAILED, error=message, exit_code=exit_code)
