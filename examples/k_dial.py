"""Quality against time over k, as the papers plot it: one trained network, for three implementations of its attention.

    python examples/k_dial.py -o k-dial.svg

The mask and the gather are the papers' names for dense attention with a mask, and for attention over gathered rows;
both run in PyTorch, ours is the exported file in ONNX Runtime. All have the same number of threads. Each point is the
median of interleaved runs on the photograph that was not used in training. The figures are also written as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keygraph
import numpy as np
import torch
from keygraph.export import export
from keygraph.instrumentation.metrics import psnr
from keygraph.models import load_checkpoint
from keygraph.plugins.torch import use_attention
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from photos import UNSEEN, add_noise, unseen_photo

CHECKPOINT = Path(__file__).parent / "kgt-denoise-tiny.ckpt"
SIGMA = 25.0
PART = slice(22, 278), slice(97, 353)
RUNS = 5
NAMES = {"mask": "Torch-Mask", "gather": "Torch-Gather", "ours": "keygraph in ONNX Runtime"}

Curves = dict[str, dict[int, tuple[float, float]]]


def measure(numbers: list[int], runs: int) -> Curves:
    """Return the median time in seconds and the PSNR in dB, by implementation and k.

    Parameters
    ----------
    numbers
        The values of k.
    runs
        Runs of every point; the first of one more is not counted.
    """
    clean = unseen_photo()[PART]
    noisy = add_noise(clean, SIGMA, seed=0)
    network = load_checkpoint(CHECKPOINT).module.eval()
    tensor = torch.from_numpy(noisy).permute(2, 0, 1)[None].float() / 255

    def in_pytorch(name: str) -> Callable[[int], np.ndarray]:
        def run(k: int) -> np.ndarray:
            with torch.no_grad(), use_attention(name):
                restored: np.ndarray = network(tensor, k)[0].permute(1, 2, 0).numpy()
            rounded: np.ndarray = np.rint(restored.clip(0, 1) * 255).astype(np.uint8)
            return rounded

        return run

    def in_onnx_runtime(k: int) -> np.ndarray:
        restored: np.ndarray = restorer(noisy, k, tile="none")
        return restored

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kgt.onnx"
        export(load_checkpoint(CHECKPOINT), file)
        with keygraph.load(file, threads=torch.get_num_threads()) as restorer:
            ways = {
                "mask": in_pytorch("mask"),
                "gather": in_pytorch("gather"),
                "ours": in_onnx_runtime,
            }
            times: dict[tuple[str, int], list[float]] = {(name, k): [] for name in ways for k in numbers}
            decibels: dict[tuple[str, int], float] = {}
            for run in range(runs + 1):
                for (name, k), seconds in times.items():
                    start = time.perf_counter()
                    restored = ways[name](k)
                    if run:
                        seconds.append(time.perf_counter() - start)
                    decibels[name, k] = psnr(restored, clean, (0, 255))
    return {name: {k: (statistics.median(times[name, k]), decibels[name, k]) for k in numbers} for name in ways}


def draw(curves: Curves, path: Path) -> None:
    """Plot PSNR against time, with k at the points of our curve."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        seconds, decibels = zip(*points.values(), strict=True)
        axes.plot([1000 * s for s in seconds], decibels, "o-", label=NAMES[name])
    for k, point in curves["ours"].items():
        axes.annotate(f"k = {k}", (1000 * point[0], point[1]), (5, -12), textcoords="offset points", fontsize="small")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.1)
    axes.set_xlabel("milliseconds for 256 x 256 pixels")
    axes.set_ylabel("PSNR in dB")
    axes.set_title(f"One network, any k: denoising '{UNSEEN}', sigma {SIGMA:.0f}")
    axes.grid(alpha=0.3)
    axes.legend(loc="center", bbox_to_anchor=(0.37, 0.5))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, draw, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path, help="the plot, .png or .svg")
    parser.add_argument("--k", type=int, nargs="+", default=[16, 32, 64, 96, 128, 192, 256])
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    curves = measure(options.k, options.runs)
    draw(curves, options.output)
    options.output.with_suffix(".json").write_text(json.dumps(curves, indent=1) + "\n")
    for name, points in curves.items():
        for k, (seconds, decibels) in points.items():
            print(f"{NAMES[name]:26} k = {k:<4} {1000 * seconds:7.0f} ms  {decibels:.2f} dB")


if __name__ == "__main__":
    main()
