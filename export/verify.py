"""Proof that an exported file computes what PyTorch computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from ..errors import KeygraphError
from ..manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, Manifest
from ..plugins.torch import forced_graphs

#: Least PSNR against PyTorch, in dB, with ONNX Runtime's key graphs forced on PyTorch: rounding alone is far above it.
TOLERANCE_DB = 90.0

#: Similarities of ONNX Runtime and PyTorch may differ by this share of the row's largest before a link is called wrong.
SIMILARITY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """One run compared with PyTorch.

    Attributes
    ----------
    shape, k
        Of the input.
    psnr
        dB with both on the same key graphs, over the value range; rounded down to 0.1, at most 200.
    links_different
        Share of the graphs' links that differ, all within the similarity tolerance: near ties.
    """

    shape: tuple[int, int, int]
    k: int | None
    psnr: float
    links_different: float


def verification_cases(manifest: Manifest) -> list[tuple[tuple[int, int, int], int | None]]:
    """(B, H, W) and k to run: smallest, non-square, batch 2, large; and, for run-time k, a small, the default, and all."""
    m = manifest.size_multiple
    neighbours = manifest.neighbours
    default = neighbours.default if neighbours else None
    if manifest.shape is not None:
        shapes = [manifest.shape]
    else:
        shapes = [(1, m, m), (1, m, 2 * m), (2, m, m), (1, 3 * m, 2 * m)]
    cases = [(shape, default) for shape in shapes]
    if neighbours is not None and neighbours.runtime:
        cases += [(shapes[0], k) for k in sorted({max(1, neighbours.maximum // 8), neighbours.maximum} - {default})]
    return cases


def verify(
    path: Path,
    model: nn.Module,
    manifest: Manifest,
    library: Path | None,
    progress: Callable[[str], None] | None = None,
) -> list[Check]:
    """Run the file in ONNX Runtime and compare with PyTorch.

    The key graphs that ONNX Runtime chose are compared, stage by stage, with PyTorch's choice on the same features, and
    forced on PyTorch for the comparison of the images; so neither near ties nor errors can hide behind each other.

    Parameters
    ----------
    path
        The exported file.
    model, manifest
        What it was exported from and as.
    library
        ONNX Runtime library of our operators, or None to run the file's functions.
    progress
        Called with one line for every case.

    Raises
    ------
    KeygraphError
        A value is not finite, an image is off by more than `TOLERANCE_DB`, or a graph by more than near ties.
    """
    session, graph_outputs = _session_with_graphs(path, library)
    checks = []
    for shape, k in verification_cases(manifest):
        where = f"at {'x'.join(map(str, shape))}" + (f", k = {k}" if k else "")
        if progress is not None:
            progress(where)
        image = test_image((shape[0], manifest.in_channels, *shape[1:]), manifest.value_range)
        feed: dict[str, np.ndarray] = {IMAGE_INPUT: image}
        if manifest.neighbours is not None and manifest.neighbours.runtime:
            feed[K_INPUT] = np.array([k], np.int64)
        restored, *graphs = session.run([IMAGE_OUTPUT, *graph_outputs], feed)
        forced = [torch.from_numpy(graph) for graph in graphs]
        with torch.inference_mode(), forced_graphs(forced, SIMILARITY_TOLERANCE) as agreements:
            reference = model(torch.from_numpy(image), *([k] if k is not None else [])).numpy()
        wrong = [f"body stage {i}: {a.beyond_tolerance} links" for i, a in enumerate(agreements) if a.beyond_tolerance]
        if wrong:
            raise KeygraphError(f"the exported file chooses other neighbours than PyTorch {where} ({'; '.join(wrong)})")
        result = psnr(restored, reference, manifest.value_range)
        if not result >= TOLERANCE_DB:
            raise KeygraphError(
                f"the exported file differs from PyTorch {where}: {result:.1f} dB, needs {TOLERANCE_DB:.0f} dB"
            )
        links = sum(a.selected for a in agreements)
        different = sum(a.different for a in agreements) / links if links else 0.0
        checks.append(Check(shape, k, math.floor(min(result, 200.0) * 10) / 10, float(f"{different:.1e}")))
    return checks


def as_record(checks: list[Check], operators: str) -> dict[str, Any]:
    """What the manifest keeps of a verification."""
    return {
        "against": "PyTorch",
        "engine": "onnxruntime",
        "operators": operators,
        "tolerance_db": TOLERANCE_DB,
        "similarity_tolerance": SIMILARITY_TOLERANCE,
        "checks": [{**asdict(check), "shape": list(check.shape)} for check in checks],
    }


def psnr(a: np.ndarray, b: np.ndarray, value_range: tuple[float, float]) -> float:
    """Peak signal-to-noise ratio in dB, with `value_range` as the peak; NaN where a value is not finite."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    if error == 0:
        return math.inf
    return 10 * math.log10((value_range[1] - value_range[0]) ** 2 / error) if math.isfinite(error) else math.nan


def test_image(shape: tuple[int, ...], value_range: tuple[float, float]) -> np.ndarray:
    """A deterministic picture: smooth waves of several lengths with edges and some noise, float32 of this NCHW shape."""
    batch, channels, height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    random = np.random.default_rng(0)
    planes = []
    for i in range(batch * channels):
        waves = sum(
            np.sin((x * math.cos(a) + y * math.sin(a)) / length + i)
            for a, length in ((0.3 + i, 17.0), (1.9 * i, 5.0), (2.5, 53.0))
        )
        edges = np.sign(np.sin(x / 29 + i) * np.sin(y / 37))
        planes.append(0.5 + 0.1 * waves + 0.1 * edges + random.normal(0, 0.05, (height, width)))
    low, high = value_range
    image = np.clip(np.stack(planes), 0, 1).reshape(shape) * (high - low) + low
    return image.astype(np.float32)


test_image.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever its name suggests to pytest


def _session_with_graphs(path: Path, library: Path | None) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """A session that also returns every KeyGraph's output, in the order of execution."""
    proto = onnx.load(path, load_external_data=False)
    names = [node.output[0] for node in proto.graph.node if node.op_type == "KeyGraph"]
    proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, None) for name in names)
    probe = path.with_name("." + path.name + ".probe")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    try:
        onnx.save(proto, probe)
        return onnxruntime.InferenceSession(probe, options, providers=["CPUExecutionProvider"]), names
    finally:
        probe.unlink(missing_ok=True)
