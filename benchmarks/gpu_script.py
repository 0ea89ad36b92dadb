"""Options, machine data and the report that the GPU benchmarks share; `gpu_all.py` merges the reports."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_runner import markdown
from keygraph.bench.data_sheets import Gpu, known_gpu, measured_gpu

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
#: The operators' oracle, and the C library through ctypes.
sys.path += [str(ROOT / "tests" / "plugins"), str(ROOT / "tests" / "gpu")]
#: In the environment: run without a GPU, see gpu_pretend.py.
PRETEND = "KEYGRAPH_PRETEND_GPU"
if os.environ.get(PRETEND):
    import gpu_pretend

    gpu_pretend.install()


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of the options that all scripts take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny problems, which try the script out")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="write the report here, rewritten as it grows")
    parser.add_argument("--ceilings", type=Path, help="a results.json that holds what gpu_ceilings.py measured")
    return parser


def require_gpu() -> torch.device:
    """Return the GPU; ends the script where there is none."""
    if not torch.cuda.is_available():
        raise SystemExit(f"there is no CUDA device; {PRETEND}=1 TRITON_INTERPRET=1 and --tiny try the script out")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


class Report:
    """A script's results.

    Parameters
    ----------
    arguments
        Of `options`.

    Attributes
    ----------
    values
        What goes into the JSON file.
    errors
        What is wrong with our own results: the script then ends with 1, after everything else has been measured.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._path: Path | None = arguments.json
        self.errors: list[str] = []
        self.values: dict[str, Any] = {"machine": machine(), "errors": self.errors, "tables": []}

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
        """Add a table to the report, in place of an earlier one of this title, and write the report.

        Parameters
        ----------
        title, header, rows
            The table, as text.
        note
            A line below it.
        """
        table = {"title": title, "header": list(header), "rows": [list(row) for row in rows], "note": note}
        self.values["tables"] = [one for one in self.values["tables"] if one["title"] != title] + [table]
        self.write()

    def write(self) -> None:
        """Write the JSON file, if one is wanted."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.values, indent=1) + "\n")
        os.replace(temporary, self._path)

    def finish(self) -> int:
        """Print the tables and the errors; return the script's exit code."""
        self.write()
        for table in self.values["tables"]:
            print(f"\n{table['title']}\n\n{markdown(table['header'], table['rows'])}")
            if table["note"]:
                print(f"\n{table['note']}")
        for error in self.errors:
            print(f"error: {error}", file=sys.stderr)
        return int(bool(self.errors))


def gpus(ceilings: Path | None) -> dict[str, Gpu]:
    """Return the GPU's figures: "data sheet", where its name is known, and "measured", where it has been."""
    found: dict[str, Gpu] = {}
    if known := known_gpu(torch.cuda.get_device_name()):
        found["data sheet"] = known
    if ceilings is not None and ceilings.is_file():
        record = json.loads(ceilings.read_text())["steps"].get("ceilings", {})
        if figures := record.get("result", {}).get("ceilings"):
            found["measured"] = measured_gpu(**figures)
    return found


def reason(error: BaseException) -> str:
    """Return an exception as one line."""
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
