"""What Nsight Compute reports of the two main kernels: how busy each part of the GPU is, and what warps wait for.

The full report is written beside the results as kernels.ncu-rep; the table has the most important figures.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import torch
from gpu_script import Report, options, require_gpu
from gpu_variants import Case, cases, just_in_time, tensors

#: Figures of the table, by the words that Nsight Compute has for them in its "details" page.
FIGURES = (
    "Duration",
    "Compute (SM) Throughput",
    "Memory Throughput",
    "DRAM Throughput",
    "Executed Ipc Active",
    "Issue Slots Busy",
    "Registers Per Thread",
    "Dynamic Shared Memory Per Block",
    "Theoretical Occupancy",
    "Achieved Occupancy",
    "Warp Cycles Per Issued Instruction",
)
#: A page as `ncu --csv --page details` prints it, to try the reading of it without a GPU.
SAMPLE = """==PROF== Connected to process 1
"ID","Process ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value","Rule Name"
"0","1","attention_dense","GPU Speed Of Light Throughput","Duration","us","250.1",""
"0","1","attention_dense","GPU Speed Of Light Throughput","Compute (SM) Throughput","%","81.5",""
"1","1","key_graph_resident","GPU Speed Of Light Throughput","Duration","us","640",""
"""


def chosen(tiny: bool) -> list[Case]:
    """Return the largest layer of each operator."""
    everything = list(cases("float16", tiny))
    return [next(case for case in everything if case.op == op) for op in ("KeyGraphAttention", "KeyGraph")]


def launch(place: torch.device, tiny: bool) -> None:
    """Run each kernel twice, the second time under the profiler; the first time compiles it."""
    for case in chosen(tiny):
        call = just_in_time(case, case.fitting(place)[0], tensors(case, place))
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def read(page: str) -> dict[str, dict[str, str]]:
    """Return kernel -> figure -> value with its unit; of several launches of a kernel, the last."""
    lines = [line for line in page.splitlines() if line.startswith('"')]
    found: dict[str, dict[str, str]] = {}
    for line in csv.DictReader(lines):
        if line.get("Metric Name") in FIGURES:
            value = f"{line['Metric Value']} {line['Metric Unit']}".strip()
            found.setdefault(line["Kernel Name"], {})[line["Metric Name"]] = value
    return found


def profile(output: Path) -> str:
    """Profile this script's `launch`; return the details page."""
    # Not from the start: making the inputs starts kernels too, dozens while a variant is chosen.
    command = [
        "ncu", "--set", "full", "--profile-from-start", "off", "--force-overwrite", "--export", str(output),
        sys.executable, __file__, "--launch",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    read_back = ["ncu", "--import", f"{output}.ncu-rep", "--csv", "--page", "details"]
    return subprocess.run(read_back, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Run the step from the command line; return its exit code."""
    parser = options(__doc__, rounds=1)
    parser.add_argument("--launch", action="store_true", help="only start the kernels, to be profiled")
    parser.add_argument("--output", type=Path, default=Path("kernels"), help="the whole report, without its suffix")
    arguments = parser.parse_args()
    place = require_gpu()
    if arguments.launch or arguments.tiny:
        launch(place, arguments.tiny)
    if arguments.launch:
        return 0
    page = SAMPLE if arguments.tiny else profile(arguments.output)
    print(page)
    report = Report(arguments)
    report.values["kernels"] = found = read(page)
    if not found:
        report.errors.append("Nsight Compute named no kernel of ours")
    rows = [[figure, *(found[kernel].get(figure, "-") for kernel in found)] for figure in FIGURES]
    report.table("Nsight Compute", ["", *found], rows)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
