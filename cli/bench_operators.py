"""``keygraph bench operators``."""

from __future__ import annotations

import json
import platform
import sys
from typing import Annotated, Any

import torch
import typer

from ..bench.data_sheets import known_gpu
from ..bench.operators import OURS, Times, measure
from ..bench.problem import Problem
from ..bench.roofline import attention_roofline, graph_roofline
from ..errors import InputError
from ..runtime.device import memory
from .arguments import Json, NoProgress, Rounds
from .output import status
from .table import show

#: Device -> what is measured without options: a layer as networks have it, as large as this device is used for.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"windows": 4, "dtype": "float32"},
    "cuda": {"windows": 64, "dtype": "float16"},
}


def bench(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="operators")],
    device: Annotated[
        str | None, typer.Option("--device", metavar="cpu|cuda", help="Device to run on; by default a GPU if present.")
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option("--windows", metavar="N", help="Number of windows; by default 4 on the CPU, 64 on a GPU."),
    ] = None,
    heads: Annotated[int, typer.Option("--heads", metavar="N", help="Number of heads.")] = 6,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", help="Pixels of a window.")] = 1024,
    channels: Annotated[int, typer.Option("--channels", metavar="N", help="Channels of one head.")] = 30,
    k: Annotated[int, typer.Option("--k", metavar="N", help="Neighbours of each node.")] = 256,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="float32, float16 or bfloat16; by default float32 on the CPU and float16 on a GPU.",
        ),
    ] = None,
    rounds: Rounds = 20,
    as_json: Json = False,
    quiet: NoProgress = False,
) -> None:
    """Time the operators on this machine against what PyTorch offers.

    keygraph's run in ONNX Runtime on the CPU, in PyTorch on a GPU. The roofline is the shortest time that the GPU's
    data sheet allows.
    """
    if what != "operators":
        raise InputError(f"{what!r} cannot be measured; choose operators")
    place = _device(device)
    defaults = _DEFAULTS[place.type]
    problem = Problem(
        windows=defaults["windows"] if windows is None else windows,
        heads=heads,
        nodes=nodes,
        channels=channels,
        k=k,
        dtype=dtype or defaults["dtype"],
        graph_channels=heads * channels,
    )
    if place.type == "cpu" and problem.dtype == "bfloat16":
        raise InputError("ONNX Runtime has no bfloat16 on the CPU; choose float32 or float16")
    if place.type == "cpu":
        memory.require(problem.peak_bytes, str(problem), "give fewer --windows, --heads or --nodes")
    with status(quiet=quiet or as_json) as say:
        say(f"measuring {problem}")
        times = measure(problem, place, rounds)
    machine = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    rooflines = _rooflines(problem, machine)
    if as_json:
        print(json.dumps(_as_json(problem, place, machine, times, rooflines), allow_nan=False))
    else:
        _show(problem, machine, times, rooflines, place.type == "cuda")
    if any(each.error for each in times.values()):
        raise typer.Exit(1)


def _device(name: str | None) -> torch.device:
    available = torch.cuda.is_available()
    name = name or ("cuda" if available else "cpu")
    if name not in _DEFAULTS:
        raise InputError(f"no device {name!r}; choose cpu or cuda")
    if name == "cuda" and not available:
        built = torch.version.cuda
        reason = "finds no GPU: see keygraph doctor" if built else "was built without CUDA: install one with it"
        raise InputError(f"PyTorch {torch.__version__} {reason}; or choose --device cpu")
    return torch.device(name)


def _rooflines(problem: Problem, machine: str) -> dict[str, float]:
    """Return each operator's roofline in milliseconds; nothing where the GPU's data sheet is not known."""
    gpu = known_gpu(machine)
    if gpu is None:
        return {}
    return {
        "KeyGraph": graph_roofline(problem, gpu).milliseconds,
        "KeyGraphAttention": attention_roofline(problem, gpu).milliseconds,
    }


def _as_json(
    problem: Problem, device: torch.device, machine: str, times: dict[str, Times], rooflines: dict[str, float]
) -> dict[str, Any]:
    return {
        "version": 2,
        "device": device.type,
        "machine": machine,
        "torch": torch.__version__,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "problem": vars(problem),
        "operators": {op: {**each.as_json(), "roofline": rooflines.get(op)} for op, each in times.items()},
    }


def _show(problem: Problem, machine: str, times: dict[str, Times], rooflines: dict[str, float], on_gpu: bool) -> None:
    threads = "" if on_gpu else f", {torch.get_num_threads()} threads"
    print(f"{problem}: windows x heads x nodes x channels\n{machine}{threads}, PyTorch {torch.__version__}\n")
    rows = []
    for op, each in times.items():
        ours = each.milliseconds.get(OURS)
        rows.append((op, OURS, "-" if ours is None else f"{ours:.3f}", ""))
        rows += [
            ("", name, f"{milliseconds:.3f}", "-" if ours is None else f"{milliseconds / ours:.2f}")
            for name, milliseconds in each.milliseconds.items()
            if name != OURS
        ]
        rows += [("", name, "-", "-") for name in each.failures]
        if op in rooflines:
            ratio = "-" if ours is None else f"{rooflines[op] / ours:.2f}"
            rows.append(("", "roofline", f"{rooflines[op]:.3f}", ratio))
    show(("operator", "implementation", "ms", "times ours"), rows, left=2)
    for op, each in times.items():
        if each.error:
            print(f"error: our {op}: {each.error}", file=sys.stderr)
        for name, reason in each.failures.items():
            print(f"note: {name} did not run: {reason}")
