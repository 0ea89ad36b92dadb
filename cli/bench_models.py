"""``keygraph bench MODEL...``."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from ..bench.configurations import run_configurations
from ..bench.models import Report, measure
from ..environment.machine import processor
from ..errors import InputError
from .arguments import Device, Json, K, NoProgress, Provider, Rounds, Threads
from .output import status
from .table import show


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Exported .onnx files, engines or checkpoints of one network."),
    ],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="CKPT", help="Its checkpoint, to measure PyTorch and torch.compile too."),
    ] = None,
    device: Device = None,
    provider: Provider = None,
    tile: Annotated[
        int | None,
        typer.Option("--tile", metavar="N", help="Side of the tiles in pixels; by default the first model's."),
    ] = None,
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,...", help="Numbers of tiles that run together, one after the other.")
    ] = "1,4",
    k: K = None,
    rounds: Rounds = 7,
    threads: Threads = None,
    memory: Annotated[bool, typer.Option(help="Measure memory too, each in a process of its own.")] = True,
    as_json: Json = False,
    quiet: NoProgress = False,
) -> None:
    """Measure forms of one network side by side (the operators alone: keygraph bench operators --help).

    Engines always run on a GPU. ms: one batch, from host memory to host memory. host: what cutting, converting and
    joining tiles adds to the inference time of a whole restoration. PSNR: against the first row.
    """
    configurations = run_configurations(
        list(map(str, models)), None if against is None else str(against), device, provider, threads
    )
    with status(quiet=quiet or as_json) as say:
        report = measure(configurations, tile=tile, batches=_batches(batch), k=k, rounds=rounds, memory=memory, say=say)
    if as_json:
        print(json.dumps(_as_json(report), allow_nan=False))
    else:
        _show(report)
    if not report.measurements:
        raise typer.Exit(1)


def _batches(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise InputError(f"--batch is {text!r}; give whole numbers from 1, with commas between: 1,4,8")
    return list(dict.fromkeys(found))


def _machine() -> str:
    model, _ = processor(Path("/proc/cpuinfo"))
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


def _as_json(report: Report) -> dict[str, Any]:
    values = dataclasses.asdict(report)
    for measurement in values["measurements"]:
        # The key "way" is the configuration's name in the first version of this output, which users may read.
        measurement["way"] = measurement.pop("configuration")
        # JSON has no infinity: equal results have no PSNR.
        measurement["psnr"] = None if math.isinf(measurement["psnr"] or 0) else measurement["psnr"]
    return {"machine": _machine(), **values}


def _show(report: Report) -> None:
    """Print the measurements as a table."""
    k = "" if report.k is None else f", k {report.k}"
    print(f"{_machine()}\ntiles of {report.tile} x {report.tile}{k}\n")
    for name, description in report.descriptions.items():
        print(f"{name}: {description}")
    print()
    rows = []
    for one in report.measurements:
        rss, on_gpu = report.memory.get(one.configuration, (None, None))
        rows.append(
            (
                one.configuration,
                str(one.batch),
                f"{one.milliseconds:.1f}",
                f"{one.tiles_per_second:.2f}",
                f"{one.megapixels_per_second:.3f}",
                f"{one.overhead:+.1%}",
                "-" if one.psnr is None else "equal" if math.isinf(one.psnr) else f"{one.psnr:.0f} dB",
                "-" if rss is None else f"{rss:.0f}",
                "-" if on_gpu is None else f"{on_gpu:.0f}",
            )
        )
    show(("configuration", "batch", "ms", "tiles/s", "MP/s", "host", "PSNR", "MiB", "GPU MiB"), rows)
    for name, why in report.failures.items():
        print(f"note: {name} did not run: {why}")
