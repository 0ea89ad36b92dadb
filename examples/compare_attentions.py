"""One trained network with its channel attention replaced: quality, size and time beside each other.

    python examples/compare_attentions.py restormer-denoise-tiny.ckpt restormer-denoise-tiny-glmha.ckpt -o compared.json

Quality is the gain in PSNR on the photograph that was not used in training; half precision is compared with FP32 as the
exported files run. Times are medians of interleaved runs of the whole photograph, in ONNX Runtime and OpenVINO.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
from keygraph.export import export
from keygraph.instrumentation.metrics import psnr
from keygraph.models import load_checkpoint
from keygraph.models.macs import count_macs, count_parameters
from photos import add_noise, unseen_photo

SIGMAS = (15, 25, 50)
HALVES = ("fp16", "bf16")
PROVIDERS = ("cpu", "openvino")
RUNS = 5
BYTES = (0.0, 255.0)
UNIT = (0.0, 1.0)

Row = dict[str, Any]


def measure(checkpoint: Path, folder: Path) -> Row:
    """Return what one network restores and costs, apart from times; its FP32 file is written to `folder`.

    Parameters
    ----------
    checkpoint
        A denoiser.
    folder
        Where exported files go, named after the checkpoint.
    """
    model = load_checkpoint(checkpoint)
    row: Row = {
        "network": checkpoint.stem,
        "attention": model.config.attention,
        "parameters": count_parameters(model.architecture, model.config),
        "macs": count_macs(model.architecture, model.config).total,
    }
    clean = unseen_photo()
    noisy = {sigma: add_noise(clean, sigma, seed=0) for sigma in SIGMAS}
    image = noisy[25].astype(np.float32) / 255
    with keygraph.load(_exported(model, folder, "fp32")[0]) as restorer:
        for sigma, photo in noisy.items():
            row[f"gain at sigma {sigma}"] = psnr(restorer(photo), clean, BYTES) - psnr(photo, clean, BYTES)
        full = restorer(image)
    for half in HALVES:
        file, headroom = _exported(model, folder, half)
        with keygraph.load(file) as restorer:
            row[f"{half} against FP32"] = psnr(restorer(image), full, UNIT)
        row[f"{half} headroom"] = headroom
    return row


def _exported(model: Any, folder: Path, precision: str) -> tuple[Path, float | None]:
    """Export and verify a network; return the file, and a half-precision file's headroom."""
    file = folder / f"{model.source.stem}-{precision}.onnx"
    manifest = export(model, file, precision=precision)
    return file, manifest.half.headroom if manifest.half is not None else None


def times(files: list[Path], runs: int) -> list[dict[str, float]]:
    """Return the median seconds of every file by provider, from interleaved runs after one that is not counted."""
    image = add_noise(unseen_photo(), 25.0, seed=0)
    ways = [(index, provider) for index in range(len(files)) for provider in PROVIDERS]
    restorers = {way: keygraph.load(files[way[0]], provider=way[1]) for way in ways}
    seconds: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
    for run in range(runs + 1):
        for way, restorer in restorers.items():
            start = time.perf_counter()
            restorer(image, tile="none")
            if run:
                seconds[way].append(time.perf_counter() - start)
    for restorer in restorers.values():
        restorer.close()
    return [{p: statistics.median(seconds[index, p]) for p in PROVIDERS} for index in range(len(files))]


def table(rows: list[Row]) -> str:
    """Return the figures as a table in Markdown."""
    header = ["network", "parameters", "GMACs", *(f"sigma {s}" for s in SIGMAS), *HALVES, "ONNX Runtime", "OpenVINO"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        gains = [f"+{row[f'gain at sigma {sigma}']:.2f} dB" for sigma in SIGMAS]
        halves = [f"{row[f'{half} against FP32']:.0f} dB, {row[f'{half} headroom']:.0f} x" for half in HALVES]
        seconds = [f"{1000 * row['seconds'][provider]:.0f} ms" for provider in PROVIDERS]
        lines.append([row["network"], f"{row['parameters']:,}", f"{row['macs'] / 1e9:.2f}", *gains, *halves, *seconds])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure all networks, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [measure(checkpoint, folder) for checkpoint in options.checkpoints]
        files = [folder / f"{checkpoint.stem}-fp32.onnx" for checkpoint in options.checkpoints]
        for row, seconds in zip(rows, times(files, options.runs), strict=True):
            row["seconds"] = seconds
    options.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
