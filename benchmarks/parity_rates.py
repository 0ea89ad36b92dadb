"""Error rates of ``keygraph compare`` under the rule by rounding: faults that it finds and misses, and false alarms.

The networks are a small KGT and a small Restormer with random weights. Every kind of fault of `parity_faults.py` is
planted in one module, in sizes that decrease by factors of ten, in fp32, fp16 and bf16. The candidate in fp32 sums in
another order than the reference, so that rounding differs as between two programs. False alarms are counted without a
fault: ONNX Runtime with keygraph's library and with the file's functions, OpenVINO, and PyTorch in half precision.

Each case is written as soon as it is done, one JSON object a line, and is not repeated by a later run:

    python benchmarks/parity_rates.py --output benchmarks/results/parity_rates.jsonl
    python benchmarks/parity_rates.py --table --plot docs/images/parity-rates.png
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keygraph.export import export
from keygraph.models import LoadedModel, load_checkpoint, save_checkpoint
from keygraph.models.kgt import KGTConfig
from keygraph.models.registry import by_name
from keygraph.models.restormer import RestormerConfig
from keygraph.parity import Comparison, Probe, TorchProbe, compare, open_probe
from keygraph.parity.pass_criteria import FACTOR
from keygraph.parity.rounding.arithmetic import ReorderedSums
from parity_faults import FAULTS, Decomposed, Fault, Places
from timing import features

# The tests export one network for any weights, too.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny_kgt import Reweighted, save_network

#: Precision -> sizes of a fault; 1 is the whole fault.
SIZES = {
    "fp32": tuple(10.0**-exponent for exponent in range(7)),
    "fp16": tuple(10.0**-exponent for exponent in range(4)),
    "bf16": tuple(10.0**-exponent for exponent in range(4)),
}

KGT_CONFIG = KGTConfig(body="columnar", layers=(1, 1), channels=8, heads=2, window=8, k=16, k_trained=(8, 16, 32))
RESTORMER_CONFIG = RestormerConfig(channels=8, blocks=(1,) * 4, refinement_blocks=1, heads=(1, 2, 2, 4))

#: Sizes of the images without a fault.
PIXELS = ((16, 24), (32, 32), (40, 56))

PLACES = {
    "kgt": Places(
        square="body.1.layers.0.attention.project",
        kernel="body.1.conv",
        matrix="body.1.layers.0.ffn.reduce",
        biased="body.1.layers.0.ffn.expand",
        norm="body.1.layers.0.norm1",
        gated="body.1.layers.0.ffn",
        qkv="body.1.layers.0.attention.qkv",
        heads=2,
    ),
    "restormer": Places(
        square="encoder_level2.0.attn.project_out",
        kernel="encoder_level2.0.ffn.dwconv",
        matrix="encoder_level2.0.ffn.project_out",
        biased="",
        norm="encoder_level2.0.norm1",
        gated="encoder_level2.0.ffn",
        qkv="encoder_level2.0.attn.qkv",
        heads=2,
    ),
}


class Reordered(TorchProbe):
    """A checkpoint in PyTorch that sums in another order, as another program does."""

    def run(self, images: Any, k: int | None, *extras: Any) -> Any:
        """Restore a batch."""
        with ReorderedSums(7), Decomposed():  # type: ignore[no-untyped-call]
            return super().run(images, k, *extras)


@dataclass(frozen=True)
class Networks:
    """Networks with random weights, and files of them.

    Attributes
    ----------
    folder
        Where they are written.
    """

    folder: Path

    @cached_property
    def _kgt(self) -> Reweighted:
        return Reweighted(self.folder, KGT_CONFIG)

    def checkpoint(self, network: str, seed: int) -> Path:
        """Return a checkpoint; it is written once."""
        path = self.folder / f"{network}-{seed}.ckpt"
        if path.exists():
            return path
        if network == "kgt":
            return save_network(path, KGT_CONFIG, seed=seed)
        torch.manual_seed(seed)
        module = by_name("restormer").build(RESTORMER_CONFIG)
        with torch.no_grad():
            for parameter in module.parameters():  # As after training, no two are equal, not even those of norms.
                parameter.add_(0.02 * torch.randn_like(parameter))
        save_checkpoint(path, module)
        return path

    def file(self, network: str, seed: int, precision: str) -> Path:
        """Return the exported file; it is written once."""
        path = self.folder / f"{network}-{seed}-{precision}.onnx"
        if not path.exists():
            model = load_checkpoint(self.checkpoint(network, seed))
            if network == "kgt" and precision == "fp32":
                self._kgt.write(path, model)
            else:
                export(model, path, verification=False, precision=precision)
        return path

    def load(self, network: str, seed: int) -> LoadedModel:
        """Load a checkpoint."""
        return load_checkpoint(self.checkpoint(network, seed))


def picture(height: int, width: int, seed: int) -> Any:
    """Return noise, which is texture everywhere; every third time a smooth image, or a nearly flat one."""
    random = np.random.default_rng(seed)
    noise = random.random((height, width, 3), np.float32)
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None, :, None] * np.ones((height, 1, 3), np.float32)
    return (noise, 0.9 * ramp + 0.05 * noise, 0.5 + 0.004 * noise)[seed % 3]


def _numbers(comparison: Comparison) -> dict[str, Any]:
    (result,) = comparison.inputs
    blocks = [block.rounding.times for block in comparison.blocks if block.rounding is not None]
    return {
        "good": comparison.verdict.good,
        "image": None if result.rounding is None else _finite(result.rounding.times),
        "spread": None if result.rounding is None else _finite(result.rounding.spread),
        "worst": _finite(max(blocks, default=math.nan)),
        "reasons": [] if comparison.verdict.good else list(comparison.verdict.reasons)[:2],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def with_fault(networks: Networks, network: str, precision: str, fault: Fault, size: float, seed: int) -> Any:
    """Compare a network that has a fault.

    Parameters
    ----------
    networks, network, seed
        Which network.
    precision
        Of the candidate.
    fault, size
        What is planted.
    """
    places, model = PLACES[network], networks.load(network, seed)
    place = getattr(places, fault.place)
    fault.plant(model.module.get_submodule(place), size, places.heads)
    candidate = Reordered(model) if precision == "fp32" else TorchProbe(model, precision)
    reference = TorchProbe(networks.load(network, seed))
    (comparison,) = compare(candidate, reference, [picture(24, 32, 3 * seed)], blocks=True).comparisons
    accused = comparison.inputs[0].beyond_rounding
    around = [block for block in comparison.blocks if block.rounding is not None and _contains(block.name, place)]
    effect = max((block.rounding.times for block in around if block.rounding is not None), default=math.nan)
    return _numbers(comparison) | {
        "place": place,
        "effect": _finite(effect),
        "accused": accused[0].name if accused else None,
        "named": bool(accused) and _contains(accused[0].name, place),
        "suspect": accused[0].suspect if accused else None,
    }


def _contains(block: str, place: str) -> bool:
    return place == block or place.startswith(f"{block}.")


#: How a correct candidate runs -> (its precision, the side).
_CORRECT: dict[str, tuple[str, Callable[[Networks, str, int], Probe]]] = {
    "ONNX Runtime": ("fp32", lambda n, name, seed: open_probe(n.file(name, seed, "fp32"))),
    "ONNX Runtime, functions": ("fp32", lambda n, name, seed: open_probe(f"{n.file(name, seed, 'fp32')}@functions")),
    "OpenVINO": ("fp32", lambda n, name, seed: open_probe(f"{n.file(name, seed, 'fp32')}@openvino")),
    "PyTorch, other order": ("fp32", lambda n, name, seed: Reordered(n.load(name, seed))),
    "PyTorch fp16": ("fp16", lambda n, name, seed: TorchProbe(n.load(name, seed), "fp16")),
    "PyTorch bf16": ("bf16", lambda n, name, seed: TorchProbe(n.load(name, seed), "bf16")),
    "ONNX Runtime fp16": ("fp16", lambda n, name, seed: open_probe(n.file(name, 0, "fp16"))),
}


def without_fault(networks: Networks, network: str, way: str, pixels: tuple[int, int], seed: int) -> Any:
    """Compare a network that is right.

    Parameters
    ----------
    networks, network, seed
        Which network, and which image.
    way
        Key of `_CORRECT`.
    pixels
        Height and width.
    """
    # An export takes long, so networks that need one are few, with more images each.
    own = 0 if way == "ONNX Runtime fp16" else seed % 3 if network == "restormer" else seed
    candidate = _CORRECT[way][1](networks, network, own)
    reference = TorchProbe(networks.load(network, own))
    (comparison,) = compare(candidate, reference, [picture(*pixels, seed)], blocks=candidate.tells_blocks).comparisons
    return _numbers(comparison)


def cases(networks: Networks, seeds: int) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    """Yield every case: what it is, and the function that measures it."""
    for seed in range(seeds):
        for network in PLACES:
            for way, (precision, _) in _CORRECT.items():
                pixels = PIXELS[seed % len(PIXELS)]
                case = {"network": network, "precision": precision, "way": way, "seed": seed, "pixels": list(pixels)}
                yield case, partial(without_fault, networks, network, way, pixels, seed)
        if seed:
            continue
        for network, places in PLACES.items():
            for precision, sizes in SIZES.items():
                for fault in FAULTS:
                    for size in sizes if getattr(places, fault.place) else ():
                        case = {"network": network, "precision": precision, "fault": fault.name, "size": size}
                        yield case, partial(with_fault, networks, network, precision, fault, size, seed)


def measure(output: Path, seeds: int) -> None:
    """Run all cases that the file does not hold yet, and add each to it."""
    done = {_key(record["case"]) for record in read(output)}
    with tempfile.TemporaryDirectory() as name, output.open("a", encoding="utf-8") as file:
        for case, run in cases(Networks(Path(name)), seeds):
            if _key(case) not in done:
                file.write("\n" + json.dumps({"case": case, **run()}))
                file.flush()


def read(output: Path) -> list[dict[str, Any]]:
    """Return the cases of a file; a line that was cut short is left out."""
    if not output.exists():
        return []
    lines = output.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def _key(case: dict[str, Any]) -> str:
    return json.dumps(case, sort_keys=True)


def false_alarms(records: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the cases without a fault."""
    lines = ["| candidate | runs | alarms | image, at most | worst block | spread of orders |", "|---" * 6 + "|"]
    for way in _CORRECT:
        rows = [record for record in records if record["case"].get("way") == way]
        if rows:
            numbers = [max((row[name] for row in rows if row[name] is not None), default=None) for name in _WORST]
            alarms = sum(not row["good"] for row in rows)
            cells = " | ".join("" if number is None else f"{number:.2f}" for number in numbers)
            lines.append(f"| {way} | {len(rows)} | {alarms} | {cells} |")
    return "\n".join(lines)


