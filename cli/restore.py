"""``keygraph restore``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .. import load
from ..runtime.io.encoding import Encoding
from ..runtime.io.input_files import is_image_folder
from ..runtime.restore_files import run_jobs
from ..runtime.restore_options import RestoreOptions
from ..runtime.restore_plan import plan_jobs
from ..runtime.results_file import Recipe
from ..runtime.video.probe import SUFFIXES
from ..runtime.video.restore import VideoOptions
from .arguments import (
    AllowHostCode,
    Batch,
    Compression,
    Device,
    ExtraInputs,
    FailFast,
    GlobalStatistics,
    JsonLines,
    K,
    Model,
    Overlap,
    PrecisionHint,
    ProviderOrAuto,
    Pyramid,
    Quiet,
    Recursive,
    Scratch,
    SkipExisting,
    Streams,
    Threads,
    Tile,
    at_least_one,
    parse_pixels,
)
from .inputs import find_images, parse_inputs
from .output import no_note, note
from .restore_images import restore_images
from .restore_video import PIPE, check_names, check_options, restore_video
from .video_arguments import Codec, Crf, Matrix, PixFmt, Raw, Segment


def restore(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...",
            help="Images (PNG, JPEG, TIFF, WebP, AVIF, HEIC; FILE:N is page N), cubes (.mat, .npy, .npz, .hdr, TIFF; "
            "FILE:VARIABLE), slides, OME-Zarr and Zarr stores, or folders; or one video, or - for frames.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="OUT", help="File for one image or video; folder for several images; - for frames."
        ),
    ],
    model: Model,
    beside: ExtraInputs = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="PICTURE", help="Draw the bands of a spectral result, and its colours, into this file."),
    ] = None,
    pyramid: Pyramid = False,
    compression: Compression = None,
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
    recursive: Recursive = False,
    skip_existing: SkipExisting = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            metavar="N",
            help="Threads that decode and encode some of several images while one is computed; by default one per "
            "core.",
            callback=at_least_one,
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
    fail_fast: FailFast = False,
    codec: Codec = None,
    crf: Crf = None,
    pix_fmt: PixFmt = None,
    matrix: Matrix = None,
    segment: Segment = None,
    raw: Raw = None,
    as_json: JsonLines = False,
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
    video_options = VideoOptions(codec, crf, pix_fmt, matrix, segment, raw)
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
    restore_images(
        partial(run_jobs, restorer, threads=jobs),
        plan,
        recipe,
        restorer,
        model,
        len(images),
        into_folder=into_folder,
        fail_fast=fail_fast,
        as_json=as_json,
        quiet=quiet,
        notice=notice,
    )
