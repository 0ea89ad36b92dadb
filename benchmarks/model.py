"""A whole KGT on the CPU: ONNX Runtime with keygraph's library, against eager PyTorch and the file's own functions.

One process, two threads, float32, random weights; every round runs each call once (see `keygraph.bench.timing`). The
PyTorch implementations get every advantage: the graph is a plain matmul and topk, and its boolean mask (or index list)
is made once for all layers of a stage.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import keygraph
import numpy as np
import torch
from keygraph.bench.timing import cpu_times
from keygraph.export import export
from keygraph.models import kgt as kgt_module
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from timing import THREADS, add_options, features, instruction_set, target
from torch import nn

SIDE = 128

Call = Callable[..., torch.Tensor]
#: (q, k, v, mask or index) -> result, with the heads apart.
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Window and k of a columnar KGT with 60 channels, 6 heads, 4 stages of 4 layers; what the project wants of it."""

    window: int
    k: int
    target_sdpa: float
    target_functions: float = 8

    def __str__(self) -> str:
        return f"window {self.window}, k = {self.k}"


CASES = [Case(32, 256, 3), Case(32, 128, 3), Case(16, 64, 2.5)]


def dense_graph(query: torch.Tensor, key: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the graph as a PyTorch user would write it, bool[B, 1, M, N].

    Parameters
    ----------
    query, key
        float32[B, 1, M, C] and [B, 1, N, C].
    k
        int64[1].
    """
    chosen = (query @ key.mT).topk(int(k), dim=-1, sorted=False).indices
    return torch.zeros(*query.shape[:3], key.shape[2], dtype=torch.bool).scatter_(-1, chosen, True)


def index_graph(query: torch.Tensor, key: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the graph as a list of neighbours, int64[B, 1, M, k].

    Parameters
    ----------
    query, key
        float32[B, 1, M, C] and [B, 1, N, C].
    k
        int64[1].
    """
    return (query @ key.mT).topk(int(k), dim=-1, sorted=False).indices


def by_head(attend: Attend) -> Call:
    """Return `attend` for inputs with the heads last: [B, N, H D] -> [B, H, N, D], and back."""

    def call(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, graph: torch.Tensor, *_rest: object, heads: int
    ) -> torch.Tensor:
        q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v, graph).transpose(1, 2).flatten(2)

    return call


@by_head
def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return PyTorch's fused attention with a boolean mask.

    Parameters
    ----------
    q, k, v
        float32[B, H, N, D].
    mask
        bool[B, 1, N, N].
    """
    result: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return result


@by_head
def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the papers' Torch-Mask.

    Parameters
    ----------
    q, k, v
        float32[B, H, N, D].
    mask
        bool[B, 1, N, N].
    """
    scores = (q @ k.mT) * q.shape[-1] ** -0.5
    result: torch.Tensor = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
    return result


@by_head
def gathered(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the papers' Torch-Gather, window by window: all windows at once would take gigabytes.

    Parameters
    ----------
    q, k, v
        float32[B, H, N, D].
    index
        int64[B, 1, N, k].
    """
    out = torch.empty_like(q)
    for window in range(q.shape[0]):  # all windows at once would take gigabytes
        keys, values = k[window][:, index[window, 0]], v[window][:, index[window, 0]]
        weights = ((q[window].unsqueeze(2) @ keys.mT) * q.shape[-1] ** -0.5).softmax(-1)
        out[window] = (weights @ values).squeeze(2)
    return out


@contextmanager
def written_by_hand(graph: Call, attention: Call) -> Iterator[None]:
    """Make the network call these functions instead of keygraph's operators inside the ``with`` block."""
    with patch.object(kgt_module, "key_graph", graph), patch.object(kgt_module, "key_graph_attention", attention):
        yield


def eager(model: nn.Module, image: torch.Tensor, k: int, graph: Call, attention: Call) -> Callable[[], torch.Tensor]:
    """Return a call of the network in eager PyTorch with these functions instead of keygraph's operators.

    Parameters
    ----------
    model
        The network.
    image
        float32[1, C, H, W].
    k
        Neighbours of each node.
    graph, attention
        The functions.
    """

    def call() -> torch.Tensor:
        with torch.inference_mode(), written_by_hand(graph, attention):
            result: torch.Tensor = model(image, k)
        return result

    return call


def contenders(case: Case, folder: Path, gather: bool, threads: int) -> dict[str, Callable[[], Any]]:
    """Return name -> call, "ours" first, after checking every other result against it.

    Parameters
    ----------
    case
        The network.
    folder
        Where the checkpoint and the file are written.
    gather
        Whether to include gathered rows.
    threads
        Threads of ONNX Runtime.
    """
    torch.manual_seed(0)
    config = KGTConfig(layers=(4, 4, 4, 4), channels=60, heads=6, window=case.window, k=case.k)
    checkpoint, file = folder / "model.ckpt", folder / "model.onnx"
    save_checkpoint(checkpoint, KGT(config))
    loaded = load_checkpoint(checkpoint)
    export(loaded, file, verification=False)
    image = torch.rand(1, 3, SIDE, SIDE)
    ours = keygraph.load(file, threads=threads).session
    functions = keygraph.load(file, library=None, threads=threads).session
    model = loaded.module
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours.run(image.numpy(), case.k),
        "functions": lambda: functions.run(image.numpy(), case.k),
        "sdpa": eager(model, image, case.k, dense_graph, sdpa),
        "mask": eager(model, image, case.k, dense_graph, masked),
    }
    if gather:
        calls["gather"] = eager(model, image, case.k, index_graph, gathered)
    expected = ours.run(image.numpy(), case.k)
    for name, call in calls.items():
        # Near ties may go either way in a network that was never trained: most pixels must agree closely.
        difference = np.quantile(np.abs(np.asarray(call()) - expected), 0.9)
        if not difference < 1e-3:
            raise SystemExit(f"{case}: {name} and ours differ by {difference:.2g}")
    return calls


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, 9, "model.json")
    parser.add_argument("--gather", action="store_true", help="also PyTorch with gathered rows (a minute each)")
    arguments = parser.parse_args()

    threads = 1 if arguments.alone else THREADS
    torch.set_num_threads(threads)
    isa = instruction_set(arguments.isa)
    report: dict[str, Any] = {"machine": features(threads), "isa": isa, "cases": []}
    print(f"{report['machine']['processor']}, {threads} thread{'s' * (threads > 1)}, {SIDE} x {SIDE}, {isa}")
    for number, case in enumerate(CASES):
        if arguments.only and number not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            times = cpu_times(
                contenders(case, Path(folder), arguments.gather, threads), arguments.rounds, arguments.alone
            )
        ratios = {name: value / times["ours"] for name, value in times.items() if name != "ours"}
        report["cases"].append({"window": case.window, "k": case.k, "milliseconds": times, "ratios": ratios})
        print(f"\n{case}\n  {'ours':10s} {times['ours']:8.1f} ms")
        targets = {"sdpa": case.target_sdpa, "functions": case.target_functions}
        for name, ratio in ratios.items():
            print(f"  {name:10s} {times[name]:8.1f} ms   {ratio:6.2f} x{target(targets.get(name), isa)}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    main()
