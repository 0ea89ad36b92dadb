"""Proof that an exported file computes what PyTorch computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import KeygraphError
from ..manifest import Manifest
from ..plugins.torch import forced_graphs
from ..runtime.graph_probe import GraphProbe
from ..runtime.metrics import SIMILARITY_TOLERANCE, TOLERANCE_DB, psnr
from ..runtime.sample import test_image


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
    """(B, H, W) and k: smallest, non-square, batch 2, large; and, for run-time k, a small one, the default, and all."""
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
    probe = GraphProbe(path, library)
    runtime_k = manifest.neighbours is not None and manifest.neighbours.runtime
    checks = []
    for shape, k in verification_cases(manifest):
        where = f"at {'x'.join(map(str, shape))}" + (f", k = {k}" if k else "")
        if progress is not None:
            progress(where)
        image = test_image((shape[0], manifest.in_channels, *shape[1:]), manifest.value_range)
        restored, selections = probe.record(image, k if runtime_k else None)
        forced = [torch.from_numpy(selection.graph) for selection in selections]
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
