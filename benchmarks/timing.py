"""What the benchmarks on the CPU have in common."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
from pathlib import Path
from typing import Any

#: Every contender gets this many, or one with `--alone`.
THREADS = 2
#: Those that our operators know.
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


def instruction_set(name: str | None) -> str:
    """Force an instruction set upon our operators, in the whole process; the one in use."""
    import keygraph.plugins

    library = ctypes.CDLL(str(keygraph.plugins.library("onnxruntime")))
    library.keygraph_cpu_isa.restype = ctypes.c_char_p
    if name and library.keygraph_cpu_select_isa(name.encode()):
        raise SystemExit(f"this machine has no {name}")
    return library.keygraph_cpu_isa().decode()


def add_options(parser: argparse.ArgumentParser, rounds: int, output: str) -> None:
    """What both benchmarks take."""
    parser.add_argument("--isa", choices=INSTRUCTION_SETS, help="force an instruction set upon our operators")
    parser.add_argument("--alone", action="store_true", help="one thread, least processor time: for a busy machine")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", type=int, nargs="*", metavar="CASE", help="numbers of the cases to run, from 0")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / output)


def target(ratio: float | None, isa: str) -> str:
    """What the project wants of a ratio, to print behind it: on AVX2 half, of the baseline nothing."""
    return f"  (target {ratio / 2 if isa == 'avx2' else ratio:g})" if ratio and isa != "baseline" else ""


def features(threads: int) -> dict[str, Any]:
    """What the figures depend on: the processor and the versions."""
    import onnxruntime
    import torch

    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
