"""Whole networks with channel attention on the CPU: ONNX Runtime against eager PyTorch, GLMHA against CSA.

A Restormer on 480 x 720 and an MST++ on 482 x 512 (padded to 488) in their released sizes, random weights, float32.
Every round runs each call once (see `keygraph.bench.timing`). Ratios are PyTorch's time over the file's for the same
network; savings are GLMHA's against CSA in the same engine. "nodes" is the file again, as the sum of each node's
shortest time over several runs by ONNX Runtime's profiler, which varies less on a busy machine, with the share of the
operators inside the attention: Gram product, norms, softmax, product with the values. An operator that took no time
would make the network 1 / (1 - share) times faster.

All models of a network stay in memory: two Restormers at 480 x 720 take 10 GB (`--attention`), three over 24 GB.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnxruntime
import torch
from keygraph.bench.timing import cpu_times
from keygraph.export import export
from keygraph.models import enhance, load_checkpoint, registry, save_checkpoint
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import RestormerConfig
from timing import THREADS, features
from torch import nn

#: Name -> preset of `enhance`; None for the network as released.
ATTENTIONS = {"csa": None, "glmha uniform": "uniform", "glmha table": "table"}

#: Modules that hold the products of the attention and nothing else.
PRODUCTS = ".mixer"

#: What is timed: in processor or wall time, and as the sum of the least time of each node of the file.
ENGINES = ("file", "eager", "nodes")

#: The file and eager PyTorch differ by no more.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Case:
    """A network, and height and width of its image."""

    name: str
    config: Any
    size: tuple[int, int]


CASES = [
    Case("restormer", RestormerConfig(), (480, 720)),
    Case("restormer-biasfree", RestormerConfig(norm="BiasFree"), (480, 720)),
    Case("mst_plus_plus", MSTPlusPlusConfig(), (488, 512)),
]


def network(case: Case, preset: str | None) -> nn.Module:
    """Return the network with random weights, the same for every preset."""
    torch.manual_seed(0)
    model = registry.by_name(case.name.partition("-")[0]).build(case.config).eval()
    return model if preset is None else enhance(model, preset=preset)


def exported(case: Case, attention: str, folder: Path) -> tuple[nn.Module, Path]:
    """Return the network and its exported file, which is written if the folder does not have it.

    Parameters
    ----------
    case
        The network.
    attention
        A key of `ATTENTIONS`.
    folder
        Where checkpoints and files are.
    """
    stem = f"{case.name}-{attention.replace(' ', '-')}"
    checkpoint, file = folder / f"{stem}.ckpt", folder / f"{stem}.onnx"
    if not file.is_file():
        save_checkpoint(checkpoint, network(case, ATTENTIONS[attention]))
        export(load_checkpoint(checkpoint), file, verification=False)
    return load_checkpoint(checkpoint).module, file


def contenders(
    case: Case, attentions: list[str], image: torch.Tensor, folder: Path, threads: int
) -> dict[str, Callable[[], Any]]:
    """Return "attention, engine" -> call, after checking every file against PyTorch.

    Parameters
    ----------
    case
        The network.
    attentions
        Keys of `ATTENTIONS`.
    image
        float32[1, C, H, W].
    folder
        Where checkpoints and files are.
    threads
        Threads of ONNX Runtime.
    """
    calls: dict[str, Callable[[], Any]] = {}
    for attention in attentions:
        model, file = exported(case, attention, folder)
        session = keygraph.load(file, library=None, threads=threads).session

        def eager(model: nn.Module = model) -> torch.Tensor:
            with torch.inference_mode():
                result: torch.Tensor = model(image)
            return result

        def ours(session: Any = session) -> Any:
            return session.run(image.numpy(), None)

        difference = np.abs(ours() - eager().numpy()).max()
        if not difference < TOLERANCE:
            raise SystemExit(f"{case.name}, {attention}: the file and PyTorch differ by {difference:.2g}")
        calls |= {f"{attention}, file": ours, f"{attention}, eager": eager}
    return calls


def profiled(file: Path, image: torch.Tensor, threads: int, runs: int) -> tuple[float, float]:
    """Return the milliseconds of the file, and the share of its nodes between queries, keys, values and the result.

    Parameters
    ----------
    file
        The exported file.
    image
        float32[1, C, H, W].
    threads
        Threads of ONNX Runtime.
    runs
        Runs of which each node's shortest time counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, {"image": image.numpy()})
        events = json.loads(Path(session.end_profiling()).read_text())
    least: dict[str, float] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            least[event["name"]] = min(event["dur"], least.get(event["name"], float("inf")))
    whole = sum(least.values())
    return whole / 1e3, sum(time for name, time in least.items() if PRODUCTS in name) / whole


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", action="store_true", help="one thread, least processor time: for a busy machine")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=[case.name for case in CASES], help="some of the networks")
    parser.add_argument("--attention", nargs="*", choices=list(ATTENTIONS), help="csa and these")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of all images")
    parser.add_argument("--folder", type=Path, help="keep checkpoints and files here, and use those that are there")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "channel_attention.json")
    arguments = parser.parse_args()

    threads = 1 if arguments.alone else THREADS
    torch.set_num_threads(threads)
    attentions = [
        "csa",
        *(name for name in ATTENTIONS if name in (arguments.attention or ATTENTIONS) and name != "csa"),
    ]
    report: dict[str, Any] = {"machine": features(threads), "cases": []}
    print(f"{report['machine']['processor']}, {threads} thread{'s' * (threads > 1)}")
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        height, width = arguments.size or case.size
        image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            calls = contenders(case, attentions, image, folder, threads)
            times = cpu_times(calls, arguments.rounds, arguments.alone)
            profiles = {
                attention: profiled(exported(case, attention, folder)[1], image, threads, arguments.rounds)
                for attention in attentions
            }
        print(f"\n{case.name}, {height} x {width}")
        rows = []
        for attention in attentions:
            nodes, share = profiles[attention]
            row: dict[str, Any] = {"attention": attention, "share": share, "nodes": nodes}
            row |= {engine: times[f"{attention}, {engine}"] for engine in ("file", "eager")}
            row["ratio"] = row["eager"] / row["file"]
            rows.append(row)
            row |= {f"{engine} saves": 1 - row[engine] / rows[0][engine] for engine in ENGINES if attention != "csa"}
            print(
                f"  {attention:14s} file {row['file']:8.0f} ms   eager {row['eager']:8.0f} ms   {row['ratio']:5.2f} x"
                f"   nodes {nodes:8.0f} ms, {share:5.1%} the attention's products",
                *(f"   {engine} saves {row[f'{engine} saves']:.1%}" for engine in ENGINES if f"{engine} saves" in row),
            )
        report["cases"].append({"network": case.name, "size": [height, width], "rows": rows})
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    main()
