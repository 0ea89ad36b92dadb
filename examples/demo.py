"""The whole path at once: export two tiny denoisers, verify them, and restore a photograph unseen in training.

make demo        (or: python examples/demo.py -o demo-output)

The first is a KGT, whose k is chosen at run time. The second is a Restormer with GLMHA, whose statistics are over the
whole image: tiles of it are restored both ways, with the image's statistics and each with its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
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
CHANNEL_ATTENTION = Path(__file__).parent / "restormer-denoise-tiny-glmha.ckpt"
SIGMA = 25.0
RUNS = 3
#: Height and width of the tiles of the second network, in pixels.
TILE = 192
#: How much the differences between tiles and the whole image are enlarged in the picture.
AMPLIFIED = 32
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
    kgt = demonstrate_kgt(folder, clean, noisy)
    restormer = demonstrate_restormer(folder, clean, noisy)

    summary = {"photo": UNSEEN, "size": list(clean.shape[:2]), "sigma": SIGMA, **kgt, "restormer": restormer}
    for name, picture in {"clean": clean, "noisy": noisy}.items():
        write(folder / f"{name}.png", Picture(picture))
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    text = describe(summary, folder)
    (folder / "summary.txt").write_text(text)
    print(text, end="")


def demonstrate_kgt(folder: Path, clean: np.ndarray, noisy: np.ndarray) -> dict[str, Any]:
    """Restore with the key graph's network for several k; write its pictures and return its figures.

    Parameters
    ----------
    folder
        Where files are written.
    clean, noisy
        uint8[H, W, 3].
    """
    file = folder / "kgt-denoise.onnx"
    say(f"exporting {CHECKPOINT.name} and verifying it against PyTorch ...")
    manifest = export(load_checkpoint(CHECKPOINT), file)
    neighbours = manifest.neighbours
    assert neighbours is not None  # A KGT has them.
    ours = keygraph.load(file)
    say(f"restoring '{UNSEEN}' with {ours.description} ...")
    by_k = {}
    for k in (32, 100, neighbours.maximum):
        picture, seconds = timed(partial(ours, noisy, k))
        by_k[k] = {"psnr": psnr(picture, clean, BYTES), "seconds": seconds}
    default = neighbours.default
    restored, seconds = timed(partial(ours, noisy, default))

    # Compared in floating point, because rounding to 8 bits would hide differences.
    image = noisy.astype(np.float32) / 255
    say("restoring it in PyTorch, and in ONNX Runtime without keygraph's library ...")
    result = ours(image, default)
    reference = keygraph.load(CHECKPOINT)(image, default)
    plain = keygraph.load(file, library=None)(image, default)
    write(folder / "restored.png", Picture(restored))
    write(folder / "side-by-side.png", Picture(side_by_side(noisy, restored, clean)))
    return {
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


def demonstrate_restormer(folder: Path, clean: np.ndarray, noisy: np.ndarray) -> dict[str, Any]:
    """Restore with channel attention, whole and in tiles; write its pictures and return its figures.

    Parameters
    ----------
    folder
        Where files are written.
    clean, noisy
        uint8[H, W, 3].
    """
    file = folder / "restormer-glmha-denoise.onnx"
    say(f"exporting {CHANNEL_ATTENTION.name} and verifying it against PyTorch ...")
    export(load_checkpoint(CHANNEL_ATTENTION), file)
    ours = keygraph.load(file)
    say("restoring the same photo, whole and in tiles ...")
    restored, seconds = timed(partial(ours, noisy, tile="none"))
    image = noisy.astype(np.float32) / 255
    whole = ours(image, tile="none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", keygraph.KeygraphWarning)  # It warns of what is measured here.
        tiles = {way: ours(image, tile=TILE, global_statistics=way) for way in ("exact", "tile")}
    reference = keygraph.load(CHANNEL_ATTENTION)(image, tile="none")
    differences = [np.clip(0.5 + AMPLIFIED * (tiled - whole), 0, 1) for tiled in tiles.values()]
    shown = [(255 * picture).round().astype(np.uint8) for picture in differences]
    write(folder / "side-by-side-restormer.png", Picture(side_by_side(noisy, restored, clean)))
    write(folder / "tiles-restormer.png", Picture(np.concatenate(shown, 1)))
    return {
        "psnr_output": psnr(restored, clean, BYTES),
        "parity_psnr": psnr(whole, reference, UNIT),
        "seconds_per_megapixel": seconds / (clean.shape[0] * clean.shape[1] / 1e6),
        "tile": TILE,
        "tiles_psnr": {way: psnr(tiled, whole, UNIT) for way, tiled in tiles.items()},
    }


def timed(restore: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Restore `RUNS` times after one warm-up run; return the result and the median time in seconds."""
    restored = restore()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        restore()
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
    before = summary["psnr_input"]
    restormer = summary["restormer"]
    tiles = restormer["tiles_psnr"]
    lines = [
        f"photo     '{summary['photo']}' {width} x {height}, unseen in training, noise of sigma {summary['sigma']:.0f}",
        "KGT",
        f"  quality {before:.2f} -> {summary['psnr_output']:.2f} dB (+{summary['psnr_output'] - before:.2f}, "
        f"k = {summary['k']})",
        f"  parity  {summary['parity_psnr']:.0f} dB between ONNX Runtime and PyTorch "
        f"({summary['parity_psnr_functions']:.0f} dB without keygraph's library)",
        f"  speed   {summary['seconds_per_megapixel']:.1f} s per megapixel on this machine's CPU",
        "  one file, any k:",
        *(f"    k = {k:<4} {v['psnr']:.2f} dB  {v['seconds']:.2f} s" for k, v in summary["by_k"].items()),
        f"  see     {folder}/side-by-side.png  (noisy, restored, clean; below, the centre enlarged)",
        "Restormer with GLMHA",
        f"  quality {before:.2f} -> {restormer['psnr_output']:.2f} dB (+{restormer['psnr_output'] - before:.2f})",
        f"  parity  {restormer['parity_psnr']:.0f} dB between ONNX Runtime and PyTorch",
        f"  speed   {restormer['seconds_per_megapixel']:.1f} s per megapixel",
        f"  tiles   of {restormer['tile']}: {tiles['exact']:.0f} dB from the whole image with its statistics, "
        f"{tiles['tile']:.0f} dB with their own",
        f"  see     {folder}/side-by-side-restormer.png, and {folder}/tiles-restormer.png  (tiles minus whole image, "
        f"{AMPLIFIED} times: with the image's statistics, with their own)",
    ]
    return "\n".join(lines) + "\n"


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
