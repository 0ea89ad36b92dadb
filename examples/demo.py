"""The whole path at once: export the tiny denoiser, verify it, and restore a photograph that was not used in training.

make demo        (or: python examples/demo.py -o demo-output)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
from keygraph.export import export
from keygraph.instrumentation.metrics import psnr
from keygraph.models import load_checkpoint
from keygraph.runtime.io.images import Picture, write
from photos import UNSEEN, add_noise, unseen_photo

CHECKPOINT = Path(__file__).parent / "kgt-denoise-tiny.ckpt"
SIGMA = 25.0
RUNS = 3
BYTES = (0.0, 255.0)
UNIT = (0.0, 1.0)


def main() -> None:
    """Run the demo; print and write a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-output"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)

    clean = unseen_photo()
    noisy = add_noise(clean, SIGMA, seed=0)

    file = folder / "kgt-denoise.onnx"
    say(f"exporting {CHECKPOINT.name} and verifying it against PyTorch ...")
    manifest = export(load_checkpoint(CHECKPOINT), file)
    neighbours = manifest.neighbours
    assert neighbours is not None  # A KGT has them.
    ours = keygraph.load(file)
    say(f"restoring '{UNSEEN}' with {ours.description} ...")
    by_k = {}
    for k in (32, 100, neighbours.maximum):
        picture, seconds = timed(ours, noisy, k)
        by_k[k] = {"psnr": psnr(picture, clean, BYTES), "seconds": seconds}
    default = neighbours.default
    restored, seconds = timed(ours, noisy, default)

    # Compared in floating point, because rounding to 8 bits would hide differences.
    image = noisy.astype(np.float32) / 255
    say("restoring it in PyTorch, and in ONNX Runtime without keygraph's library ...")
    result = ours(image, default)
    reference = keygraph.load(CHECKPOINT)(image, default)
    plain = keygraph.load(file, library=None)(image, default)

    summary = {
        "photo": UNSEEN,
        "size": list(clean.shape[:2]),
        "sigma": SIGMA,
        "k": default,
        "psnr_input": psnr(noisy, clean, BYTES),
        "psnr_output": psnr(restored, clean, BYTES),
        "parity_psnr": psnr(result, reference, UNIT),
        "parity_psnr_functions": psnr(plain, reference, UNIT),
        "seconds": seconds,
        "seconds_per_megapixel": seconds / (clean.shape[0] * clean.shape[1] / 1e6),
        "by_k": by_k,
        "engine": ours.description,
    }
    for name, picture in {"clean": clean, "noisy": noisy, "restored": restored}.items():
        write(folder / f"{name}.png", Picture(picture))
    write(folder / "side-by-side.png", Picture(side_by_side(noisy, restored, clean)))
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    text = describe(summary, folder)
    (folder / "summary.txt").write_text(text)
    print(text, end="")


def timed(restorer: keygraph.Restorer, image: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Restore an image `RUNS` times after one warm-up run; return the result and the median time in seconds.

    Parameters
    ----------
    restorer
        The model.
    image
        uint8[H, W, 3].
    k
        Neighbours of each node.
    """
    restored = restorer(image, k)
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        restorer(image, k)
        seconds.append(time.perf_counter() - start)
    return restored, statistics.median(seconds)


def side_by_side(*pictures: np.ndarray) -> np.ndarray:
    """Join pictures in a row, with the centre of each enlarged three times below it."""
    height, width = pictures[0].shape[:2]
    details = []
    for picture in pictures:
        h, w = height // 3, width // 3
        detail = picture[h : 2 * h, w : 2 * w].repeat(3, 0).repeat(3, 1)
        details.append(np.pad(detail, ((0, height - 3 * h), (0, width - 3 * w), (0, 0)), mode="edge"))
    return np.concatenate([np.concatenate(pictures, 1), np.concatenate(details, 1)], 0)


def describe(summary: dict[str, Any], folder: Path) -> str:
    """Return the summary as a few lines of text."""
    height, width = summary["size"]
    gain = summary["psnr_output"] - summary["psnr_input"]
    lines = [
        f"photo     '{summary['photo']}' {width} x {height}, unseen in training, noise of sigma {summary['sigma']:.0f}",
        f"quality   {summary['psnr_input']:.2f} -> {summary['psnr_output']:.2f} dB (+{gain:.2f}, k = {summary['k']})",
        f"parity    {summary['parity_psnr']:.0f} dB between ONNX Runtime and PyTorch "
        f"({summary['parity_psnr_functions']:.0f} dB without keygraph's library)",
        f"speed     {summary['seconds_per_megapixel']:.1f} s per megapixel on this machine's CPU",
        "one file, any k:",
        *(f"  k = {k:<4} {v['psnr']:.2f} dB  {v['seconds']:.2f} s" for k, v in summary["by_k"].items()),
        f"see       {folder}/side-by-side.png  (noisy, restored, clean; below, the centre enlarged)",
    ]
    return "\n".join(lines) + "\n"


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
