"""``keygraph restore``."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .. import load
from ..errors import InputError, KeygraphError
from ..runtime import restore_files
from ..runtime.backends.base import resolve_k
from ..runtime.io import cubes
from ..runtime.io.input_files import Source, inputs_of
from ..runtime.preprocess.normalization import is_spectrum
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
            help="Images (PNG, JPEG, TIFF, WebP), cubes (.mat, .npy, .npz, .hdr, TIFF; FILE:VARIABLE), or folders.",
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
    others = parse_inputs(beside or [])
    sources = find_images(inputs, others)
    sizes = {
        "tile": parse_pixels(tile, "--tile", "none", "auto"),
        "overlap": parse_pixels(overlap, "--overlap", "auto"),
    }
    restorer = load(
        model,
        device=device,
        provider=provider,
        threads=threads,
        allow_host_code=allow_host_code,
        notice=no_note if quiet else note,
    )
    # Everything that can be known without decoding a pixel is known before the first image is touched.
    resolve_k(restorer.manifest, k)
    several = len(sources) > 1 or any(given.is_dir() for given in inputs)
    jobs = plan_jobs(sources, others, out, several, is_spectrum(restorer.manifest))
    if preview is not None and len(jobs) > 1:
        raise InputError(f"--preview is for one image, and there are {len(jobs)}; restore the one to look at alone")
    for job in jobs:
        restore_files.check_source(restorer, job.source, job.inputs)
    if jobs[0].target != out:
        _make_folder(out)
    for job in jobs:
        restore_files.check(restorer, job.source, job.target, job.inputs, preview)
    if not quiet and not as_json:
        print(f"{model}: {restorer.description}", file=sys.stderr)
    worst = 0
    for job in jobs:
        try:
            with progress_bar(job.source.path.name, quiet=quiet) as progress:
                report = restore_files.restore_file(
                    restorer,
                    job.source,
                    job.target,
                    k,
                    inputs=job.inputs,
                    preview=preview,
                    **sizes,
                    batch=batch,
                    global_statistics=global_statistics,
                    scratch=scratch,
                    progress=progress,
                )
        except KeygraphError as error:
            if len(jobs) == 1:
                raise
            worst = max(worst, error.exit_code)
            if as_json:
                print(json.dumps({"source": str(job.source), "error": str(error)}), flush=True)
            print(f"error: {error}", file=sys.stderr)
            continue
        if as_json:
            print(json.dumps(dataclasses.asdict(report)), flush=True)
        elif not quiet:
            print(_line(report), flush=True)
    raise typer.Exit(worst)


@dataclass(frozen=True)
class Job:
    """One image to restore.

    Attributes
    ----------
    source
        The image.
    inputs
        What goes with it.
    target
        Where its result goes.
    """

    source: Source
    inputs: dict[str, Source]
    target: Path


def plan_jobs(
    sources: list[Source], beside: Mapping[str, Source], out: Path, several: bool, spectral: bool
) -> list[Job]:
    """Give every image what goes with it, and its result a place.

    `out` is a folder when there is one, when its name has no suffix, or for `several` images; else it is a file. In a
    folder a picture's result that is `spectral` ends with .mat.

    Raises
    ------
    InputError
        Something is missing in a folder, or two images would have the same result.
    """
    if not several and not out.is_dir() and out.suffix:
        return [Job(sources[0], inputs_of(sources[0], beside), out)]
    if out.is_file():
        raise InputError(f"{out} is a file; name a folder for several images")
    jobs: dict[Path, Job] = {}
    for source in sources:
        name = Path(source.path.name)
        if spectral and name.suffix.lower() not in cubes.FORMATS:
            name = name.with_suffix(".mat")
        if out / name in jobs:
            raise InputError(f"two of the inputs are called {name}; restore them into different folders")
        jobs[out / name] = Job(source, inputs_of(source, beside), out / name)
    return list(jobs.values())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}; choose another place with -o") from error


def _line(report: restore_files.Report) -> str:
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
