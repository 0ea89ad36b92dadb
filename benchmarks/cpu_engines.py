"""Whole networks in every engine that runs them on a CPU: PyTorch, ONNX Runtime with our operators, OpenVINO.

One process, two threads, random weights; every round runs each call once (see `keygraph.bench.timing`). "OpenVINO
alone" is the exported file in OpenVINO's own API, without keygraph: for a KGT with its functions inlined, because
OpenVINO knows neither our operators nor functions. PyTorch is eager, with its fused attention for a KGT. Ratios are a
contender's time over the best of keygraph's sessions in the same precision; above 1, keygraph is faster. On a CPU
without AMX and AVX512-BF16, bf16 is left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import torch
from keygraph.bench.timing import cpu_times
from keygraph.export import export
from keygraph.instrumentation.metrics import psnr
from keygraph.models import load_checkpoint, registry, save_checkpoint
from keygraph.models.kgt import KGTConfig
from keygraph.models.mst import MSTConfig
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import RestormerConfig
from keygraph.plugins.torch import use_attention
from keygraph.runtime.backends.base import image_inputs
from keygraph.runtime.backends.openvino_import import without_telemetry
from onnx import inliner
from timing import THREADS, add_options, features

with without_telemetry():
    import openvino

#: keygraph's sessions: name -> precision.
OURS = {"ours, ONNX Runtime": "f32", "ours, OpenVINO": "f32", "ours, OpenVINO bf16": "bf16"}


@dataclass(frozen=True)
class Case:
    """A network and the size of its image in pixels."""

    name: str
    config: Any
    height: int = 256
    width: int = 256

    def __str__(self) -> str:
        return f"{self.name}, {self.height} x {self.width}"


_NETWORKS: dict[str, Any] = {
    "MST++": MSTPlusPlusConfig(),
    "MST-L": MSTConfig(blocks=(4, 7, 5), mask_guided=False),
    "Restormer": RestormerConfig(),
}
_SMALL = [
    Case(f"{name}{suffix}", replace(config, **change))
    for name, config in _NETWORKS.items()
    for suffix, change in (("", {}), (" GLMHA", {"attention": "glmha"}))
]
_KGT = KGTConfig(layers=(4, 4, 4, 4), channels=60, heads=6)
CASES = [
    *_SMALL,
    *(replace(case, height=480, width=720) for case in _SMALL),
    Case("KGT, window 16, k = 64", replace(_KGT, window=16, k=64), 128, 128),
    Case("KGT, window 32, k = 256", replace(_KGT, window=32, k=256), 128, 128),
]


def has_bf16() -> bool:
    """Return whether this CPU computes faster in bf16 than in float32."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def contenders(case: Case, folder: Path) -> dict[str, Callable[[], Any]]:
    """Export the network of a case, and return a call for each contender.

    Parameters
    ----------
    case
        The network and its image.
    folder
        Where the files are written.
    """
    torch.manual_seed(0)
    checkpoint, file = folder / "model.ckpt", folder / "model.onnx"
    architecture = next(one for one in registry.ARCHITECTURES if isinstance(case.config, one.config_type))
    save_checkpoint(checkpoint, architecture.build(case.config))
    loaded = load_checkpoint(checkpoint)
    manifest = export(loaded, file, verification=False)
    k = manifest.neighbours.default if manifest.neighbours is not None else None
    inputs = {
        given.name: torch.rand(1, given.channels, case.height + given.margin[0], case.width + given.margin[1])
        for given in image_inputs(manifest)
    }
    arrays = [values.numpy() for values in inputs.values()]

    def eager(bf16: bool) -> Any:
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        with torch.inference_mode(), autocast, use_attention("sdpa"):
            return loaded.module(*inputs.values(), *([k] if k is not None else [])).float().numpy()

    def session(provider: str, hint: str | None = None) -> Callable[[], Any]:
        opened = keygraph.load(file, provider=provider, precision_hint=hint, threads=THREADS).session
        return lambda: opened.run(arrays[0], k, *arrays[1:])

    def alone(precision: str) -> Callable[[], Any]:
        core = openvino.Core()
        model = core.read_model(inliner.inline_local_functions(onnx.load(file)).SerializeToString())
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        feeds = {name: values.numpy() for name, values in inputs.items()}
        if k is not None:
            feeds["k"] = np.array([k])
        return lambda: request.infer(feeds, share_inputs=True)[0]

    calls: dict[str, Callable[[], Any]] = {
        "ours, ONNX Runtime": session("cpu"),
        "ours, OpenVINO": session("openvino", "f32"),
        "OpenVINO alone": alone("f32"),
        "PyTorch": lambda: eager(False),
    }
    if has_bf16():
        calls |= {
            "ours, OpenVINO bf16": session("openvino", "bf16"),
            "OpenVINO alone bf16": alone("bf16"),
            "PyTorch bf16": lambda: eager(True),
        }
    expected = calls["ours, ONNX Runtime"]()
    span = float(expected.min()), float(expected.max())
    for name, call in calls.items():
        agreement = psnr(np.asarray(call()), expected, span)
        # A network that was never trained has many near ties; rounding in bf16 alone costs more than in a trained one.
        least = 30 if k is not None or name.endswith("bf16") else 90
        print(f"  {name:22s} {agreement:6.1f} dB from ONNX Runtime", flush=True)
        if not agreement >= least:
            raise SystemExit(f"{case}: {name} is {agreement:.1f} dB from ONNX Runtime; {least} dB are needed")
    return calls


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Return each rival's time over the best of ours in its precision."""
    best = {
        precision: min(times[name] for name, of in OURS.items() if name in times and precision in (of, "bf16"))
        for precision in ("f32", "bf16")
    }
    return {
        name: value / best["bf16" if name.endswith("bf16") else "f32"]
        for name, value in times.items()
        if name not in OURS
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, 7, "cpu_engines.json")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    machine = {**features(THREADS), "openvino": openvino.__version__}
    report: dict[str, Any] = {"machine": machine, "cases": []}
    print(f"{machine['processor']}, {THREADS} threads, OpenVINO {openvino.__version__}")
    for number, case in enumerate(CASES):
        if arguments.only and number not in arguments.only:
            continue
        print(f"\n{case}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            times = cpu_times(contenders(case, Path(folder)), arguments.rounds)
        found = ratios(times)
        report["cases"].append({"case": str(case), "milliseconds": times, "ratios": found})
        for name, value in times.items():
            print(f"  {name:22s} {value:8.1f} ms" + (f"   {found[name]:6.2f} x" if name in found else ""), flush=True)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    main()
