"""The two operators on a GPU against what PyTorch offers, and against the GPU itself.

Medians of CUDA events; inputs larger than the L2 cache taken in turn; random data; TF32 off. Masks, lists of neighbours
and whatever else a rival needs are made beforehand: only the operator itself is timed. The floor is counted as
`keygraph.bench.floor` says; the share is the floor over our time.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gpu_table import RESULTS, machine, markdown, write
from keygraph.bench.floor import Floor, attention_floor, graph_floor, known_gpu
from keygraph.bench.operators import OURS, Times, measure
from keygraph.bench.problem import DTYPES, Problem

SIZES = ((64, 1024, 128), (64, 1024, 256), (64, 1024, 512), (256, 256, 64))
#: For a run of the script itself, where there is no GPU.
TINY_SIZES = ((1, 64, 8), (2, 33, 5))

FUSED = ("sdpa", "sdpa, padded", "flex", "flex, padded")
#: Title -> (operator, the rivals of which the fastest counts, what the project wants the ratio to be at least).
COMPARISONS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "fastest of SDPA and flex": ("KeyGraphAttention", FUSED, 1.5),
    "Torch-Mask": ("KeyGraphAttention", ("mask",), 10),
    "Torch-Gather": ("KeyGraphAttention", ("gather",), 50),
    "matmul + topk + scatter": ("KeyGraph", ("topk + scatter",), 5),
}
#: Share of the floor that the attention aims at.
FLOOR_SHARE = 0.6


def cell(ratio: float | None, target: float) -> str:
    """A ratio, marked where it misses its target."""
    if ratio is None:
        return "did not run"
    return f"{ratio:.2f}" + ("" if ratio >= target else f" (target {target:g})")


def row(problem: Problem, times: dict[str, Times], floors: dict[str, Floor]) -> list[str]:
    """A problem's line of the table."""
    sizes = " x ".join(map(str, (problem.windows, problem.heads, problem.nodes, problem.channels)))
    cells = [f"{sizes}, {problem.k}"]
    for op in ("KeyGraphAttention", "KeyGraph"):
        cells.append(f"{times[op].milliseconds[OURS] * 1e3:.0f} us")
        cells += [cell(times[of].ratio(*rivals), target) for of, rivals, target in COMPARISONS.values() if of == op]
        floor = floors.get(op)
        share = floor and floor.milliseconds / times[op].milliseconds[OURS]
        cells.append(f"{share:.0%} of {floor.milliseconds * 1e3:.0f} us ({floor.limit})" if floor and share else "-")
    return cells


def header() -> list[str]:
    """The table's."""
    titles = {
        op: [title for title, (of, *_) in COMPARISONS.items() if of == op] for op in ("KeyGraphAttention", "KeyGraph")
    }
    return [
        "windows x heads x N x D, k",
        "attention, ours",
        *titles["KeyGraphAttention"],
        "share of the floor",
        "graph, ours",
        *titles["KeyGraph"],
        "share of the floor",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float16")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny problems, which try the script out")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.add_argument("--output", type=Path, help="default: results/gpu_operators-TYPE.json beside this script")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --device cpu --tiny tries the script out")
    device = torch.device(arguments.device)
    report: dict[str, Any] = {"machine": machine(device), "dtype": arguments.dtype, "cases": []}
    gpu = known_gpu(report["machine"]["device"])
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    rows = []
    for windows, nodes, k in TINY_SIZES if arguments.tiny else SIZES:
        problem = Problem(windows, 6, nodes, 30, k, arguments.dtype, graph_channels=180)
        times = measure(problem, device, arguments.rounds)
        floors = (
            {"KeyGraphAttention": attention_floor(problem, gpu), "KeyGraph": graph_floor(problem, gpu)} if gpu else {}
        )
        rows.append(row(problem, times, floors))
        report["cases"].append(
            {
                "problem": asdict(problem),
                "operators": {op: each.as_json() for op, each in times.items()},
                "floors": {op: {**asdict(floor), "limit": floor.limit} for op, floor in floors.items()},
            }
        )
        print(f"\n{problem}")
        for op, each in times.items():
            for name, milliseconds in each.milliseconds.items():
                print(f"  {op:18s} {name:16s} {milliseconds * 1e3:10.1f} us   {each.ratio(name):7.2f} x")
            for name, reason in each.failures.items():
                print(f"  {op:18s} {name:16s} did not run: {reason}")
    table = markdown(header(), rows)
    print(f"\n{table}\n\nThe attention aims at {FLOOR_SHARE:.0%} of the floor.")
    write(arguments.output or RESULTS / f"gpu_operators-{arguments.dtype}.json", report)
    if arguments.markdown:
        arguments.markdown.write_text(table + "\n")


if __name__ == "__main__":
    main()