_WORST = ("image", "worst", "spread")


def found_faults(records: list[dict[str, Any]]) -> str:
    """Return a Markdown table: for each kind of fault, the smallest size that is found, and what is named."""
    lines = [
        "| fault | fp32 KGT | fp32 Restormer | fp16 KGT | fp16 Restormer | bf16 KGT | bf16 Restormer | named as |",
        "|---" * 8 + "|",
    ]
    for fault in FAULTS:
        cells = [_smallest(_of(records, fault.name, precision, network)) for precision in SIZES for network in PLACES]
        whole = [row for row in _of(records, fault.name, "fp32", None) if row["case"]["size"] == 1]
        suspects = dict.fromkeys(row["suspect"] for row in whole if row["suspect"])
        lines.append(f"| {fault.name} | {' | '.join(cells)} | {'; '.join(suspects)} |")
    return "\n".join(lines)


def _of(records: list[dict[str, Any]], fault: str, precision: str, network: str | None) -> list[dict[str, Any]]:
    wanted = {"fault": fault, "precision": precision, **({} if network is None else {"network": network})}
    return [record for record in records if wanted.items() <= record["case"].items()]


def _smallest(rows: list[dict[str, Any]]) -> str:
    """Return the smallest size from which on every larger one is found, with the effect of the largest in its block."""
    if not rows:
        return ""
    rows = sorted(rows, key=lambda row: -row["case"]["size"])
    found = 0
    while found < len(rows) and not rows[found]["good"]:
        found += 1
    effect = rows[0]["effect"]
    return (f"{rows[found - 1]['case']['size']:g}" if found else "none") + (f" ({effect:,.0f})" if effect else "")


