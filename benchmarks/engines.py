"""Build time and size of engines: real networks in FP16, every target, one after the other.

    python benchmarks/engines.py [NAME|MODEL.onnx ...] [--json FILE] [--target sm_89 ...] [--keep DIR]

The names are those of `networks`; without any, all of them are built, with random weights. Needs TensorRT-RTX but no
GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keygraph.engines.targets import TARGETS
from keygraph.runtime.backends.engine_metadata import read
from timing import features

#: As much freedom as an engine can have; k is chosen at run time anyway.
SIZES = ("--tile", "128:256:512", "--batch", "1:1:4")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="NAME|MODEL.onnx")
    parser.add_argument("--target", action="append", help="only this one; may be given several times")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder that the exported files stay in")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    targets = arguments.target or [target.name for target in TARGETS.values() if target.rtx]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for model in arguments.models or networks():
            is_file = model.endswith(".onnx")
            file = Path(model) if is_file else export_network(model, arguments.keep or Path(name))
            rows += measure(file, Path(name), targets)
    if arguments.json:
        arguments.json.write_text(json.dumps({**features(os.cpu_count() or 1), "engines": rows}, indent=1))


def measure(model: Path, folder: Path, targets: list[str]) -> list[dict[str, Any]]:
    """Build for every target, print a line for each, and return the rows.

    Parameters
    ----------
    model
        The exported file.
    folder
        Where the engines are written.
    targets
        Names of GPUs.
    """
    rows = []
    for target in targets:
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
    """Return the CPU seconds of all child processes that have ended; other users of the machine do not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def networks() -> dict[str, Callable[[], Any]]:
    """Return name -> function that makes a network with random weights, one for every different graph."""
    from keygraph.models import kgt, mst, mst_plus_plus, restormer
    from keygraph.models.channel_attention import preset_reduction

    base: dict[str, tuple[Callable[[Any], Any], Any]] = {
        name: (kgt.KGT, kgt.PRESETS[name]) for name in ("kgt-base", "kgt-base-sr")
    }
    base |= {name: (restormer.Restormer, config) for name, config in restormer.PRESETS.items()}
    base |= {name: (mst.MST, config) for name, config in mst.PRESETS.items()}
    base["mst++"] = (mst_plus_plus.MSTPlusPlus, mst_plus_plus.MSTPlusPlusConfig())
    for name in ("restormer", "mst-l", "mst++"):
        build, config = base[name]
        for preset in ("uniform", "table"):
            reduction = preset_reduction(preset, config.reduced_heads)
            guided = dataclasses.replace(config, attention="glmha", reduction=reduction)
            base[f"{name}-glmha-{preset}"] = (build, guided)
    return {name: functools.partial(build, config) for name, (build, config) in base.items()}


def export_network(name: str, folder: Path) -> Path:
    """Export a network in FP16, unless the folder has it already; return the file."""
    import torch
    from keygraph.export import export
    from keygraph.models import load_checkpoint, save_checkpoint

    model = folder / f"{name}.onnx"
    if not model.exists():
        torch.manual_seed(0)
        checkpoint = model.with_suffix(".ckpt")
        save_checkpoint(checkpoint, networks()[name]())
        export(load_checkpoint(checkpoint), model, precision="fp16", verification=False)
    return model


if __name__ == "__main__":
    main()
