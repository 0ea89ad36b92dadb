"""How long an export takes, and what it spends the time on: tracing, verification, measuring tiles.

Each network has random weights. The export runs in a process of its own, as the command `keygraph export` does, and its
steps begin with the lines that the command prints. Only figures of a quiet machine mean anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from keygraph.models import registry, save_checkpoint
from keygraph.models.kgt import PRESETS as KGT_PRESETS
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import PRESETS as RESTORMER_PRESETS
from keygraph.models.restormer import RestormerConfig
from timing import THREADS, features

#: Name -> configuration, and the seconds that the project wants on a quiet machine.
NETWORKS: dict[str, tuple[Any, float | None]] = {
    "kgt-small-sr": (KGT_PRESETS["kgt-small-sr"], 40.0),
    "kgt-base": (KGT_PRESETS["kgt-base"], 90.0),
    "restormer": (RESTORMER_PRESETS["restormer"], 45.0),
    "mst-plus-plus": (MSTPlusPlusConfig(), 20.0),
    "restormer, GLMHA": (RestormerConfig(attention="glmha"), None),
}

_RUN = """
import json, resource, sys, time
start = time.monotonic()
from keygraph.export import export
from keygraph.models import load_checkpoint
import torch
torch.set_num_threads(int(sys.argv[3]))
steps = [("importing and loading", 0.0)]
def begin(step):
    steps.append((step, time.monotonic() - start))
manifest = export(load_checkpoint(sys.argv[1]), sys.argv[2], progress=begin)
end = time.monotonic() - start
ends = [begun for _, begun in steps[1:]] + [end]
print(json.dumps({
    "seconds": end,
    "steps": [[name, stop - begun] for (name, begun), stop in zip(steps, ends)],
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "worst_db": {name: min(check["psnr"] for check in record["checks"])
                 for name, record in manifest.verification.items()},
}))
"""


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Export a network in a process of its own; return its times.

    Parameters
    ----------
    name
        A key of `NETWORKS`.
    folder
        Where the files are written.
    """
    torch.manual_seed(0)
    config, _ = NETWORKS[name]
    checkpoint = folder / "model.ckpt"
    save_checkpoint(checkpoint, registry.of_config(config).build(config))
    command = [sys.executable, "-c", _RUN, str(checkpoint), str(folder / "model.onnx"), str(THREADS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Export the networks, print the times of their steps and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "export_times.json")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = found = measure(name, Path(folder))
        wanted = f" ({NETWORKS[name][1]:g} wanted)" if NETWORKS[name][1] else ""
        print(f"{name}: {found['seconds']:.0f} s{wanted}, {found['megabytes']:.0f} MB, {found['worst_db']}", flush=True)
        for step, seconds in found["steps"]:
            if seconds >= 0.5:
                print(f"    {seconds:6.1f} s  {step}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**features(THREADS), "networks": results}, indent=1) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
