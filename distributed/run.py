"""Restoring many image files with workers: the driver's part of `runtime.restore_files.run_jobs`."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..errors import DiskFullError, InputError, KeygraphError
from ..files import unwritable
from ..runtime.backends.base import check_number
from ..runtime.companion_files import content_digest
from ..runtime.device.budget import parse_size
from ..runtime.device.spec import device_for
from ..runtime.reports import FailedImage, Report, read_states
from ..runtime.restore_files import recorded, run_job
from ..runtime.restore_job import RestoreJob
from ..runtime.restorer import Restorer
from ..runtime.tiling.progress import Progress
from ..temporary_files import temporary_path
from ..version import version
from .cluster import connected, share_of
from .session import RemoteSession
from .worker import Outcome, Probe, Setup
from .workers import Workers


@contextlib.contextmanager
def opened(
    model: Path,
    address: str,
    notice: Callable[[str], None],
    *,
    workers: int | None = None,
    device: str | None = None,
    provider: str | None = None,
    threads: int | None = None,
    memory: str | None = None,
    **options: Any,
) -> Iterator[tuple[Restorer, Workers]]:
    """Start workers with a model in a Ray cluster while the block runs.

    Parameters
    ----------
    model
        As for `keygraph.load`, under a path that all machines share.
    address
        As for `cluster.connected`.
    notice
        Called with lines for the user.
    workers
        How many; None for one per GPU, or one per share of the cores.
    device, provider, threads, memory, **options
        As for `keygraph.load`, of each worker.

    Yields
    ------
    restorer, workers
        The restorer plans jobs for the workers, and restores the tiles of a large picture with all of them.

    Raises
    ------
    InputError
        The model cannot be loaded, or a machine lacks it or another file.
    """
    check_number("threads", threads)
    on_gpu = device_for(device, model, provider).kind == "cuda"
    if on_gpu and device not in (None, "cuda"):
        raise InputError(f"the device is {device!r}, and Ray gives each worker a GPU of its own; give --device cuda")
    budget = None if memory is None else parse_size(memory)
    given = {"device": device, "provider": provider, "memory": budget, **options}
    # What is wrong with the file is said before anything is started.
    digest = content_digest(model) if model.is_file() else ""
    with connected(address):
        share = share_of(on_gpu, workers, threads)
        setup = Setup(version(), Path.cwd(), model, digest, {**given, "threads": share.threads})
        with contextlib.closing(Workers(setup, share, notice)) as started:
            described, notices = started.check()
            for line in notices:
                notice(line)
            yield Restorer(RemoteSession(started, described), budget), started


def run_jobs(
    restorer: Restorer,
    workers: Workers,
    jobs: Sequence[RestoreJob],
    progress: Callable[[str], AbstractContextManager[Progress | None]] = lambda _name: nullcontext(),
    *,
    fail_fast: bool,
    notice: Callable[[str], None],
    finished: Callable[[Report], None],
) -> Generator[Report | FailedImage, None, None]:
    """Restore several image files; one that fails does not stop the others.

    A picture that is more than the even share of one worker is restored by all of them, with the driver decoding,
    blending and encoding it; such pictures are restored one by one, and the other images meanwhile.

    Parameters
    ----------
    restorer, workers
        What `opened` gave.
    jobs
        What is read and written, and how.
    progress, fail_fast, notice
        As for `restore_files.run_jobs`. With `fail_fast`, other images may still be completed after the first failure.
    finished
        Called in the caller's thread with each report.

    Yields
    ------
    Report | FailedImage
        One for each job, as they end.

    Raises
    ------
    KeygraphError
        As `restore_files.run_job`, with `fail_fast`; or the workers do not see the files.
    """
    if not jobs:
        return
    ended: SimpleQueue[_Ended] = SimpleQueue()
    share = sum(map(_pixels, jobs)) / len(workers)
    large = [job for job in jobs if is_spread(restorer, job, share)]
    others = deque(job for job in jobs if not is_spread(restorer, job, share))
    running, disk_full = 0, False
    with contextlib.ExitStack() as stack:
        workers.check(stack.enter_context(_probe(jobs[0])))
        stack.enter_context(_restoring_large(restorer, workers, large, progress, notice, ended))
        for _ in jobs:
            while others and running < workers.most_calls:
                job = others.popleft()
                if disk_full:
                    ended.put(_Ended(job, KeygraphError(f"{job.image.file}: not restored, because the disk is full")))
                else:
                    _submit(workers, job, notice, ended)
                running += 1
            one = ended.get()
            running -= not one.by_all
            try:
                if isinstance(one.result, Exception):
                    raise one.result
                finished(one.result)
                yield one.result
            except Exception as error:
                if fail_fast:
                    raise
                disk_full = disk_full or isinstance(error, DiskFullError)
                yield FailedImage.of(one.job.image.file, error)


def is_spread(restorer: Restorer, job: RestoreJob, share: float) -> bool:
    """Return whether all workers restore the tiles of one picture: the others would wait for its only one at the end.

    Parameters
    ----------
    restorer
        The restorer of `opened`.
    job
        The picture.
    share
        Pixels of the results that are the even share of one worker.
    """
    by_tiles = not restorer.manifest.global_statistics or job.options.global_statistics == "tile"
    return job.space is not None and by_tiles and _pixels(job) > share


def _pixels(job: RestoreJob) -> int:
    return job.size[0] * job.size[1]


@dataclass(frozen=True)
class _Ended:
    """A job that has ended: its report or its error, and whether all workers restored it."""

    job: RestoreJob
    result: Report | Exception
    by_all: bool = False


def _submit(workers: Workers, job: RestoreJob, notice: Callable[[str], None], ended: SimpleQueue[_Ended]) -> None:
    """Let a worker restore an image."""

    def end(call: Future[Outcome[Report]]) -> None:
        try:
            outcome = call.result()
            for line in outcome.notices:
                notice(line)
            ended.put(_Ended(job, outcome.result()))
        except Exception as error:
            ended.put(_Ended(job, error))

    workers.submit("restore", job).add_done_callback(end)


@contextlib.contextmanager
def _restoring_large(
    restorer: Restorer,
    workers: Workers,
    jobs: Sequence[RestoreJob],
    progress: Callable[[str], AbstractContextManager[Progress | None]],
    notice: Callable[[str], None],
    ended: SimpleQueue[_Ended],
) -> Iterator[None]:
    """Restore pictures one by one with all workers, in a thread; stop it, and all calls, when the block ends."""
    stopped = threading.Event()

    def restore(job: RestoreJob) -> Report:
        states = read_states(job.files)
        with progress(job.image.file.path.name) as of_job:
            report = run_job(restorer, job, of_job, notice)
        return recorded(report, job, states)

    def restore_all() -> None:
        for job in jobs:
            if stopped.is_set():
                return
            try:
                ended.put(_Ended(job, restore(job), by_all=True))
            except Exception as error:
                ended.put(_Ended(job, error, by_all=True))

    thread = threading.Thread(target=restore_all, name="keygraph-large")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        workers.stop()
        thread.join()


@contextlib.contextmanager
def _probe(job: RestoreJob) -> Iterator[Probe]:
    """Write a file by which workers are seen to share the folder of the results."""
    file, token = temporary_path(job.target), secrets.token_hex(8)
    try:
        file.write_text(token)
        yield Probe(file, token, job.image.file.path)
    except OSError as error:
        raise unwritable(file, error) from error
    finally:
        file.unlink(missing_ok=True)
