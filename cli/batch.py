"""``keygraph batch``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..files import read_start
from ..runtime.io.encoding import Encoding
from ..runtime.io.input_files import is_image_folder
from ..runtime.restore_options import RestoreOptions
from ..runtime.restore_plan import plan_jobs
from ..runtime.results_file import Recipe
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
    Provider,
    Pyramid,
    Quiet,
    Recursive,
    Scratch,
    SkipExisting,
    Streams,
    Tile,
    at_least_one,
    parse_pixels,
)
from .inputs import find_images, parse_inputs
from .output import no_note, note
from .restore_images import restore_images


def batch(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Images, cubes, slides, or folders of them.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="File for one image; folder for several images.")
    ],
    model: Model,
    ray: Annotated[
        str,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="The Ray cluster: HOST:PORT, or auto for the one that this machine belongs to; by default Ray is "
            "started on this machine for this command.",
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Processes with a model each; by default one per GPU, or one per four CPU cores.",
            callback=at_least_one,
        ),
    ] = None,
    beside: ExtraInputs = None,
    pyramid: Pyramid = False,
    compression: Compression = None,
    device: Device = None,
    provider: Provider = None,
    k: K = None,
    tile: Tile = "auto",
    overlap: Overlap = "auto",
    batch: Batch = None,
    global_statistics: GlobalStatistics = None,
    scratch: Scratch = None,
    allow_host_code: AllowHostCode = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            help="Threads of a worker on the CPU; by default its share of the cores.",
            rich_help_panel="Execution",
        ),
    ] = None,
    precision_hint: PrecisionHint = None,
    streams: Streams = None,
    recursive: Recursive = False,
    skip_existing: SkipExisting = False,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most memory that restoring may take in each worker, such as 512M or 4G; by default what is free.",
            rich_help_panel="Execution",
        ),
    ] = None,
    fail_fast: FailFast = False,
    as_json: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Restore images on many machines, or with many processes, with Ray.

    Results, results.jsonl and --skip-existing are those of `restore`. All machines need the model, the images and the
    results under the same paths. A picture that is more than the share of one worker is restored by all of them. What
    a worker that dies was doing is repeated; after an interruption the same command goes on, with --skip-existing.
    """
    # Late, so that the help needs no Ray.
    from ..distributed.run import opened, run_jobs

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
    encoding = Encoding(compression, pyramid)
    read_start(model, "an exported .onnx file, an engine, or a checkpoint")
    with opened(
        model,
        ray,
        notice,
        workers=workers,
        device=device,
        provider=provider,
        threads=threads,
        memory=memory,
        precision_hint=precision_hint,
        streams=streams,
        allow_host_code=allow_host_code,
    ) as (restorer, started):
        into_folder = any(is_image_folder(given) for given in inputs)
        recipe = Recipe.of(restorer, options, encoding)
        plan = plan_jobs(
            restorer,
            images,
            extra_inputs,
            out,
            options,
            encoding=encoding,
            into_folder=into_folder,
            fail_fast=fail_fast,
            skip_existing=recipe if skip_existing else None,
            read=[model],
        )
        restore_images(
            partial(run_jobs, restorer, started),
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
