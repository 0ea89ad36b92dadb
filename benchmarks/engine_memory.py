"""Peak memory of whole networks in every engine that runs them on a CPU, beside `cpu_engines.py`.

Each engine opens the network and runs one image three times in a process of its own, which imports nothing else. What
counts is the peak resident size of that process, with the libraries, in MB. bf16 as in `cpu_engines.py`.

    python benchmarks/engine_memory.py --only 0 4 12
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

#: Engine -> its words for the child process.
ENGINES = {
    "ours, ONNX Runtime": ("session", "cpu"),
    "ours, OpenVINO": ("session", "openvino", "f32"),
    "ours, OpenVINO bf16": ("session", "openvino", "bf16"),
    "OpenVINO alone": ("alone", "f32"),
    "OpenVINO alone bf16": ("alone", "bf16"),
    "PyTorch": ("eager", "f32"),
    "PyTorch bf16": ("eager", "bf16"),
}

_THREADS, _RUNS = 2, 3


def run(folder: Path, how: str, *words: str) -> None:
    """Run the network of a folder in one engine.

    Parameters
    ----------
    folder
        With ``model.ckpt``, ``model.onnx``, ``inlined.onnx`` without functions, and the inputs ``0.npy``, ...
    how, words
        From `ENGINES`.
    """
    inputs = [np.load(path) for path in sorted(folder.glob("*.npy"))]
    if how == "session":
        import keygraph

        hint = words[1] if len(words) > 1 else None
        model = keygraph.load(folder / "model.onnx", provider=words[0], precision_hint=hint, threads=_THREADS)
        neighbours = model.manifest.neighbours
        k = neighbours.default if neighbours is not None else None
        for _ in range(_RUNS):
            model.session.run(inputs[0], k, *inputs[1:])
    elif how == "alone":
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": words[0], "INFERENCE_NUM_THREADS": _THREADS}
        core = openvino.Core()
        request = core.compile_model(core.read_model(folder / "inlined.onnx"), "CPU", settings).create_infer_request()
        k = json.loads((folder / "k.json").read_text())
        feeds = [*inputs, *([] if k is None else [np.array([k])])]
        for _ in range(_RUNS):
            request.infer(feeds, share_inputs=True)
    else:
        import torch
        from keygraph.models import load_checkpoint
        from keygraph.plugins.torch import use_attention

        torch.set_num_threads(_THREADS)
        k = json.loads((folder / "k.json").read_text())
        module = load_checkpoint(folder / "model.ckpt").module
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=words[0] == "bf16")
        with torch.inference_mode(), autocast, use_attention("sdpa"):
            for _ in range(_RUNS):
                module(*map(torch.from_numpy, inputs), *([] if k is None else [k]))


def peak() -> float:
    """Return the peak resident size of this process in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def prepare(case: Any, folder: Path) -> None:
    """Write what `run` reads.

    Parameters
    ----------
    case
        One of `cpu_engines.CASES`.
    folder
        Where.
    """
    import onnx
    import torch
    from keygraph.export import export
    from keygraph.models import load_checkpoint, registry, save_checkpoint
    from keygraph.runtime.backends.base import image_inputs
    from onnx import inliner

    torch.manual_seed(0)
    architecture = next(one for one in registry.ARCHITECTURES if isinstance(case.config, one.config_type))
    save_checkpoint(folder / "model.ckpt", architecture.build(case.config))
    manifest = export(load_checkpoint(folder / "model.ckpt"), folder / "model.onnx", verification=False)
    onnx.save(inliner.inline_local_functions(onnx.load(folder / "model.onnx")), folder / "inlined.onnx")
    (folder / "k.json").write_text(json.dumps(manifest.neighbours.default if manifest.neighbours else None))
    random = np.random.default_rng(0)
    for number, given in enumerate(image_inputs(manifest)):
        shape = (1, given.channels, case.height + given.margin[0], case.width + given.margin[1])
        np.save(folder / f"{number}.npy", random.random(shape, np.float32))


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of cases of cpu_engines.py; all by default")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "engine_memory.json")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        folder, how, *words = given.child
        run(Path(folder), how, *words)
        print(json.dumps(peak()))
        return
    from cpu_engines import CASES, has_bf16

    engines = {name: words for name, words in ENGINES.items() if has_bf16() or "bf16" not in words}
    report = []
    for number, case in enumerate(CASES):
        if given.only and number not in given.only:
            continue
        print(case, flush=True)
        with tempfile.TemporaryDirectory() as name:
            prepare(case, Path(name))
            found = {}
            for engine, words in engines.items():
                line = [sys.executable, __file__, "--child", name, *words]
                result = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
                found[engine] = json.loads(result.stdout.splitlines()[-1])
                print(f"  {engine:22s} {found[engine]:7.0f} MB", flush=True)
        report.append({"case": str(case), "megabytes": found})
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
