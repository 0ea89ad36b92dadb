"""``keygraph bench``."""

from __future__ import annotations

import json
import platform
import sys
from typing import Annotated, Any

import torch
import typer

from ..bench.operators import OURS, Times, measure
from ..bench.problem import Problem
from ..bench.roofline import attention_floor, graph_floor, known_gpu
from ..errors import InputError
from .output import status
from .table import show

#: What is measured without options: a layer as networks have them, of a size that this kind of machine is used for.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"windows": 4, "dtype": "float32"},
    "cuda": {"windows": 64, "dtype": "float16"},
}


def bench(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="operators")],
    device: Annotated[
        str | None, typer.Option("--device", metavar="cpu|cuda", help="Where; a GPU if there is one.")
    ] = None,
    windows: Annotated[int | None, typer.Option("--windows", metavar="N", help="4 on the CPU, 64 on a GPU.")] = None,
    heads: Annotated[int, typer.Option("--heads", metavar="N")] = 6,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", help="Pixels of a window.")] = 1024,
    channels: Annotated[int, typer.Option("--channels", metavar="N", help="Of one head.")] = 30,
    k: Annotated[int, typer.Option("--k", metavar="N", help="Neighbours of each node.")] = 256,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="TYPE", help="float32, float16 or bfloat16; float32 on the CPU, else float16."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", help="Measurements; the medians count.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Time the operators on this machine against what PyTorch offers.

    Ours run in ONNX Runtime on the CPU, in PyTorch on a GPU.
    """
    if what != "operators":
        raise InputError(f"{what!r} cannot be measured; choose operators")
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; give at least 1")
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
    with status(quiet=quiet or as_json) as say:
        say(f"measuring {problem}")
        times = measure(problem, place, rounds)
    machine = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    floors = _floors(problem, machine)
    if as_json:
        print(json.dumps(_as_json(problem, place, machine, times, floors), allow_nan=False))
    else:
        _show(problem, machine, times, floors, place.type == "cuda")
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


def _floors(problem: Problem, machine: str) -> dict[str, float]:
    """Operator -> milliseconds, for the GPUs whose figures are known."""
    gpu = known_gpu(machine)
    if gpu is None:
        return {}
    return {
        "KeyGraph": graph_floor(problem, gpu).milliseconds,
        "KeyGraphAttention": attention_floor(problem, gpu).milliseconds,
    }


def _as_json(
    problem: Problem, device: torch.device, machine: str, times: dict[str, Times], floors: dict[str, float]
) -> dict[str, Any]:
    return {
        "device": device.type,
        "machine": machine,
        "torch": torch.__version__,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "problem": vars(problem),
        "operators": {op: {**each.as_json(), "floor": floors.get(op)} for op, each in times.items()},
    }


def _show(problem: Problem, machine: str, times: dict[str, Times], floors: dict[str, float], on_gpu: bool) -> None:
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
        if op in floors:
            rows.append(("", "floor", f"{floors[op]:.3f}", "-" if ours is None else f"{floors[op] / ours:.2f}"))
    show(("operator", "way", "ms", "times ours"), rows, left=2)
    for op, each in times.items():
        if each.error:
            print(f"error: our {op}: {each.error}", file=sys.stderr)
        for name, reason in each.failures.items():
            print(f"note: {name} did not run: {reason}")
