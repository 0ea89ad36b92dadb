"""``keygraph serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import load
from ..runtime.device.budget import parse_size
from .arguments import AllowHostCode, Device, Model, PrecisionHint, ProviderOrAuto, Quiet, Streams, Threads
from .output import no_note, note

_LIMITS = "Limits"


def serve(
    model: Model,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen at. Other than loopback needs a key: KEYGRAPH_API_KEY or --api-key-file.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port; 0 for any that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="File with the key that requests must bring; by default that of the variable KEYGRAPH_API_KEY.",
        ),
    ] = None,
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            metavar="N",
            help="Requests that are accepted at a time; others get 429 and when to try again.",
            rich_help_panel=_LIMITS,
        ),
    ] = 64,
    max_bytes: Annotated[
        str,
        typer.Option(
            "--max-bytes", metavar="SIZE", help="Largest image file, such as 512K or 64M.", rich_help_panel=_LIMITS
        ),
    ] = "64M",
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", metavar="N", help="Largest image in pixels.", rich_help_panel=_LIMITS)
    ] = 50_000_000,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            help="Most seconds for each step of a request: upload, restoration with the wait for it, download.",
            rich_help_panel=_LIMITS,
        ),
    ] = 300.0,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            metavar="SECONDS",
            help="Seconds in which accepted requests may finish after SIGTERM.",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most memory that restoring may take beside the model and the images that are read, such as 512M or "
            "4G; by default what is free.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            "--max-batch",
            metavar="N",
            help="Most images or tiles that run together; by default the model's choice.",
            rich_help_panel="Execution",
        ),
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(
            "--scratch",
            metavar="FOLDER",
            help="Folder for uploads, results and what large pictures need; by default the system's temporary folder.",
            rich_help_panel="Execution",
        ),
    ] = None,
    device: Device = None,
    provider: ProviderOrAuto = None,
    threads: Threads = None,
    precision_hint: PrecisionHint = None,
    streams: Streams = None,
    allow_host_code: AllowHostCode = False,
    quiet: Quiet = False,
) -> None:
    """Serve a model over HTTP: POST an image to /v1/restore, and get it restored.

    GET / is a page for browsers, /v1/model describes the model, /openapi.json the interface; /healthz, /readyz and
    /metrics are for operation. SIGTERM stops the service when the requests that it accepted are finished.
    """
    from ..serving.server import serve as run
    from ..serving.settings import Settings, read_api_key

    settings = Settings(
        host=host,
        port=port,
        api_key=read_api_key(api_key_file),
        max_bytes=parse_size(max_bytes, "--max-bytes"),
        max_pixels=max_pixels,
        queue=queue,
        timeout=timeout,
        grace=grace,
        max_batch=max_batch,
        scratch=scratch,
    )
    with load(
        model,
        device=device,
        provider=provider,
        threads=threads,
        precision_hint=precision_hint,
        streams=streams,
        memory=memory,
        allow_host_code=allow_host_code,
        notice=no_note if quiet else note,
    ) as restorer:
        run(restorer, model.name, settings, no_note if quiet else note, access_log=not quiet)
