"""What training with a random k gains: super-resolution x2 over k, by two networks that differ in their training alone.

    python examples/random_k.py kgt-sr-x2-tiny.ckpt kgt-sr-x2-fixed.ckpt -o random-k.svg

The first was trained with a k drawn anew in every step, the second with the default k (`train_super_resolution.py`).
Gains are over bicubic interpolation of the photograph that was not used in training. Also written as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from keygraph.models import load_checkpoint
from matplotlib.figure import Figure
from photos import UNSEEN
from train_super_resolution import bicubic, unseen
from training import psnr

NUMBERS = (4, 8, 16, 32, 64, 96, 128, 192, 256)


@torch.no_grad()
def gains(checkpoint: Path, numbers: list[int]) -> dict[int, float]:
    """Return the gain in PSNR over bicubic interpolation in dB, by k."""
    network = load_checkpoint(checkpoint).module.eval()
    low, high = unseen()
    clean = (high[0].permute(1, 2, 0) * 255).round().byte().numpy()
    before = psnr(bicubic(low), clean)
    return {k: psnr(network(low, k), clean) - before for k in numbers}


def draw(curves: dict[str, dict[int, float]], path: Path) -> None:
    """Plot the gains over k."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, points), marker in zip(curves.items(), "os", strict=True):
        axes.plot(list(points), list(points.values()), f"{marker}-", label=f"trained with {name}")
    numbers = list(next(iter(curves.values())))
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(k) for k in numbers])
    axes.minorticks_off()
    axes.set_xlabel("k, neighbours of each of 256 nodes")
    axes.set_ylabel("dB over bicubic interpolation")
    axes.set_title(f"Super-resolution x2 of '{UNSEEN}'")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Evaluate both networks, draw, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("random", type=Path, help="trained with a random k")
    parser.add_argument("fixed", type=Path, help="trained with one k")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the plot, .png or .svg")
    parser.add_argument("--k", type=int, nargs="+", default=list(NUMBERS))
    options = parser.parse_args()
    default = load_checkpoint(options.fixed).config.k
    curves = {"a random k": gains(options.random, options.k), f"k = {default}": gains(options.fixed, options.k)}
    draw(curves, options.output)
    options.output.with_suffix(".json").write_text(json.dumps(curves, indent=1) + "\n")
    for k in options.k:
        print(f"k = {k:<4}" + "".join(f"  {name}: {points[k]:+.2f} dB" for name, points in curves.items()))


if __name__ == "__main__":
    main()
