"""How close exported Restormer, MST and MST++ come to PyTorch, at their real sizes, on photographs.

Every network is saved as a checkpoint like the released ones and loaded from it. It is exported in FP32 and fp16, for
any size unless `--fixed`, and run at 256 x 256 and 480 x 720. fp16 runs as ONNX Runtime's CPU provider computes it, and
in float32 with every stored tensor rounded, as a GPU computes it (`keygraph.runtime.backends.emulated_half`).

The weights are random, in one of two ways:

* ``default``: as PyTorch initialises them. Branches are weak, so the network adds little.
* ``strong``: every convolution has unit gain, attention is far from uniform (temperature 4), and no two weights of a
  norm are equal. The last convolution is scaled until it adds `ADDED` of the value range (rms), as much as networks
  trained for heavy degradations do. Untrained features are larger than trained ones, so this is the harder case.

A Restormer takes some minutes and about 8 GB: name the cases to run.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from keygraph.export.canonicalize import canonicalize
from keygraph.export.mixed_precision import to_mixed_precision
from keygraph.export.onnx_file import save
from keygraph.export.plan import plan
from keygraph.export.trace import trace
from keygraph.instrumentation.key_graphs import GraphProbe
from keygraph.instrumentation.metrics import psnr
from keygraph.manifest import Manifest
from keygraph.models import LoadedModel, load_checkpoint, registry
from keygraph.models.channel_attention import preset_reduction
from keygraph.models.mst import PRESETS as MST
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import PRESETS as RESTORMER
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.preprocess.request import TileReader, make_request
from timing import features
from torch import Tensor, nn

SIZES = ((256, 256), (480, 720))

#: Rms of what a ``strong`` network adds to its input, of the value range.
ADDED = 0.1

#: Last convolutions.
LAST = {"restormer": "output", "mst": "mapping", "mst_plus_plus": "conv_out"}


def enhanced(config: Any, preset: str) -> Any:
    """Return the configuration with GLMHA instead of CSA."""
    return replace(config, attention="glmha", reduction=preset_reduction(preset, config.reduced_heads))


BASE: dict[str, Any] = {
    **RESTORMER,
    **MST,
    "mst-plus-plus": MSTPlusPlusConfig(),
}
CASES = BASE | {
    f"{name}, glmha {preset}": enhanced(BASE[name], preset)
    for name in ("restormer", "restormer-denoising", "mst-l", "mst-plus-plus")
    for preset in ("uniform", "table")
}


@dataclass(frozen=True)
class Row:
    """One network at one size; PSNR in dB against PyTorch, over the value range."""

    case: str
    weights: str
    height: int
    width: int
    fp32: float
    fp16: float
    fp16_rounded: float
    added: float
    peak_gb: float


def network(config: Any, weights: str) -> nn.Module:
    """Return a network with random weights, ``"default"`` or ``"strong"``."""
    torch.manual_seed(0)
    architecture = registry.of_config(config)
    module = architecture.build(config).eval()
    if weights == "strong":
        with torch.no_grad():
            for name, tensor in module.named_parameters():
                strengthen(name, tensor)
    return module


def strengthen(name: str, tensor: Tensor) -> None:
    """Give a parameter unit gain, in place."""
    if tensor.ndim == 1:
        tensor.copy_(0.1 * torch.randn_like(tensor) if name.endswith("bias") else 1 + 0.1 * torch.randn_like(tensor))
    elif tensor.shape[1:] == (1, 1):
        tensor.fill_(4.0)
    else:
        tensor.copy_(torch.randn_like(tensor) * np.prod(tensor.shape[1:]) ** -0.5)


def degraded(manifest: Manifest, height: int, width: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return a photograph degraded as the task has it, and the extra inputs.

    Parameters
    ----------
    manifest
        Of the model.
    height, width
        Size of the image.
    """
    left, right, _ = skimage.data.stereo_motorcycle()
    views = [view[:height, :width] for view in (left, right)]
    random = np.random.default_rng(0)
    if manifest.margin != (0, 0):
        return measurement(views[0] / 255, manifest, random)
    if manifest.views:
        return views[0].astype(np.uint16) * 257, {"right": views[1].astype(np.uint16) * 257}
    image = views[0] if manifest.in_channels == 3 else views[0].mean(axis=2, keepdims=True)
    return np.clip(image + random.normal(0, 15, image.shape), 0, 255).astype(np.uint8), {}


