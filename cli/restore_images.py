"""What `restore` and `batch` do with a plan: run it, record and print what became of each image."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

import typer

from ..errors import printable
from ..runtime.earlier_results import skipped_words
from ..runtime.reports import FailedImage, Report
from ..runtime.restore_job import RestoreJob
from ..runtime.restore_plan import RestorePlan
from ..runtime.restorer import Restorer
from ..runtime.results_file import Recipe, ResultsFile, as_record
from ..runtime.tiling.progress import Progress
from .output import folder_progress, progress_bar


class RunJobs(Protocol):
    """`runtime.restore_files.run_jobs` with its model, or another function that runs jobs like it."""

    def __call__(
        self,
        jobs: Sequence[RestoreJob],
        progress: Callable[[str], AbstractContextManager[Progress | None]],
        *,
        fail_fast: bool,
        notice: Callable[[str], None],
        finished: Callable[[Report], None],
    ) -> Generator[Report | FailedImage, None, None]:
        """Run jobs."""


def restore_images(
    run_jobs: RunJobs,
    plan: RestorePlan,
    recipe: Recipe,
    restorer: Restorer,
    model: Path,
    count: int,
    *,
    into_folder: bool,
    fail_fast: bool,
    as_json: bool,
    quiet: bool,
    notice: Callable[[str], None],
) -> None:
    """Restore what was planned; print and record what becomes of each image.

    Parameters
    ----------
    run_jobs
        What runs the jobs.
    plan
        The jobs.
    recipe
        What results are made with.
    restorer, model
        The model, and its file.
    count
        Number of images.
    into_folder
        As for `plan_jobs`.
    fail_fast
        Stop at the first failure.
    as_json, quiet
        What is printed.
    notice
        Called with lines for the user.

    Raises
    ------
    typer.Exit
        Images were not restored: exit code 1.
    KeygraphError
        The first failure, where it stops everything.
    """
    if not quiet and not as_json:
        print(f"{printable(str(model))}: {restorer.description}", file=sys.stderr)
    if words := skipped_words(plan.skipped, plan.changed):
        notice(words)
    if plan.failed:
        notice(f"{len(plan.failed)} of {count} images cannot be restored; they are listed at the end")
    if as_json:
        records = [*(as_record(one, recipe) for one in plan.failed), *(as_record(one, recipe) for one in plan.skipped)]
        for line in records:
            print(json.dumps(line), flush=True)
    failed = list(plan.failed)
    restored: list[Report] = []
    one = count == 1
    stop = fail_fast or (one and not into_folder)
    try:
        with _recording(plan, recipe) as record, folder_progress(len(plan.jobs), quiet=quiet or one) as bars:

            def finished(report: Report) -> None:
                record(report)
                restored.append(report)

            progress = partial(progress_bar, quiet=quiet) if one else bars.of_image
            results = run_jobs(plan.jobs, progress, fail_fast=stop, notice=notice, finished=finished)
            with contextlib.closing(results):
                for result in results:
                    bars.done()
                    if isinstance(result, FailedImage):
                        failed.append(result)
                        record(result)
                    if as_json:
                        bars.print(json.dumps(as_record(result, recipe)))
                    elif isinstance(result, Report) and not quiet:
                        bars.print(_line(result))
    except KeyboardInterrupt:
        if not one:
            left = "; --skip-existing leaves them" if restored else ""
            notice(f"{len(restored)} of {len(plan.jobs)} images were restored before the interruption{left}")
        raise
    finally:  # Also when interrupted.
        for failure in failed:
            print(f"error: {failure.error}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} of {count} images were not restored", file=sys.stderr)
        raise typer.Exit(1)


@contextlib.contextmanager
def _recording(plan: RestorePlan, recipe: Recipe) -> Iterator[Callable[[Report | FailedImage], None]]:
    """Yield what records results and failures in the folder of the results, if anything is restored there."""
    if plan.folder is None or not plan.jobs:
        yield lambda _result: None
        return
    with contextlib.closing(ResultsFile(plan.folder, recipe)) as results:
        for failure in plan.failed:
            results.append(failure)
        yield results.append


def _line(report: Report) -> str:
    tiles = "whole" if report.tiles == 1 else f"{report.tiles} tiles of {report.tile[0]}x{report.tile[1]}"
    if report.overlap:
        tiles += f", overlap {report.overlap}"
    if report.sweeps:
        tiles += f", exact in {report.sweeps} sweeps"
    parts = [printable(f"{report.source} -> {report.target}"), f"{report.width}x{report.height}", tiles]
    if report.padded:
        parts.append("padded and cropped")
    if report.k is not None:
        parts.append(f"k {report.k}")
    parts.append(f"{report.seconds:.2f} s")
    return "  ".join(parts) + (f"  ({printable('; '.join(report.notices))})" if report.notices else "")
