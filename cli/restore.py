"""``keygraph restore``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .. import load
from ..errors import printable
from ..runtime.restore_files import Report, run_jobs
from ..runtime.restore_job import FailedImage, plan_jobs
from ..runtime.restore_options import RestoreOptions
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
from .output import no_note, note, progress_bar
from .restore_video import PIPE, check_names, check_options, restore_video
from .video_arguments import Codec, Crf, Matrix, PixFmt, Segment


def restore(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...",
            help="Images (PNG, JPEG, TIFF, WebP, AVIF, HEIC; FILE:N is page N), cubes (.mat, .npy, .npz, .hdr, TIFF; "
            "FILE:VARIABLE), or folders; or one video, or - for YUV4MPEG2 frames.",
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
    those that cannot be restored are listed at the end, with exit code 1. Of a video, sound, subtitles and times are
    kept; after an interruption the same command goes on.
    """
    notice = no_note if quiet else note
    video = str(out) == PIPE or any(str(given) == PIPE or given.suffix.lower() in SUFFIXES for given in inputs)
    if video:
        check_names(inputs, out)
    video_options = VideoOptions(codec, crf, pix_fmt, matrix, segment)
    check_options(video, video_options, {"--input": beside, "--preview": preview, "--fail-fast": fail_fast})
    extra_inputs = parse_inputs(beside or [])
    images = [] if video else find_images(inputs, extra_inputs, notice)
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
    if video:
        restore_video(
            restorer, model, inputs[0], out, options, video_options, as_json=as_json, quiet=quiet, notice=notice
        )
        return
    into_folder = any(os.path.isdir(given) for given in inputs)
    plan = plan_jobs(
        restorer,
        images,
        extra_inputs,
        out,
        options,
        preview=preview,
        into_folder=into_folder,
        fail_fast=fail_fast,
        read=[model],
    )
    if not quiet and not as_json:
        print(f"{printable(str(model))}: {restorer.description}", file=sys.stderr)
    if plan.failed:
        notice(f"{len(plan.failed)} of {len(images)} images cannot be restored; they are listed at the end")
    failed = list(plan.failed)
    if as_json:
        for failure in failed:
            _print_json(failure)
    stop = fail_fast or (len(images) == 1 and not into_folder)
    try:
        for result in run_jobs(restorer, plan.jobs, partial(progress_bar, quiet=quiet), fail_fast=stop):
            if isinstance(result, FailedImage):
                failed.append(result)
            if as_json:
                _print_json(result)
            elif isinstance(result, Report) and not quiet:
                print(_line(result), flush=True)
    finally:  # Also when interrupted.
        for failure in failed:
            print(f"error: {failure.error}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} of {len(images)} images were not restored", file=sys.stderr)
        raise typer.Exit(1)


def _print_json(result: Report | FailedImage) -> None:
    print(json.dumps(dataclasses.asdict(result)), flush=True)


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
