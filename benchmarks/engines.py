"""How long engines take to build, and how large they become: base-size KGT in FP16, every target, one by one.

    python benchmarks/engines.py [MODEL.onnx ...] [--json FILE]

Without files: the presets kgt-base (a U-shape) and kgt-base-sr (columnar), with random weights. Needs TensorRT-RTX, and
no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from keygraph.engines.targets import TARGETS
from keygraph.runtime.sidecar import read
from timing import features

PRESETS = ("kgt-base", "kgt-base-sr")

#: As much freedom as an engine can have; k is chosen at run time anyway.
SIZES = ("--tile", "128:256:512", "--batch", "1:1:4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = arguments.models or [export_preset(preset, folder) for preset in PRESETS]
        rows = [row for model in models for row in measure(model, folder)]
    if arguments.json:
        arguments.json.write_text(json.dumps({**features(os.cpu_count() or 1), "engines": rows}, indent=1))


def measure(model: Path, folder: Path) -> list[dict[str, Any]]:
    """Build for every target that TensorRT-RTX has, and print a line for each."""
    rows = []
    for target in (target.name for target in TARGETS.values() if target.rtx):
        start, processor = time.monotonic(), processor_seconds()
        command = [sys.executable, "-c", "import sys; from keygraph.cli import main; sys.exit(main())"]
        command += ["build", str(model), "--target", target, "--backend", "tensorrt-rtx", *SIZES]
        command += ["-o", str(folder), "--json", "--force"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.monotonic() - start
        sidecar = read(json.loads(done.stdout)["results"][0]["engine"])
        row = {
            "model": model.stem,
            "target": target,
            "seconds": round(seconds, 1),
            "processor_seconds": round(processor_seconds() - processor, 1),
            "megabytes": round(sidecar.engine_bytes / 1e6, 1),
            "activation_gib": round(sidecar.memory.get("activations", 0) / 2**30, 2),
            # Of the largest builder so far: they come one after the other, and differ little.
            "builder_peak_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        }
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        rows.append(row)
    return rows


def processor_seconds() -> float:
    """Of all processes that have ended: what the machine's other users do plays no part in it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def export_preset(name: str, folder: Path) -> Path:
    """Export a preset with random weights in FP16."""
    import torch
    from keygraph.export import export
    from keygraph.models import load_checkpoint, save_checkpoint
    from keygraph.models.kgt import KGT, PRESETS

    torch.manual_seed(0)
    checkpoint = folder / f"{name}.ckpt"
    save_checkpoint(checkpoint, KGT(PRESETS[name]))
    model = checkpoint.with_suffix(".onnx")
    export(load_checkpoint(checkpoint), model, precision="fp16", verification=False)
    return model


if __name__ == "__main__":
    main()
