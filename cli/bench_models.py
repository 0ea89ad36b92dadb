"""``keygraph bench MODEL...``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
from pathlib import Path
from typing import Annotated

import typer

from ..bench.configurations import run_configurations
from ..bench.models import Measurement, Report, measure
from ..environment.machine import processor
from ..errors import InputError
from .arguments import Device, Json, K, NoProgress, Provider, Rounds, Threads
from .output import status
from .table import show, stream


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
    printed = _Document() if as_json else _Table()
    with status(quiet=quiet or as_json) as say, contextlib.closing(printed):
        report = measure(
            configurations,
            tile=tile,
            batches=_batches(batch),
            k=k,
            rounds=rounds,
            memory=memory,
            say=say,
            started=printed.start,
            finished=printed.add,
        )
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


class _Document:
    """One JSON document on stdout, written as it becomes known, a measurement per line."""

    def __init__(self) -> None:
        self._report: Report | None = None

    def start(self, report: Report) -> None:
        self._report, self._separator = report, "\n"
        known = {"version": 2, "machine": _machine(), "tile": report.tile, "k": report.k}
        text = json.dumps(known | {"descriptions": report.descriptions}, allow_nan=False)
        self._write(f'{text[:-1]}, "measurements": [')

    def add(self, measurement: Measurement) -> None:
        values = dataclasses.asdict(measurement)
        # JSON has no infinity: equal results have no PSNR.
        values["psnr"] = None if math.isinf(measurement.psnr or 0) else measurement.psnr
        self._write(self._separator + json.dumps(values, allow_nan=False))
        self._separator = ",\n"

    def close(self) -> None:
        """Complete the document, with what was measured until then."""
        if self._report is not None:
            rest = json.dumps({"memory": self._report.memory, "failures": self._report.failures}, allow_nan=False)
            self._write(f"\n], {rest[1:]}\n")

    def _write(self, text: str) -> None:
        print(text, end="", flush=True)


class _Table:
    """A table on stdout, row by row; below it the memory, and what failed."""

    def __init__(self) -> None:
        self._report: Report | None = None

    def start(self, report: Report) -> None:
        self._report = report
        k = "" if report.k is None else f", k {report.k}"
        print(f"{_machine()}\ntiles of {report.tile} x {report.tile}{k}\n")
        for name, description in report.descriptions.items():
            print(f"{name}: {description}")
        print()
        header = ("configuration", "batch", "ms", "tiles/s", "MP/s", "host", "PSNR")
        self._row = stream(header, list(report.descriptions))

    def add(self, one: Measurement) -> None:
        self._row(
            (
                one.configuration,
                str(one.batch),
                f"{one.milliseconds:.1f}",
                f"{one.tiles_per_second:.2f}",
                f"{one.megapixels_per_second:.3f}",
                f"{one.overhead:+.1%}",
                "-" if one.psnr is None else "equal" if math.isinf(one.psnr) else f"{one.psnr:.0f} dB",
            )
        )

    def close(self) -> None:
        if self._report is None:
            return
        if self._report.memory:
            rows = [
                (name, f"{resident:.0f}", "-" if on_gpu is None else f"{on_gpu:.0f}")
                for name, (resident, on_gpu) in self._report.memory.items()
            ]
            print()
            show(("memory, largest batch", "MiB", "GPU MiB"), rows)
        for name, why in self._report.failures.items():
            print(f"note: {name} {why}")
