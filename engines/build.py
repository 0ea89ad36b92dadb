"""Engines for several targets: found in the cache, or built side by side, one failure not ending the others."""

from __future__ import annotations

import json
import os
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
from ..runtime.backends.tensorrt_bindings import loader_path
from . import cache, lint, preflight
from .job import Job
from .model import Model

BUILT, CACHED, FAILED = "built", "cached", "failed"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one target.

    Attributes
    ----------
    target, engine
        What was asked for, and where it is.
    state
        ``"built"``, ``"cached"`` or ``"failed"``.
    seconds
        That building it took, whenever that was; 0 for a failure.
    bytes
        Of the engine.
    activations
        Bytes of the GPU's memory that it reserves for its largest profile, as the builder says; 0 when it does not.
    reason
        Why it was built though something was there: what changed. Empty for a first build.
    error, exit_code
        What went wrong, and whose doing it was (2: what the user gave).
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
    """Make engines.

    Parameters
    ----------
    model
        The file that all jobs build from.
    jobs
        One for each target.
    notice
        Takes lines that a user should see.
    progress
        Called with (percent done of all, 100 for each).

    Returns
    -------
    One outcome for each job, in their order.

    Raises
    ------
    InputError
        Nothing can be built from this file; the message names the module.
    """
    outcomes: dict[int, Outcome] = {}
    for i, job in enumerate(jobs):
        metadata, _ = cache.find(job.engine, job.ingredients(model))
        if metadata is not None and not job.force:
            outcomes[i] = _outcome(job, CACHED, metadata)
    waiting = [i for i in range(len(jobs)) if i not in outcomes]
    if waiting:
        _check(model, jobs[0])
        bar = _Bar(len(waiting), progress)
        with loader_path(jobs[0].software.backend) as environment:
            team = _Team(environment, notice, bar)
            side_by_side = preflight.parallel(model, min(len(waiting), _cores()))
            pool = ThreadPoolExecutor(side_by_side)
            try:
                outcomes |= zip(waiting, pool.map(team.run, (jobs[i] for i in waiting)), strict=True)
            finally:
                team.end()
                pool.shutdown(cancel_futures=True)
    return [outcomes[i] for i in range(len(jobs))]


def _check(model: Model, job: Job) -> None:
    """Lint here too, so that nothing is started for a file that cannot become an engine."""
    from ..runtime.backends.tensorrt_bindings import PLUGINS

    lint.refuse(model, lint.lint(model, [name for name, _, _ in PLUGINS] if job.plugin else ()))


def _outcome(job: Job, state: str, metadata: EngineMetadata, reason: str = "") -> Outcome:
    """Of an engine that is there."""
    activations = metadata.memory.get("activations", 0)
    return Outcome(job.target, job.engine, state, metadata.seconds, metadata.engine_bytes, activations, reason)


class _Bar:
    """One bar for all that are built."""

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


class _Team:
    """The processes that build."""

    def __init__(self, environment: dict[str, str], notice: Callable[[str], None], bar: _Bar) -> None:
        self._environment = environment
        self._notice = notice
        self._bar = bar
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def run(self, job: Job) -> Outcome:
        """Build one engine in a process of its own, and wait for it."""
        if self._ended:
            return Outcome(job.target, job.engine, FAILED, error="not started", exit_code=1)
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,  # An interrupt is ours to handle.
        )
        self._running.add(process)
        try:
            return self._follow(job, process)
        finally:
            self._running.discard(process)
            self._bar.set(job.target, 100)

    def end(self) -> None:
        """Let nothing go on behind an interruption."""
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
            pass  # It died at once; why, it says on stderr.
        reason, last = "", None
        for line in process.stdout:
            event = json.loads(line)
            match event["event"]:
                case "progress":
                    self._bar.set(job.target, event["percent"])
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
        where = f"; what it said is in {log}" if log.exists() else ""
        message = f"the builder's process ended with {ending}{f' ({tail})' if tail else ''}{where}"
        return self._failure(job, message, KeygraphError.exit_code)

    @staticmethod
    def _failure(job: Job, message: str, exit_code: int) -> Outcome:
        return Outcome(job.target, job.engine, FAILED, error=message, exit_code=exit_code)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
