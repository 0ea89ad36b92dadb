"""``keygraph restore``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import load
from ..errors import KeygraphError
from ..runtime.restore_files import Report, run_job
from ..runtime.restore_job import plan_jobs
from ..runtime.restore_options import RestoreOptions
from .arguments import (
    AllowHostCode,
    Batch,
    Device,
    ExtraInputs,
    GlobalStatistics,
    K,
    Overlap,
    Provider,
    Quiet,
    Scratch,
    Threads,
    Tile,
    parse_pixels,
)
from .inputs import find_images, parse_inputs
from .output import no_note, note, progress_bar


def restore(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...",
            help="Images (PNG, JPEG, TIFF, WebP; FILE:N is page N), cubes (.mat, .npy, .npz, .hdr, TIFF; "
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
    provider: Provider = None,
    k: K = None,
    tile: Tile = "auto",
    overlap: Overlap = "auto",
    batch: Batch = None,
    global_statistics: GlobalStatistics = None,
    scratch: Scratch = None,
    allow_host_code: AllowHostCode = False,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    quiet: Quiet = False,
) -> None:
    """Restore images with an exported model or a checkpoint.

    In an output folder each result has the name of its image; a spectral result of a picture becomes a .mat file.
    Existing results are replaced, inputs never.
    """
    extra_inputs = parse_inputs(beside or [])
    images = find_images(inputs, extra_inputs)
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
        allow_host_code=allow_host_code,
        notice=no_note if quiet else note,
    )
    into_folder = any(given.is_dir() for given in inputs)
    jobs = plan_jobs(restorer, images, extra_inputs, out, options, preview=preview, into_folder=into_folder)
    if not quiet and not as_json:
        print(f"{model}: {restorer.description}", file=sys.stderr)
    exit_code = 0
    for job in jobs:
        try:
            with progress_bar(job.image.file.path.name, quiet=quiet) as progress:
                report = run_job(restorer, job, progress)
        except KeygraphError as error:
            if len(jobs) == 1:
                raise
            exit_code = max(exit_code, error.exit_code)
            if as_json:
                print(json.dumps({"source": str(job.image.file), "error": str(error)}), flush=True)
            print(f"error: {error}", file=sys.stderr)
            continue
        if as_json:
            print(json.dumps(dataclasses.asdict(report)), flush=True)
        elif not quiet:
            print(_line(report), flush=True)
    raise typer.Exit(exit_code)


def _line(report: Report) -> str:
    tiles = "whole" if report.tiles == 1 else f"{report.tiles} tiles of {report.tile[0]}x{report.tile[1]}"
    if report.overlap:
        tiles += f", overlap {report.overlap}"
    if report.sweeps:
        tiles += f", exact in {report.sweeps} sweeps"
    parts = [f"{report.source} -> {report.target}", f"{report.width}x{report.height}", tiles]
    if report.padded:
        parts.append("padded and cropped")
    if report.k is not None:
        parts.append(f"k {report.k}")
    parts.append(f"{report.seconds:.2f} s")
    return "  ".join(parts) + (f"  ({'; '.join(report.notices)})" if report.notices else "")
