"""What int8 would cost and gain on a CPU: the trained networks of `examples/`, quantised by ONNX Runtime.

Static quantisation (QDQ) with weights for each channel in int8 and activations in uint8, calibrated on tiles of the
training photographs with the noise of training; of all products, of some kinds, or of all but the blocks that lose the
most, which are found one by one. Quality is that on the photograph that was not used in training, time that of one
tile in ONNX Runtime, interleaved with float32 in one process.

    python benchmarks/int8.py --rounds 7
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from keygraph.bench.timing import cpu_times
from keygraph.export import export
from keygraph.instrumentation.exposed_session import ExposedSession
from keygraph.instrumentation.metrics import psnr
from keygraph.models import load_checkpoint
from numpy.typing import NDArray
from onnxruntime import quantization
from timing import THREADS, add_options, features

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from photos import add_noise, training_photos, unseen_photo

#: Where the networks were trained, and on which photographs.
EXAMPLES = Path(__file__).parent.parent / "examples"

NETWORKS = ("kgt-denoise-tiny", "restormer-denoise-tiny", "restormer-denoise-tiny-glmha")
SIGMA, TILE = 25.0, 128
UNIT, BYTES = (0.0, 1.0), (0.0, 255.0)

#: Name -> kinds of nodes that are quantised.
KINDS = {"all products": ("MatMul", "Gemm", "Conv"), "linear layers": ("MatMul", "Gemm"), "convolutions": ("Conv",)}

#: Shares of the blocks, those that lose the most, that stay in float32 in the curve.
KEPT = (0.1, 0.25, 0.5, 0.75)

Image = NDArray[np.float32]


class Tiles(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Noisy tiles of the training photographs, as the file takes them."""

    def __init__(self, k: int | None) -> None:
        tiles = [photo[:TILE, :TILE] for photo in training_photos().values()]
        images = [add_noise(tile, SIGMA, seed) for seed, tile in enumerate(tiles)]
        self._feeds = [_feeds(image, k) for image in images]
        self.rewind()

    def rewind(self) -> None:
        """Begin again."""
        self._left: Iterator[dict[str, NDArray[Any]]] = iter(self._feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next inputs."""
        return next(self._left, None)


def _feeds(image: NDArray[np.uint8], k: int | None) -> dict[str, NDArray[Any]]:
    values = (image.astype(np.float32) / 255).transpose(2, 0, 1)[None]
    return {"image": np.ascontiguousarray(values), **({} if k is None else {"k": np.array([k])})}


def quantise(source: Path, target: Path, k: int | None, kinds: Sequence[str], kept: Sequence[str] = ()) -> None:
    """Write a file with int8 in it.

    Parameters
    ----------
    source, target
        The exported file, and what is written.
    k
        Neighbours of each node; None for networks without key graphs.
    kinds
        Kinds of nodes that are quantised.
    kept
        Names of nodes that are not.
    """
    # Calibration runs the file without keygraph's library: its functions are part of it.
    quantization.quantize_static(
        str(source),
        str(target),
        Tiles(k),
        op_types_to_quantize=list(kinds),
        nodes_to_exclude=list(kept),
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QUInt8,
    )


def blocks(file: Path) -> dict[str, list[str]]:
    """Return the nodes with a weight, by block: the layer or convolution that contains them."""
    graph = onnx.load(file).graph
    stored = {weight.name for weight in graph.initializer}
    found: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type in KINDS["all products"] and stored & {*node.input}:
            block = re.match(r"(.*?\.\d+(?:\.layers\.\d+)?)\.|(.*)/", node.name)
            found.setdefault(block[1] or block[2] if block else node.name, []).append(node.name)
    return found


def restore(file: Path, k: int | None) -> Image:
    """Return the held-out photograph's tile, restored with keygraph's library."""
    clean = unseen_photo()[:TILE, :TILE]
    feeds = _feeds(add_noise(clean, SIGMA, 0), k)
    restored, _ = ExposedSession(file).run(feeds["image"], k, ())
    return restored


def quality(restored: Image, full: Image) -> tuple[float, float]:
    """Return PSNR against float32, and the gain over the noisy tile against the clean one."""
    clean = unseen_photo()[:TILE, :TILE].astype(np.float32)
    noisy = add_noise(unseen_photo()[:TILE, :TILE], SIGMA, 0)
    found = np.clip(restored[0].transpose(1, 2, 0), 0, 1) * 255
    return psnr(restored, full, UNIT), psnr(found, clean, BYTES) - psnr(noisy, clean, BYTES)


def measure(name: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Return the curve of one network.

    Parameters
    ----------
    name
        Of the checkpoint.
    folder
        Where files are written.
    rounds
        Of the times.
    """
    full_file = folder / "full.onnx"
    manifest = export(load_checkpoint(EXAMPLES / f"{name}.ckpt"), full_file, verification=False)
    k = manifest.neighbours.default if manifest.neighbours is not None else None
    full = restore(full_file, k)
    parts = blocks(full_file)
    rows: dict[str, Any] = {"float32": {"quality": quality(full, full)}}
    files: dict[str, Path] = {"float32": full_file}

    def add(label: str, kinds: Sequence[str], kept: Sequence[str] = ()) -> None:
        files[label] = folder / f"{len(files)}.onnx"
        quantise(full_file, files[label], k, kinds, kept)
        rows[label] = {"quality": quality(restore(files[label], k), full), "kept": len(kept)}
        print(f"  {label:34s} {rows[label]['quality'][0]:6.1f} dB, gain {rows[label]['quality'][1]:.2f} dB", flush=True)

    for label, kinds in KINDS.items():
        add(label, kinds)
    harm = {}
    for block, nodes in parts.items():
        alone = folder / "alone.onnx"
        others = [node for other in parts.values() if other is not nodes for node in other]
        quantise(full_file, alone, k, KINDS["all products"], others)
        harm[block] = quality(restore(alone, k), full)[0]
    worst = sorted(parts, key=harm.__getitem__)
    for share in KEPT:
        kept = [node for block in worst[: round(share * len(parts))] for node in parts[block]]
        add(f"all but the worst {share:.0%} of blocks", KINDS["all products"], kept)
    calls: dict[str, Callable[[], Any]] = {}
    feeds = _feeds(add_noise(unseen_photo()[:TILE, :TILE], SIGMA, 0), k)
    for label, file in files.items():
        session = ExposedSession(file)
        calls[label] = partial(session.run, feeds["image"], k, ())
    for label, milliseconds in cpu_times(calls, rounds).items():
        rows[label] |= {"milliseconds": milliseconds, "bytes": files[label].stat().st_size}
    return {"network": name, "blocks": {block: harm[block] for block in worst}, "rows": rows}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, 7, "int8.json")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # Each file would be recommended to be preprocessed.
    report: dict[str, Any] = {"machine": features(THREADS), "networks": []}
    for number, name in enumerate(NETWORKS):
        if given.only and number not in given.only:
            continue
        print(name, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, Path(folder), given.rounds)
        report["networks"].append(found)
        base = found["rows"]["float32"]["milliseconds"]
        for label, row in found["rows"].items():
            print(
                f"  {label:34s} {row['quality'][0]:6.1f} dB  gain {row['quality'][1]:6.2f} dB  "
                f"{row['milliseconds']:7.1f} ms ({base / row['milliseconds']:.2f} x)  {row['bytes'] / 1e6:.2f} MB"
            )
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
