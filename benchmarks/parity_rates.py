"""Error rates of ``keygraph compare``: false alarms, and faults of decreasing size that it misses.

The networks are small KGTs with random weights (no two equal, in the norms either), one for each seed. Under the rule
for fp32 the candidate is the exported file with the same weights in ONNX Runtime, under the rule for fp16 the
checkpoint in half precision; the reference is the checkpoint in PyTorch in float32. Every fault is planted in the
candidate, in sizes that decrease by factors of ten. A cell of the table says how often it was found, and the PSNR in dB
that remains without near ties.

    python benchmarks/parity_rates.py --output benchmarks/results/parity_rates.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from keygraph.instrumentation.key_graphs import Selection
from keygraph.models import LoadedModel, load_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from keygraph.parity import OnnxProbe, Probe, Run, TorchProbe, compare
from keygraph.parity.localize.first_divergence import STANDS_OUT
from keygraph.plugins.torch import key_graph
from keygraph.plugins.torch.operators import graph_observer
from keygraph.runtime.tiling.blend import blend
from timing import features

# The tests export one network for any weights, too.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny_kgt import Reweighted, save_network

CONFIG = KGTConfig(body="columnar", layers=(2, 2, 2), channels=24, heads=3, window=8, k=16, k_trained=(8, 16, 32))
HEIGHT, WIDTH = 32, 40
RULES = ("fp32", "fp16")
SIZES = tuple(10.0**-exponent for exponent in range(7))

#: The block whose weights are changed, and the stage whose selection is.
BLOCK = "body.1.layers.0"


@dataclass(frozen=True)
class Row:
    """One fault of one size under one rule.

    Attributes
    ----------
    fault, size, rule
        What was planted, and what it was judged by.
    found, runs
        How often the verdict was DIFFERENT.
    psnr
        The median over the runs of the PSNR in dB without near ties; 200 for equal images.
    blocks
        How often the block that has the fault stands out: given the same inputs, its output is `STANDS_OUT` dB further
        off than that of the usual block; None where no block has it, or blocks were not compared.
    """

    fault: str
    size: float
    rule: str
    found: int
    runs: int
    psnr: float
    blocks: int | None = None


@dataclass(frozen=True)
class Case:
    """The correct network of one seed, and the image to compare it on."""

    seed: int
    checkpoint: Path
    export: Reweighted
    folder: Path

    @property
    def image(self) -> np.ndarray:
        """Noise, which is texture everywhere."""
        return np.random.default_rng(self.seed).random((HEIGHT, WIDTH, 3), np.float32)

    @property
    def model(self) -> LoadedModel:
        """The network, loaded from the checkpoint."""
        return load_checkpoint(self.checkpoint)

    def candidate(self, rule: str, change: Callable[[KGT], None] = lambda _network: None) -> Probe:
        """Return the side that is judged, after `change` has modified its network."""
        model = self.model
        with torch.no_grad():
            change(cast(KGT, model.module))
        if rule == "fp16":
            return TorchProbe(model, "fp16")
        path = self.folder / "candidate.onnx"
        self.export.write(path, model)
        return OnnxProbe(path)


def one_weight(network: KGT, size: float) -> None:
    """Change the largest weight of a layer."""
    weights = network.get_parameter(f"{BLOCK}.ffn.expand.weight").view(-1)
    weights[weights.abs().argmax()] *= 1 + size


def one_block(network: KGT, size: float) -> None:
    """Change every weight of a block at random, as a lower precision does."""
    random = torch.Generator().manual_seed(0)
    for tensor in network.get_submodule(BLOCK).parameters():
        tensor.mul_(1 + size * torch.randn(tensor.shape, generator=random))


def epsilon(network: KGT, size: float) -> None:
    """Add to the epsilon of a norm, which is 1e-5."""
    norm = cast(torch.nn.LayerNorm, network.get_submodule(f"{BLOCK}.norm1"))
    norm.eps += size


def bias(network: KGT, size: float) -> None:
    """Leave out a part of a bias."""
    network.get_parameter(f"{BLOCK}.ffn.reduce.bias").mul_(1 - size)


#: Faults of the arithmetic, with what their size is.
CHANGES: dict[str, Callable[[KGT, float], None]] = {
    "the largest weight of a layer: of itself": one_weight,
    "every weight of a block, at random: of itself": one_block,
    "epsilon of a LayerNorm: added": epsilon,
    "bias left out: part of it": bias,
}


class Flipping(TorchProbe):
    """A side whose first stage takes the (k+1)-th instead of the k-th neighbour, in one row of every `every`."""

    def __init__(self, model: LoadedModel, precision: str, every: int) -> None:
        super().__init__(model, precision)
        self._every = every

    def run(self, images: Any, k: int | None, *extras: Any) -> Any:
        """Run one batch, as `Probe.run`."""
        return self.record(images, k, *extras)[0]

    def record(self, images: Any, k: int | None, *extras: Any) -> tuple[Any, list[Selection]]:
        """Run one batch and record the selections, as `Probe.record`."""
        selections: list[Selection] = []

        def observe(query: torch.Tensor, key: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
            used = graph if selections else self._flipped(query, key, graph)
            name = f"body.{len(selections)}"
            selections.append(Selection(name, query.float().numpy(), key.float().numpy(), used.numpy()))
            return used

        with observing(observe):
            return self.session.run(images, k, *extras), selections

    def _flipped(self, query: torch.Tensor, key: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        with observing(None):
            more, fewer = (key_graph(query, key, torch.tensor([CONFIG.k + one])) for one in (1, -1))
        rows = torch.arange(graph[..., :1].numel()).reshape(graph[..., :1].shape)
        return torch.where(rows % self._every == 0, fewer | (more & ~graph), graph)


@contextmanager
def observing(observer: Any) -> Iterator[None]:
    """Make every `key_graph` inside the ``with`` block call this function."""
    token = graph_observer.set(observer)
    try:
        yield
    finally:
        graph_observer.reset(token)


def flipped(size: float, case: Case, rule: str) -> Run:
    """Plant the (k+1)-th instead of the k-th neighbour in a part of the rows.

    Parameters
    ----------
    case
        The network.
    size
        Which part of the rows.
    rule
        ``"fp32"`` or ``"fp16"``.
    """
    return compare(Flipping(case.model, rule, round(1 / size)), TorchProbe(case.model), [case.image])


def pasted_beside(size: float, case: Case, rule: str) -> Run:
    """Plant a tile that is one pixel off, in an image with a texture of this contrast.

    Parameters
    ----------
    case
        The network.
    size
        Contrast of the texture.
    rule
        ``"fp32"`` or ``"fp16"``.
    """
    texture = np.random.default_rng(case.seed).random((64, 80, 3), np.float32) - 0.5
    image, images = (0.5 + size * texture).astype(np.float32), 0

    def pasted(plan: Any, restored: Any, scale: int = 1) -> Any:
        nonlocal images
        images += 1
        if images == 1:  # The reference's.
            return blend(plan, restored, scale)
        return blend(plan, (np.roll(one, 1, -1) if i == 5 else one for i, one in enumerate(restored)), scale)

    with patch("keygraph.runtime.tiling.run.blend", pasted):
        return compare(case.candidate(rule), TorchProbe(case.model), [image], tile=32)


def changed(change: Callable[[KGT, float], None], size: float, case: Case, rule: str) -> Run:
    """Plant a fault of the arithmetic.

    Parameters
    ----------
    case
        The network.
    change
        A value of `CHANGES`.
    size
        How large the fault is.
    rule
        ``"fp32"`` or ``"fp16"``.
    """
    candidate = case.candidate(rule, lambda network: change(network, size))
    return compare(candidate, TorchProbe(case.model), [case.image], blocks=rule == "fp32")


def faults() -> Iterator[tuple[str, float, Callable[[Case, str], Run]]]:
    """Yield every fault in all its sizes, with the function that plants it."""
    for name, change in CHANGES.items():
        for size in SIZES:
            yield name, size, partial(changed, change, size)
    for size in SIZES[:4]:
        yield "(k+1)-th for k-th neighbour: part of the rows", size, partial(flipped, size)
    for size in SIZES[:6]:
        yield "a tile one pixel off: contrast of the texture", size, partial(pasted_beside, size)


def measure(name: str, size: float, rule: str, runs: list[Run]) -> Row:
    """Summarize the runs with one fault.

    Parameters
    ----------
    name, size
        The fault.
    rule
        ``"fp32"`` or ``"fp16"``.
    runs
        The comparisons.
    """
    results = [run.comparisons[0].inputs[0].judged.psnr for run in runs]
    levels = [200.0 if math.isinf(level) else level for level in results]
    blocks = None
    if any(run.comparisons[0].blocks for run in runs):
        blocks = sum(map(stands_out, runs))
    found = sum(not run.good for run in runs)
    return Row(name, size, rule, found, len(runs), round(statistics.median(levels), 1), blocks)


def stands_out(run: Run) -> bool:
    """Return whether the block with the fault differs more by itself than the usual block."""
    alone = {block.name: min(block.alone, 200.0) for block in run.comparisons[0].blocks if not math.isnan(block.alone)}
    worst = min(alone, key=lambda name: alone[name])
    return worst.startswith(BLOCK) and alone[worst] < statistics.median(alone.values()) - STANDS_OUT


def table(rows: list[Row]) -> str:
    """Return a Markdown table with a line for each fault and rule, and for each size how often it was found."""
    lines = [f"| fault: size | rule | {' | '.join(f'{size:g}' for size in SIZES)} |", "|---" * (len(SIZES) + 2) + "|"]
    for name in dict.fromkeys(row.fault for row in rows):
        for rule in RULES:
            cells = {row.size: _cell(row) for row in rows if (row.fault, row.rule) == (name, rule)}
            lines.append(f"| {name} | {rule} | {' | '.join(cells.get(size, '') for size in SIZES)} |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    level = "equal" if row.psnr == 200 else f"{row.psnr:.0f} dB"
    return f"{row.found}/{row.runs} {level}" + (f" ({row.blocks}/{row.runs})" if row.blocks is not None else "")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="networks without a fault")
    parser.add_argument("--runs", type=int, default=5, help="networks for each fault and size")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "parity_rates.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export = Reweighted(folder, CONFIG)
        cases = [
            Case(seed, save_network(folder / f"{seed}.ckpt", CONFIG, seed=seed), export, folder)
            for seed in range(max(options.seeds, options.runs))
        ]
        alarms = []
        for rule in RULES:
            runs = [
                compare(case.candidate(rule), TorchProbe(case.model), [case.image]) for case in cases[: options.seeds]
            ]
            levels = [run.comparisons[0].inputs[0].judged.psnr for run in runs]
            typical = [run.comparisons[0].inputs[0].typical for run in runs]
            without = measure("none", 0.0, rule, runs)
            alarms.append(asdict(without) | {"least": round(min(levels), 1), "typical_least": round(min(typical), 1)})
            print(f"{rule}: {without.found} alarms in {len(runs)} networks without a fault; the least is", end=" ")
            print(
                f"{min(levels):.1f} dB without near ties, {min(typical):.1f} dB for half of a tile as run", flush=True
            )
        rows = []
        for fault, size, plant in faults():
            for rule in RULES:
                rows.append(measure(fault, size, rule, [plant(case, rule) for case in cases[: options.runs]]))
                print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    record = {"features": features(torch.get_num_threads()), "without": alarms, "rows": [asdict(row) for row in rows]}
    options.output.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
