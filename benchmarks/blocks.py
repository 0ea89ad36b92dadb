"""Time and memory of `compare --blocks` on networks of base size, against the comparison without blocks.

Two threads, float32, random weights, one image: the exported file against its checkpoint, and the checkpoint against
itself. Each run is a process of its own, as a user's would be, loading included; the best round counts. On a busy
machine PyTorch's threads wait for each other by spinning: --alone uses one, and the CPU seconds count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from keygraph.export import export
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.kgt import KGT
from keygraph.models.kgt import PRESETS as KGT_PRESETS
from keygraph.models.restormer import PRESETS as RESTORMER_PRESETS
from keygraph.models.restormer import Restormer
from torch import nn

THREADS = 2

#: Height and width of the picture.
SIDE = 128

#: What the project wants, in seconds.
TARGET = 120.0

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "kgt-base": lambda: KGT(KGT_PRESETS["kgt-base"]),
    "restormer": lambda: Restormer(RESTORMER_PRESETS["restormer"]),
}

_RUN = """
import json, resource, sys, time
import numpy as np, torch
torch.set_num_threads(int(sys.argv[1]))
start, used = time.monotonic(), time.process_time()
from keygraph.parity import compare
picture = np.random.default_rng(0).random((int(sys.argv[2]), int(sys.argv[2]), 3), np.float32)
run = compare(sys.argv[3], sys.argv[4], [picture], blocks=sys.argv[5] == "True")
(found,) = run.comparisons
print(json.dumps({
    "seconds": time.monotonic() - start,
    "processor_seconds": time.process_time() - used,
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "blocks": len(found.blocks),
    "good": found.verdict.good,
    "worst_block_db": min((block.psnr for block in found.blocks), default=None),
}))
"""


def measure(candidate: Path, reference: Path, blocks: bool, threads: int) -> dict[str, Any]:
    """Compare once in a process of its own; return its times, peak memory and result.

    Parameters
    ----------
    candidate, reference
        The models.
    blocks
        Whether to compare every block's output.
    threads
        Threads of PyTorch.
    """
    arguments = [str(threads), str(SIDE), str(candidate), str(reference), str(blocks)]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _figures(found: dict[str, Any]) -> str:
    return f"{found['seconds']:.1f} s ({found['processor_seconds']:.1f} s of processors), {found['megabytes']:.0f} MB"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--files", type=Path, help="folder to keep the files in, and to find them again")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "blocks.json")
    parser.add_argument("--alone", action="store_true", help="one thread, for a busy machine")
    options = parser.parse_args()
    threads = 1 if options.alone else THREADS
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.only:
            checkpoint, exported = folder / f"{name}.ckpt", folder / f"{name}.onnx"
            if not exported.exists():
                torch.manual_seed(0)
                save_checkpoint(checkpoint, NETWORKS[name]())
                start = time.monotonic()
                export(load_checkpoint(checkpoint), exported, verification=False)
                print(f"{name}: exported in {time.monotonic() - start:.0f} s", flush=True)
            for candidate in (exported, checkpoint):
                ways: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
                for _ in range(options.rounds):
                    for blocks, runs in ways.items():
                        runs.append(measure(candidate, checkpoint, blocks, threads))
                plain, laid_open = (min(runs, key=lambda run: run["seconds"]) for runs in ways.values())
                ratio = laid_open["seconds"] / plain["seconds"]
                met = laid_open["seconds"] < TARGET
                case = f"{candidate.name} against {checkpoint.name}"
                results[case] = {"plain": plain, "blocks": laid_open, "ratio": ratio, "target": TARGET, "met": met}
                print(
                    f"{case}: {_figures(plain)}; with {laid_open['blocks']} blocks {_figures(laid_open)}, {ratio:.1f} x"
                    f"  (target {TARGET:g} s: {'met' if met else 'MISSED'})",
                    flush=True,
                )
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads of PyTorch",
        "side": SIDE,
        "rounds": options.rounds,
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
