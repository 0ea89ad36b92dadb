"""Networks of unknown architecture on a CPU: the exported file against the same export with nothing recognised in it.

One process, one thread, random weights; every round runs each call once (see `keygraph.bench.timing`). The built-in
networks are one KGT whose attention is written in the ways of `own_networks.py`. Any other is given as for
`export-model`: ``--model my_model.py:build``, with ``--shape`` where it takes one size only. Contenders:

- exported: attentions to a top-k by keygraph's operators, in ONNX Runtime with keygraph's library;
- unfused: the same export without them, in ONNX Runtime;
- by hand: the built-in network with its attention written with `keygraph.attend`, exported;
- PyTorch, eager.

A ratio is a contender's time over that of the exported file; above 1, the exported file is faster.
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
import torch
from keygraph.bench.timing import cpu_times
from keygraph.export import export
from keygraph.export.custom.attention import Attentions
from keygraph.export.custom.model import CustomModel, examine
from keygraph.export.custom.source import SourceOptions, load_source
from keygraph.export.trace import capture
from keygraph.instrumentation.metrics import psnr
from keygraph.instrumentation.synthetic import synthetic_image
from keygraph.runtime.backends.base import resolve_k
from keygraph.runtime.preprocess.padding import round_up
from own_networks import WAYS, Network
from timing import features

#: Windows of the built-in networks, and how many nodes each node attends to.
SHAPES = {16: 64, 32: 256}

#: Side of the image in pixels, where no other is given.
SIDE = 128


@dataclass(frozen=True)
class Case:
    """A network, as a function that examines it, and the same network by hand."""

    name: str
    network: Callable[[], CustomModel]
    by_hand: Callable[[], CustomModel] | None = None


def built_in(name: str, window: int, k: int) -> Callable[[], CustomModel]:
    """Return a function that examines a built-in network."""

    def network() -> CustomModel:
        torch.manual_seed(0)
        module = Network(name, window, k).eval().requires_grad_(False)
        return examine(module, name, {}, size_multiple=window)

    return network


def from_source(entry_point: str, shape: tuple[int, int, int] | None) -> Callable[[], CustomModel]:
    """Return a function that examines the network of a Python file, for one shape or for any size."""

    def network() -> CustomModel:
        torch.manual_seed(0)
        return load_source(
            entry_point,
            SourceOptions(),
            key_map=None,
            config=None,
            entry=None,
            shape=shape,
            notice=print,
            progress=lambda _step: None,
        )

    return network


def cases(models: list[str], shape: tuple[int, int, int] | None) -> list[Case]:
    """Return the built-in cases, or those of the given networks."""
    if models:
        return [Case(model, from_source(model, shape)) for model in models]
    return [
        Case(f"{name}, window {window}", built_in(name, window, k), built_in("by hand", window, k))
        for window, k in SHAPES.items()
        for name in WAYS
    ]


def contenders(case: Case, folder: Path, least: int) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """Export the networks of a case; return a call for each contender, and what was found.

    Parameters
    ----------
    case
        The networks.
    folder
        Where the files are written.
    least
        Least side of the image, which is rounded up to what the network takes.
    """
    model = case.network()
    found: dict[str, Any] = {"notes": list(model.notes), "fused": model.attentions.fused}
    found["packed"] = model.attentions.packed
    program = capture(model.module, replace(model.manifest(), shape=model.shape, neighbours=None))
    unfused = replace(model, attentions=Attentions(program, (), program), neighbours=None)
    files = {"exported": model, "unfused": unfused}
    if case.by_hand is not None:
        files["by hand"] = case.by_hand()
    manifest = model.manifest()
    side = round_up(max(least, manifest.smallest), manifest.size_multiple)
    batch, height, width = model.shape or (1, side, side)
    image = synthetic_image((batch, manifest.in_channels, height, width), manifest.value_range)

    def session(name: str, each: CustomModel) -> Callable[[], Any]:
        file = folder / f"{name}.onnx"
        export(each, file, verification=False)
        opened = keygraph.load(file, provider="cpu", threads=1).session
        k = resolve_k(opened.manifest, None)
        return lambda: opened.run(image, k)

    calls = {name: session(name, each) for name, each in files.items()}

    def eager() -> Any:
        with torch.inference_mode():
            return model.module(torch.from_numpy(image)).numpy()

    calls["PyTorch"] = eager
    expected = eager()
    span = float(expected.min()), float(expected.max())
    found["dB from PyTorch"] = {
        name: round(psnr(np.asarray(call()), expected, span), 1) for name, call in calls.items() if name != "PyTorch"
    }
    return calls, found


def main() -> None:
    """Run the cases, print ratios and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[], metavar="FILE.py:NAME", help="other networks to run")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("B", "H", "W"), help="the only shape that these take")
    parser.add_argument("--side", type=int, default=SIDE, help="least side of the image in pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", type=int, nargs="*", metavar="CASE", help="numbers of the cases to run, from 0")
    parser.add_argument("--alone", action="store_true", help="least processor time: for a busy machine")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "own_models.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    shape = tuple(arguments.shape) if arguments.shape else None
    for number, case in enumerate(cases(arguments.model, shape)):
        if arguments.only is not None and number not in arguments.only:
            continue
        print(f"{number}  {case.name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            calls, found = contenders(case, Path(folder), arguments.side)
            times = cpu_times(calls, arguments.rounds, alone=arguments.alone)
        ratios = {name: time / times["exported"] for name, time in times.items() if name != "exported"}
        for line in found["notes"]:
            print(f"     {line}")
        print(f"     {found['dB from PyTorch']} dB from PyTorch")
        print(f"     {times['exported']:.0f} ms; " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
        results.append({"case": case.name, **found, "milliseconds": times, "ratios": ratios})
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**features(1), "cases": results}, indent=1) + "\n")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
