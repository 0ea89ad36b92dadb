"""``keygraph restore``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import load
from ..errors import InputError, KeygraphError
from ..runtime.restore_files import Report, run_job
from ..runtime.restore_job import plan_jobs
from ..runtime.restore_options import RestoreOptions
from .inputs import INPUT_HELP, find_images, parse_inputs
from .output import note, progress_bar


def restore(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...",
            help="Images (PNG, JPEG, TIFF, WebP), cubes (.mat, .npy, .npz, .hdr, TIFF; FILE:VARIABLE), or folders.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="OUT", help="A file for one image; a folder, made if need be, for several."
        ),
    ],
    model: Annotated[
        Path, typer.Option("--model", metavar="M", help="An exported .onnx file, an engine, or a checkpoint.")
    ],
    beside: Annotated[list[str] | None, typer.Option("--input", metavar="NAME=FILE", help=INPUT_HELP)] = None,
    preview: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw the bands of a spectrum, and its colours, into this.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda|cuda:N", help="Where it runs; by itself, what the model is for.")
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(metavar="cpu|cuda|tensorrt", help="For .onnx files: ONNX Runtime's execution provider."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", metavar="N", help="Neighbours of each node; the model's default.")
    ] = None,
    tile: Annotated[
        str, typer.Option(metavar="N|none|auto", help="Side of the tiles in pixels; none: whole.")
    ] = "auto",
    overlap: Annotated[str, typer.Option(metavar="N|auto", help="Least overlap of tiles in pixels.")] = "auto",
    batch: Annotated[int | None, typer.Option(metavar="N", help="Tiles that run together.")] = None,
    global_statistics: Annotated[
        str | None,
        typer.Option(
            metavar="exact|tile",
            help="How images are cut that do not fit whole, for models with sums over the image: with the whole "
            "image's result (features on disk), or each tile by itself. Exact where the model can.",
        ),
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where features are kept; the system's temporary folder.")
    ] = None,
    allow_host_code: Annotated[
        bool,
        typer.Option("--allow-host-code", help="Let an engine run its own code here: only if you trust its maker."),
    ] = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Threads per operator; one per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
) -> None:
    """Restore images with an exported model or a checkpoint.

    In a folder of results every image keeps its name; a spectrum restored from a picture becomes a .mat file.
    Existing results are replaced; inputs never are.
    """
    extra_inputs = parse_inputs(beside or [])
    images = find_images(inputs, extra_inputs)
    options = RestoreOptions(
        k=k,
        tile=_pixels(tile, "tile", "none", "auto"),
        overlap=_pixels(overlap, "overlap", "auto"),
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
        notice=_silent if quiet else note,
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


def _pixels(text: str, name: str, *words: str) -> int | str:
    """Return a size in pixels, or one of the words."""
    if text in words:
        return text
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--{name} is {text!r}; give pixels, or {' or '.join(words)}") from None


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


def _silent(_message: str) -> None:
    """Ignore a note."""