def measurement(
    photo: np.ndarray, manifest: Manifest, random: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the measurement of a camera with a coded aperture and a prism.

    Parameters
    ----------
    photo
        float[H, W, 3], 0 to 1; the scene's bands are mixtures of its colours.
    manifest
        Of the model.
    random
        For the coded aperture.
    """
    height, width, _ = photo.shape
    mask = (random.random((height, width)) < 0.5).astype(np.float32)
    bands, across = manifest.out_channels, manifest.margin[1]
    image = np.zeros((height, width + across), np.float32)
    for band in range(bands):
        distance = np.abs(np.arange(3) - 2 * (1 - band / (bands - 1)))  # from blue to red
        start = across * band // (bands - 1)
        image[:, start : start + width] += mask * (photo @ np.maximum(0, 1 - distance))
    return image, {"mask": mask} if manifest.extra_inputs else {}


def tensors(manifest: Manifest, height: int, width: int) -> tuple[np.ndarray, ...]:
    """Return the same as tensors for the network.

    Parameters
    ----------
    manifest
        Of the model.
    height, width
        Size of the image.
    """
    given = make_request(manifest, *degraded(manifest, height, width))
    return tuple(np.ascontiguousarray(x) for x in TileReader(given, height, width)(0, 0, height, width))


def restored(module: nn.Module, inputs: Iterable[np.ndarray]) -> np.ndarray:
    """Return PyTorch's result."""
    with torch.inference_mode():
        result: np.ndarray = module(*map(torch.from_numpy, inputs)).numpy()
    return result


def added(module: nn.Module, last: str, inputs: Iterable[np.ndarray]) -> float:
    """Return the rms of the last convolution's output.

    Parameters
    ----------
    module
        The network.
    last
        Name of the convolution.
    inputs
        Of the network.
    """
    seen: list[float] = []
    hook = module.get_submodule(last).register_forward_hook(
        lambda _module, _inputs, result: seen.append(float(result.square().mean().sqrt()))
    )
    restored(module, inputs)
    hook.remove()
    return seen[-1]


def write(model: LoadedModel, shape: tuple[int, int, int] | None, folder: Path) -> dict[str, Path]:
    """Export in both precisions, traced once, without the measurements at the end of `export`.

    Parameters
    ----------
    model
        The checkpoint.
    shape
        Batch, height and width, or None for any.
    folder
        Where the files are written.
    """
    began = time.perf_counter()
    manifest = plan(model.manifest(), k=None, shape=shape, precision="fp32")
    traced = trace(model.module, manifest)
    canonicalize(traced)
    files = {precision: folder / f"{precision}.onnx" for precision in ("fp32", "fp16")}
    save(traced, manifest, files["fp32"])
    manifest = plan(model.manifest(), k=None, shape=shape, precision="fp16")
    manifest = to_mixed_precision(traced, manifest, model.architecture.keep_fp32, [], lambda _line: None)
    save(traced, manifest, files["fp16"])
    print(f"exported in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return files


def measure(case: str, weights: str, sizes: Iterable[tuple[int, int]], fixed: bool, folder: Path) -> list[Row]:
    """Export a network and compare it with PyTorch; return a row for each size.

    Parameters
    ----------
    case
        A key of `CASES`.
    weights
        ``"default"`` or ``"strong"``.
    sizes
        Heights and widths.
    fixed
        Export a file for each size.
    folder
        Where the files are written.
    """
    module = network(CASES[case], weights)
    checkpoint = folder / "model.pth"
    torch.save({"params": module.state_dict()}, checkpoint)
    model = load_checkpoint(checkpoint)
    manifest = model.manifest()
    last = LAST[manifest.architecture]
    if weights == "strong":
        with torch.no_grad():
            scale = ADDED / added(model.module, last, tensors(manifest, 128, 128))
            model.module.get_parameter(f"{last}.weight").mul_(scale)
    files = None if fixed else write(model, None, folder)
    rows = []
    for height, width in sizes:
        if files is None or fixed:
            files = write(model, (1, height, width), folder)
        inputs = tensors(manifest, height, width)
        reference = restored(model.module, inputs)
        image, *extras = inputs
        found = {}
        for precision, rounded in (("fp32", False), ("fp16", False), ("fp16", True)):
            if rounded:
                result, _ = GraphProbe(files[precision], None, rounded=True).record(image, None, *extras)
            else:
                result = OnnxRuntimeSession(files[precision], library=None).run(image, None, *extras)
            found[precision, rounded] = round(psnr(result, reference, manifest.value_range), 1)
            gc.collect()
        rows.append(
            Row(
                case,
                weights,
                height,
                width,
                found["fp32", False],
                found["fp16", False],
                found["fp16", True],
                round(added(model.module, last, inputs), 4),
                round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1),
            )
        )
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of: {'; '.join(CASES)}; all by default")
    parser.add_argument("--weights", choices=("default", "strong"), nargs="+", default=["strong"])
    parser.add_argument("--small", action="store_true", help="256 x 256 alone")
    parser.add_argument("--fixed", action="store_true", help="a file for each size: traced in a tenth of the time")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "parity.json")
    options = parser.parse_args()
    for case in options.cases:
        if case not in CASES:
            parser.error(f"there is no case {case!r}; choose of: {'; '.join(CASES)}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = json.loads(options.output.read_text()) if options.output.exists() else {"rows": []}
    for case in options.cases or CASES:
        for weights in options.weights:
            with tempfile.TemporaryDirectory() as folder:
                rows = measure(case, weights, SIZES[: 1 if options.small else None], options.fixed, Path(folder))
            new = {(row.case, row.weights, row.height) for row in rows}
            kept = [row for row in record["rows"] if (row["case"], row["weights"], row["height"]) not in new]
            record = {"features": features(torch.get_num_threads()), "rows": kept + [vars(row) for row in rows]}
            options.output.write_text(json.dumps(record, indent=1))
            gc.collect()


if __name__ == "__main__":
    main()
