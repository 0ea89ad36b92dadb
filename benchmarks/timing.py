"""Options, instruction sets and machine data that the CPU benchmarks share."""

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
    """Force an instruction set on keygraph's operators in this process, if `name` is given; return the one in use."""
    import keygraph.plugins

    library = ctypes.CDLL(str(keygraph.plugins.library("onnxruntime")))
    library.keygraph_cpu_isa.restype = ctypes.c_char_p
    if name and library.keygraph_cpu_select_isa(name.encode()):
        raise SystemExit(f"this machine has no {name}")
    used: bytes = library.keygraph_cpu_isa()
    return used.decode()


def add_options(parser: argparse.ArgumentParser, rounds: int, output: str) -> None:
    """Add the options that both CPU benchmarks of the operators take.

    Parameters
    ----------
    parser
        To add them to.
    rounds
        Default number of rounds.
    output
        Default name of the file in results/.
    """
    parser.add_argument("--isa", choices=INSTRUCTION_SETS, help="force an instruction set upon our operators")
    parser.add_argument("--alone", action="store_true", help="one thread, least processor time: for a busy machine")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", type=int, nargs="*", metavar="CASE", help="numbers of the cases to run, from 0")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / output)


def target(ratio: float | None, isa: str) -> str:
    """Return the project's target for a ratio as text to print behind it: half of it on AVX2, none on the baseline."""
    return f"  (target {ratio / 2 if isa == 'avx2' else ratio:g})" if ratio and isa != "baseline" else ""


def features(threads: int) -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, threads and versions."""
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
