"""Restoring image files into image files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DiskFullError, KeygraphError
from .companion_files import written_with
from .device.memory import available
from .device.processor import usable_cores
from .io.encoding import Encoding
from .io.input_files import InputFile
from .notices import warn
from .pipeline import overlapped
from .reports import FailedImage, FileState, Report, file_states, read_states
from .restore_in_files import goes_through_files, restore_in_files
from .restore_in_memory import Computed, Decoded, compute, decode, encode
from .restore_job import RestoreJob
from .restore_options import RestoreKeywords, RestoreOptions
from .restore_plan import plan_job
from .restored import Restored
from .restorer import Restorer
from .result_places import check_formats, check_places
from .tiling.progress import CancelToken, Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Bytes that the images which are decoded ahead or not yet encoded may take, and at most this share of what is free.
_MOST_BYTES = 1 << 30
_SHARE = 8


#: The files that were read, by input.
_States = Mapping[str, tuple[FileState, ...]]


@dataclass(frozen=True)
class _Turn:
    """A job, and whether it is restored region by region, from file to file."""

    job: RestoreJob
    streamed: bool


def restore_file(
    restorer: Restorer,
    image: str | os.PathLike[str] | InputFile,
    target: str | os.PathLike[str],
    k: int | None = None,
    *,
    inputs: Mapping[str, str | os.PathLike[str] | InputFile] | None = None,
    preview: str | os.PathLike[str] | None = None,
    compression: str | None = None,
    pyramid: bool = False,
    progress: Progress | None = None,
    **options: Unpack[RestoreKeywords],
) -> Report:
    """Restore one image file into another, whose suffix gives its format.

    Alpha is not restored: the model gets the colours only.

    Parameters
    ----------
    restorer
        The model.
    image, target
        PNG, JPEG, TIFF or WebP files (`image` also AVIF, HEIC and slides), Zarr stores, or cubes
        (`cubes.FORMATS`). An existing target is replaced, and is never left half-written.
    inputs
        Files with the model's other inputs, by name; as for `Restorer.restore`.
    preview
        File for a picture of a spectrum's bands; None for none.
    compression, pyramid
        How the result is encoded; see `io.encoding.Encoding`.
    k, progress
        As for `Restorer.restore`.
    **options
        `tile`, `overlap`, `batch`, `global_statistics` and `scratch`; see `RestoreOptions`.

    Raises
    ------
    InputError
        A file, an option or a target is not possible.
    KeygraphError
        The model failed.
    """
    job = plan_job(
        restorer,
        InputFile.parse(image),
        {name: InputFile.parse(file) for name, file in (inputs or {}).items()},
        Path(target),
        RestoreOptions(k, **options),
        None if preview is None else Path(preview),
        Encoding(compression, pyramid),
    )
    check_places([job], [])
    check_formats(job)
    return run_job(restorer, job, progress)


def run_jobs(
    restorer: Restorer,
    jobs: Sequence[RestoreJob],
    progress: Callable[[str], AbstractContextManager[Progress | None]] = lambda _name: nullcontext(),
    *,
    fail_fast: bool = False,
    notice: Callable[[str], None] = warn,
    threads: int | None = None,
    finished: Callable[[Report], None] = lambda _report: None,
) -> Generator[Report | FailedImage, None, None]:
    """Restore several image files; one that fails does not stop the others.

    While one image is computed in the caller's thread, the next ones are decoded and the last ones encoded in others.
    Images that are restored region by region, because they need not fit in memory, are read and written in their turn.
    When the disk of the results is full, the images that are left fail without being computed.

    Parameters
    ----------
    restorer
        The model for which the jobs were planned.
    jobs
        What is read and written, and how.
    progress
        Called with the name of each image; gives the context, in which the image is restored, of its `progress`.
    fail_fast
        Raise the error of the first image that fails, and write nothing after it.
    notice
        As for `run_job`.
    threads
        Number of threads that decode and encode; None for one per core; 0 to decode, compute and encode in turn.
    finished
        Called with each report as soon as the result is complete, in any order and in any thread. What it raises, the
        image fails with.

    Yields
    ------
    Report | FailedImage
        One for each job, in order.

    Raises
    ------
    KeygraphError
        As `run_job`, with `fail_fast`.
    """
    full = threading.Event()

    @contextlib.contextmanager
    def noticing_a_full_disk() -> Iterator[None]:
        try:
            yield
        except DiskFullError:
            full.set()
            raise

    def check_disk(job: RestoreJob) -> None:
        if full.is_set():
            raise KeygraphError(f"{job.image.file}: not restored, because the disk is full")

    def prepare(turn: _Turn) -> tuple[_States, Decoded | None]:
        return read_states(turn.job.files), None if turn.streamed else decode(turn.job)

    def run(turn: _Turn, prepared: tuple[_States, Decoded | None]) -> tuple[_States, Computed | Report]:
        check_disk(turn.job)
        states, decoded = prepared
        with noticing_a_full_disk(), progress(turn.job.image.file.path.name) as of_job:
            if decoded is None:
                return states, run_job(restorer, turn.job, of_job, notice)
            return states, compute(restorer, turn.job, decoded, of_job)

    def finish(turn: _Turn, computed: tuple[_States, Computed | Report]) -> Report:
        job, (states, result) = turn.job, computed
        with noticing_a_full_disk():
            if isinstance(result, Computed):
                check_disk(job)
                result = _encoded(restorer, job, result)
            result = recorded(result, job, states)
            finished(result)
        return result

    outcomes = overlapped(
        # Lazily: whether an image is streamed depends on the memory that is free.
        (_Turn(job, _is_streamed(restorer, job)) for job in jobs),
        prepare,
        run,
        finish,
        cost=lambda turn: 0 if turn.streamed else turn.job.memory_bytes,
        limit=min(_MOST_BYTES, (available() or _MOST_BYTES) // _SHARE),
        threads=(usable_cores() if threads is None else threads) if len(jobs) > 1 else 0,
        stop_at_failure=fail_fast,
    )
    with contextlib.closing(outcomes):
        for turn, outcome in outcomes:
            if isinstance(outcome, Report):
                yield outcome
            elif fail_fast:
                raise outcome
            else:
                yield FailedImage.of(turn.job.image.file, outcome)


def run_job(
    restorer: Restorer,
    job: RestoreJob,
    progress: Progress | None = None,
    notice: Callable[[str], None] = warn,
    cancel: CancelToken | None = None,
) -> Report:
    """Restore one image file.

    Parameters
    ----------
    restorer
        The model for which the job was planned.
    job
        What is read and written, and how.
    progress
        Called with (tiles done, tiles in all).
    notice
        Called with a line when an earlier run of the job goes on, and when this one is stopped and can go on.
    cancel
        As for `Restorer.restore`.

    Raises
    ------
    InputError
        A file cannot be decoded or written, or an earlier run of the job was of another image, model or option.
    KeygraphError
        The model failed, or `cancel` was set (`CancelledError`).
    """
    if job.tiled and goes_through_files(restorer, job):
        return _report(restorer, job, *restore_in_files(restorer, job, progress, notice, cancel))
    return _encoded(restorer, job, compute(restorer, job, decode(job), progress, cancel))


def restore_recorded(
    restorer: Restorer,
    job: RestoreJob,
    notice: Callable[[str], None],
    computing: AbstractContextManager[object],
) -> Report:
    """Restore one image file, and report with the states of its files, as for one of several.

    Parameters
    ----------
    restorer, job, notice
        As for `run_job`.
    computing
        Entered while the model runs: another thread may decode or encode meanwhile.

    Raises
    ------
    KeygraphError
        As `run_job`.
    """
    states = read_states(job.files)
    if _is_streamed(restorer, job):
        with computing:
            report = run_job(restorer, job, None, notice)
    else:
        decoded = decode(job)
        with computing:
            computed = compute(restorer, job, decoded, None)
        report = _encoded(restorer, job, computed)
    return recorded(report, job, states)


def recorded(report: Report, job: RestoreJob, read: _States) -> Report:
    """Return a report with what the record of a folder keeps: the states of what was read before, and written now.

    Parameters
    ----------
    report, job
        Of one image.
    read
        From `read_states`, before anything was read.
    """
    return dataclasses.replace(report, read=read, written=file_states(written_with(job.target)))


def _encoded(restorer: Restorer, job: RestoreJob, computed: Computed) -> Report:
    notices = encode(restorer, job, computed)
    return _report(restorer, job, computed.restored, computed.seconds, notices)


def _report(restorer: Restorer, job: RestoreJob, restored: Restored, seconds: float, notices: Sequence[str]) -> Report:
    return Report(
        source=str(job.image.file),
        target=str(job.target),
        height=job.size[0],
        width=job.size[1],
        k=restored.k,
        tiles=restored.plan.count,
        tile=restored.tile,
        overlap=restored.overlap,
        batch=restored.batch,
        padded=restored.padded,
        sweeps=restored.sweeps,
        seconds=round(seconds, 3),
        engine=restorer.description,
        notices=tuple(notices),
    )


def _is_streamed(restorer: Restorer, job: RestoreJob) -> bool:
    """Return whether the job goes through files; what that raises is raised again when the image's turn comes."""
    try:
        return job.tiled and goes_through_files(restorer, job)
    except Exception:
        return False
