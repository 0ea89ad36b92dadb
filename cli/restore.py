"""``keygraph restore``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .. import load
from ..errors import InputError, printable
from ..runtime.earlier_results import skipped_words
from ..runtime.io.encoding import COMPRESSIONS, Encoding
from ..runtime.io.input_files import is_image_folder
from ..runtime.reports import FailedImage, Report
from ..runtime.restore_files import run_jobs
from ..runtime.restore_options import RestoreOptions
from ..runtime.restore_plan import RestorePlan, plan_jobs
from ..runtime.results_file import Recipe, ResultsFile, as_record
from ..runtime.video.probe import SUFFIXES
from ..runtime.video.restore import VideoOptions
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
from .restore_video import PIPE, check_names, check_options, restore_video
from .video_arguments import Codec, Crf, Matrix, PixFmt, Segment


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
            "FILE:VARIABLE), slides, OME-Zarr and Zarr stores, or folders; or one video, or - for YUV4MPEG2 frames.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="OUT", help="File for one image or video; folder for several images; - for frames."
        ),
    ],
    model: Annotated[
        Path, typer.Option("--model", metavar="M", help="An exported .onnx file, an engine, or a checkpoint.")
    ],
    beside: ExtraInputs = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="PICTURE", help="Draw the bands of a spectral result, and its colours, into this file."),
    ] = None,
    pyramid: Annotated[
        bool,
        typer.Option(
            "--pyramid",
            help="Write a TIFF as a pyramid of tiles, for viewers of large images. It is one anyway where the image "
            "is one.",
        ),
    ] = False,
    compression: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(COMPRESSIONS),
            help="Compression of a TIFF (default deflate) or an OME-Zarr (default zstd). jpeg changes samples, the "
            "others do not.",
        ),
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
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most memory that restoring may take beside the model and the images that are read, such as 512M or "
            "4G; by default what is free.",
            rich_help_panel="Execution",
        ),
    ] = None,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", help="Stop at the first of several images that cannot be restored."),
    ] = False,
    codec: Codec = None,
    crf: Crf = None,
    pix_fmt: PixFmt = None,
    matrix: Matrix = None,
    segment: Segment = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    quiet: Quiet = False,
) -> None:
    """Restore images or a video with an exported model or a checkpoint.

    In an output folder each result has the name of its image; a spectral result of a picture becomes a .mat file, and
    a picture in a format that is only read a .png file. Existing results are replaced, inputs never. Of several images,
    those that cannot be restored are listed at the end, with exit code 1; results.jsonl in the output folder records
    how each was made. Of a video, sound, subtitles and times are kept; after an interruption the same command goes on.
    """
    notice = no_note if quiet else note
    video = str(out) == PIPE or any(str(given) == PIPE or given.suffix.lower() in SUFFIXES for given in inputs)
    if video:
        check_names(inputs, out)
    video_options = VideoOptions(codec, crf, pix_fmt, matrix, segment)
    images_only = {
        "--input": beside,
        "--preview": preview,
        "--compression": compression,
        "--pyramid": pyramid,
        "--recursive": recursive,
        "--skip-existing": skip_existing,
        "--jobs": jobs,
        "--fail-fast": fail_fast,
    }
    check_options(video, video_options, images_only)
    extra_inputs = parse_inputs(beside or [])
    images = [] if video else find_images(inputs, extra_inputs, notice, recursive=recursive, results=out)
    options = RestoreOptions(
        k=k,
        tile=parse_pixels(tile, "--tile", "none", "auto"),
        overlap=parse_pixels(overlap, "--overlap", "auto"),
        batch=batch,
        global_statistics=global_statistics,
        scratch=scratch,
    )
    encoding = Encoding(compression, pyramid)
    restorer = load(
        model,
        device=device,
        provider=provider,
        threads=threads,
        precision_hint=precision_hint,
        streams=streams,
        memory=memory,
        allow_host_code=allow_host_code,
        notice=notice,
    )
    if video:
        restore_video(
            restorer, model, inputs[0], out, options, video_options, as_json=as_json, quiet=quiet, notice=notice
        )
        return
    into_folder = any(is_image_folder(given) for given in inputs)
    recipe = Recipe.of(restorer, options, encoding)
    plan = plan_jobs(
        restorer,
        images,
        extra_inputs,
        out,
        options,
        preview=preview,
        encoding=encoding,
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
            results = run_jobs(
                restorer, plan.jobs, progress, fail_fast=stop, notice=notice, threads=jobs, finished=finished
            )
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
