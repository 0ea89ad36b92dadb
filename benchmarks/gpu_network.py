"""A base-size KGT in half precision on a GPU, 1280 x 720: ONNX Runtime with our operators against eager PyTorch.

    python benchmarks/gpu_network.py [--device cuda|cpu] [--preset kgt-base] [--json FILE]

Random weights; every time is of one image from the host's memory to the host's memory, medians of interleaved rounds.
What ONNX Runtime cannot run here is said and left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keygraph.bench.timing import cpu_times
from keygraph.errors import KeygraphError
from keygraph.export import export
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.kgt import KGT, PRESETS
from keygraph.plugins.torch import use_attention
from keygraph.runtime.device import parse_device
from keygraph.runtime.pytorch import TorchSession

SIZE = (720, 1280)


def contenders(preset: str, device: str, folder: Path) -> tuple[dict[str, Callable[[], Any]], list[str]]:
    """Name -> one inference; and what could not be had."""
    from keygraph.runtime.onnx_runtime import OnnxRuntimeSession

    torch.manual_seed(0)
    checkpoint, file = folder / "model.ckpt", folder / "model.onnx"
    save_checkpoint(checkpoint, KGT(PRESETS[preset]))
    loaded = load_checkpoint(checkpoint)
    export(loaded, file, precision="fp16", verification=False)
    manifest = loaded.manifest()
    height, width = (-(-side // manifest.size_multiple) * manifest.size_multiple for side in SIZE)
    image = np.random.default_rng(0).random((1, manifest.in_channels, height, width), dtype=np.float32)
    k = PRESETS[preset].k
    eager = TorchSession(loaded.module.to(device, torch.float16), manifest)

    def pytorch(attention: str) -> Callable[[], Any]:
        def call() -> Any:
            with use_attention(attention):
                return eager.run(image, k)

        return call

    calls = {f"PyTorch, {name}": pytorch(name) for name in (("triton", "sdpa") if device == "cuda" else ("sdpa",))}
    missing = []
    try:
        session = OnnxRuntimeSession(file, device=parse_device(device))
        calls["ONNX Runtime"] = lambda: session.run(image, k)
    except KeygraphError as error:
        missing.append(f"ONNX Runtime: {error}")
    return calls, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--preset", choices=[name for name in PRESETS if PRESETS[name].scale == 1], default="kgt-base")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calls, missing = contenders(arguments.preset, arguments.device, Path(folder))
        for call in calls.values():
            call()
        times = cpu_times(calls, arguments.rounds)
    rival = times["PyTorch, sdpa"]
    for name, milliseconds in times.items():
        print(f"{name:20s} {milliseconds:9.1f} ms   {rival / milliseconds:5.2f} x", end="")
        print("   (target 2)" if name == "ONNX Runtime" else "")
    for line in missing:
        print(f"left out: {line}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"preset": arguments.preset, "size": SIZE, "milliseconds": times, "left out": missing}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