def rates(records: list[dict[str, Any]]) -> str:
    """Return a Markdown table: what is found of the faults, by their effect in their block in multiples of rounding."""
    limits = (0, 1, 2, FACTOR, 8, 16, 100, math.inf)
    lines = ["| effect | faults | found | right block | found without blocks |", "|---" * 5 + "|"]
    for low, high in itertools.pairwise(limits):
        rows = [row for row in records if row.get("effect") is not None and low <= row["effect"] < high]
        if rows:
            counts = [sum(map(test, rows)) for test in (_found, lambda row: row["named"], _found_in_image)]
            name = f"{low:g} to {high:g}" if high < math.inf else f"from {low:g}"
            lines.append(f"| {name} | {len(rows)} | {' | '.join(f'{count}' for count in counts)} |")
    return "\n".join(lines)


def _found(row: dict[str, Any]) -> bool:
    return not row["good"]


def _found_in_image(row: dict[str, Any]) -> bool:
    return row["image"] is None or row["image"] > FACTOR


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the share of faults that are found against their size, for each network and precision."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PLACES), figsize=(10.5, 3.6), sharey=True, layout="constrained")
    for axis, network in zip(axes, PLACES, strict=True):
        for (precision, sizes), colour in zip(SIZES.items(), ("#1f77b4", "#d95f02", "#7570b3"), strict=True):
            rows = [r for r in records if {"network": network, "precision": precision}.items() <= r["case"].items()]
            for test, style, words in ((_found, "-", "with blocks"), (_found_in_image, ":", "image alone")):
                by_size = [[r for r in rows if r["case"].get("size") == size] for size in sizes]
                shares = [statistics.mean(map(test, found)) for found in by_size if found]
                known = [size for size, found in zip(sizes, by_size, strict=True) if found]
                axis.plot(known, [100 * one for one in shares], style, color=colour, label=f"{precision}, {words}")
        axis.set_xscale("log")
        axis.set_title({"kgt": "KGT", "restormer": "Restormer"}[network], fontsize=10)
        axis.set_xlabel("size of the fault (1: the whole fault)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("found, % of the kinds of fault")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=24, help="networks or images without a fault, for each way to run")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "parity_rates.jsonl")
    parser.add_argument("--table", action="store_true", help="print what the file holds, and measure nothing")
    parser.add_argument("--plot", type=Path, help="draw what the file holds; needs matplotlib")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if not options.table:
        print(features(torch.get_num_threads()), file=sys.stderr)
        measure(options.output, options.seeds)
    records = read(options.output)
    print(false_alarms(records), found_faults(records), rates(records), sep="\n\n")
    if options.plot is not None:
        plot(records, options.plot)


if __name__ == "__main__":
    main()
