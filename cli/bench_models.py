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

from ..bench.models import Report, measure, ways
from ..errors import InputError
from .environment import processor
from .output import status
from .table import show


def bench(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Exported .onnx files, engines or checkpoints of one network."),
    ],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="CKPT", help="Its checkpoint: PyTorch as it is, and compiled, beside them."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="cpu|cuda|cuda:N", help="Where; engines run on a GPU anyway.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="cpu|cuda|tensorrt", help="ONNX Runtime's execution provider.")
    ] = None,
    tile: Annotated[int | None, typer.Option("--tile", metavar="N", help="Side of the tiles in pixels.")] = None,
    batch: Annotated[str, typer.Option("--batch", metavar="N,...", help="Tiles that run together.")] = "1,4",
    k: Annotated[int | None, typer.Option("--k", metavar="N", help="Neighbours of each node.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Measurements; the medians count.")] = 7,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="Per operator; one per core.")] = None,
    memory: Annotated[bool, typer.Option(help="Measure memory too, in a process for each.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Time forms of one network side by side. For the operators alone see: keygraph bench operators --help

    ms: one batch, from the host's memory to the host's memory. host: what cutting, converting and joining tiles add to
    the runs of a whole restoration. PSNR: against the first row.
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; give at least 1")
    contenders = ways(list(map(str, models)), None if against is None else str(against), device, provider, threads)
    with status(quiet=quiet or as_json) as say:
        report = measure(contenders, tile=tile, batches=_batches(batch), k=k, rounds=rounds, memory=memory, say=say)
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
        # JSON has no infinity: equal results have no PSNR.
        measurement["psnr"] = None if math.isinf(measurement["psnr"] or 0) else measurement["psnr"]
    return {"machine": _machine(), **values}


def _show(report: Report) -> None:
    """One screen of text."""
    k = "" if report.k is None else f", k {report.k}"
    print(f"{_machine()}\ntiles of {report.tile} x {report.tile}{k}\n")
    for name, description in report.descriptions.items():
        print(f"{name}: {description}")
    print()
    rows = []
    for one in report.measurements:
        rss, on_gpu = report.memory.get(one.way, (None, None))
        rows.append(
            (
                one.way,
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
    show(("way", "batch", "ms", "tiles/s", "MP/s", "host", "PSNR", "MiB", "GPU MiB"), rows)
    for name, why in report.failures.items():
        print(f"note: {name} did not run: {why}")
