"""``keygraph serving-repository``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..serving.triton.repository import write_repository
from ..serving.triton.settings import INSTANCES, MOUNTED_AT, Settings, default_name
from .arguments import Quiet
from .output import no_note, note


def serving_repository(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An exported .onnx file, or an engine of TensorRT (.plan).")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="The repository: a new or empty folder.")],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name that clients call; by default the file's. The core is NAME_core."),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", metavar="N", help="Fix the number of neighbours; by default each request may choose it."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="cpu|cuda", help="Where the core runs; by default GPUs for engines, else the CPU."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Most tiles that the server runs together; by default 8 on GPUs, 1 on the CPU, and an engine's own.",
        ),
    ] = None,
    instances: Annotated[
        int, typer.Option(metavar="N", help="Processes that prepare images, one image each at a time.")
    ] = INSTANCES,
    core_instances: Annotated[
        int, typer.Option(metavar="N", help="Copies of the core, on each GPU or on the CPU.")
    ] = 1,
    library: Annotated[
        str,
        typer.Option(metavar="auto|none|FILE", help="Library of the operators; none: the functions in the file."),
    ] = "auto",
    mounted_at: Annotated[str, typer.Option(metavar="PATH", help="Path of the repository on the server.")] = MOUNTED_AT,
    quiet: Quiet = False,
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server.

    It has two models: the core, which is the network, and one that takes images and sends their tiles to the core. No
    server was there to try it; see its README.md.
    """
    settings = Settings(
        name=default_name(model) if name is None else name,
        k=k,
        device=device,
        batch=batch,
        instances=instances,
        core_instances=core_instances,
        library=None if library == "none" else library,
        mounted_at=mounted_at,
    )
    core = write_repository(model, out, settings, no_note if quiet else note)
    if quiet:
        return
    joined = f"joins up to {core.core.max_batch} tiles" if core.core.max_batch > 1 else "joins no tiles"
    print(f"{model} -> {out}")
    print(f"  {settings.name}: images, in {settings.instances} processes")
    print(f"  {settings.core_name}: {core.config.backend}, {core.config.kind}, {joined}")
    print(f"  for {settings.mounted_at} on the server; how to start it: {out / 'README.md'}")
