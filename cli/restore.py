"""``keygraph restore``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .. import load
from ..errors import InputError, printable
from ..runtime.earlier_results import skipped_words
from ..runtime.reports import FailedImage, Report
from ..runtime.restore_files import run_jobs
from ..runtime.restore_job import RestorePlan, plan_jobs
from ..runtime.restore_options import RestoreOptions
from ..runtime.results_file import Recipe, ResultsFile, as_record
from .arguments import (
    AllowHostCode,
    Batch,
    Device,
    ExtraInputs,
    GlobalStatistics,
    K,
    Overlap,
    PrecisionHint,
    ProviderOrAuto,
    Quiet,
    Scratch,
    Streams,
    Threads,
    Tile,
    parse_pixels,
)
from .inputs import find_images, parse_inputs
from .output import folder_progress, no_note, note, progress_bar


def _at_least_one(jobs: int | None) -> int | None:
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is {jobs}; give at least 1")
    return jobs


def restore(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...",
            help="Images (PNG, JPEG, TIFF, WebP, AVIF, HEIC; FILE:N is page N), cubes (.mat, .npy, .npz, .hdr, TIFF; "
            "FILE:VARIABLE), or folders.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="OUT", help="File for one image; folder for several, made if needed."),
    ],
    model: Annotated[
        Path, typer.Option("--model", metavar="M", help="An exported .onnx file, an engine, or a checkpoint.")
    ],
    beside: ExtraInputs = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="PICTURE", help="Draw the bands of a spectral result, and its colours, into this file."),
    ] = None,
    device: Device = None,
    provider: ProviderOrAuto = None,
    k: K = None,
    tile: Tile = "auto",
    overlap: Overlap = "auto",
    batch: Batch = None,
    global_statistics: GlobalStatistics = None,
    scratch: Scratch = None,
    allow_host_code: AllowHostCode = False,
    threads: Threads = None,
    precision_hint: PrecisionHint = None,
    streams: Streams = None,
    recursive: Annotated[
        bool,
        typer.Option("--recursive", help="Search the folders below a folder, too; results keep the subfolders."),
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave results that exist, unless results.jsonl says that the model, an option or the image changed.",
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="N",
            help="Threads that decode and encode some of several images while one is computed; by default one per "
            "core.",
            callback=_at_least_one,
        ),
    ] = None,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", help="Stop at the first of several images that cannot be restored."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    quiet: Quiet = False,
) -> None:
    """Restore images with an exported model or a checkpoint.

    In an output folder each result has the name of its image; a spectral result of a picture becomes a .mat file, and
    a picture in a format that is only read a .png file. Existing results are replaced, inputs never. Of several images,
    those that cannot be restored are listed at the end, with exit code 1; results.jsonl in the output folder records
    how each was made.
    """
    notice = no_note if quiet else note
    extra_inputs = parse_inputs(beside or [])
    images = find_images(inputs, extra_inputs, notice, recursive=recursive, results=out)
    options = RestoreOptions(
        k=k,
        tile=parse_pixels(tile, "--tile", "none", "auto"),
        overlap=parse_pixels(overlap, "--overlap", "auto"),
        batch=batch,
        global_statistics=global_statistics,
        scratch=scratch,
    )
    restorer = load(
        model,
        device=device,
        provider=provider,
        threads=threads,
        precision_hint=precision_hint,
        streams=streams,
        allow_host_code=allow_host_code,
        notice=notice,
    )
    into_folder = any(os.path.isdir(given) for given in inputs)
    recipe = Recipe.of(restorer, model, options)
    plan = plan_jobs(
        restorer,
        images,
        extra_inputs,
        out,
        options,
        preview=preview,
        into_folder=into_folder,
        fail_fast=fail_fast,
        skip_existing=recipe if skip_existing else None,
        read=[model],
    )
    if not quiet and not as_json:
        print(f"{printable(str(model))}: {restorer.description}", file=sys.stderr)
    if words := skipped_words(plan.skipped, plan.changed):
        notice(words)
    if plan.failed:
        notice(f"{len(plan.failed)} of {len(images)} images cannot be restored; they are listed at the end")
    if as_json:
        records = [*(as_record(one, recipe) for one in plan.failed), *(as_record(one, recipe) for one in plan.skipped)]
        for line in records:
            print(json.dumps(line), flush=True)
    failed = list(plan.failed)
    restored: list[Report] = []
    stop = fail_fast or (len(images) == 1 and not into_folder)
    one = len(images) == 1
    try:
        with _recording(plan, recipe) as record, folder_progress(len(plan.jobs), quiet=quiet or one) as bars:

            def finished(report: Report) -> None:
                record(report)
                restored.append(report)

            progress = partial(progress_bar, quiet=quiet) if one else bars.of_image
            results = run_jobs(restorer, plan.jobs, progress, fail_fast=stop, threads=jobs, finished=finished)
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
        print(f"error: {len(failed)} of {len(images)} images were not restored", file=sys.stderr)
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
