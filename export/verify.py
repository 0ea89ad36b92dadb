"""Proof that an exported file computes what PyTorch computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import KeygraphError
from ..instrumentation.key_graphs import GraphProbe
from ..instrumentation.metrics import EQUAL_DB, TOLERANCES, Tolerance, psnr
from ..instrumentation.synthetic import test_inputs
from ..manifest import Manifest
from ..plugins.torch import forced_graphs
from ..runtime.backends.base import Inputs, result_shape
from ..runtime.preprocess.padding import round_up
from .activation_ranges import first_not_finite
from .calibration_data import CalibrationImage

#: Height and width of the largest generated picture for a network that sums over whole images. Costs grow with the
#: pixels: a Restormer of 26 million parameters takes 29 GMAC here, a second or two, which is no more than the rest.
SUMMED = (96, 128)


@dataclass(frozen=True)
class Check:
    """One run compared with PyTorch.

    Attributes
    ----------
    shape, k
        (B, H, W) of the input, without a margin.
    psnr
        dB with both on the same key graphs, over the value range; rounded down to 0.1, at most 200.
    links_different
        Share of the graphs' links that differ, all within the similarity tolerance: near ties.
    picture
        The calibration image that it was run on; None for the generated one.
    psnr_as_run
        On calibration images: dB with the graphs that each side chose itself; rounded down likewise.
    """

    shape: tuple[int, int, int]
    k: int | None
    psnr: float
    links_different: float
    picture: str | None = None
    psnr_as_run: float | None = None


def verification_cases(manifest: Manifest) -> list[tuple[tuple[int, int, int], int | None]]:
    """(B, H, W) and k: smallest, non-square, batch 2, large; and, for run-time k, a small one, the default, and all.

    Large is three times the smallest; for sums over the whole image at least `SUMMED`, so that they are sums of many.
    """
    m = manifest.size_multiple
    neighbours = manifest.neighbours
    default = neighbours.default if neighbours else None
    if manifest.shape is not None:
        shapes = [manifest.shape]
    else:
        height, width = SUMMED if manifest.global_statistics else (0, 0)
        large = (1, max(3 * m, round_up(height, m)), max(2 * m, round_up(width, m)))
        shapes = [(1, m, m), (1, m, 2 * m), (2, m, m), large]
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
    *,
    pictures: Sequence[CalibrationImage] = (),
    rounded: bool = False,
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
    pictures
        Images to run it on besides the generated ones, with the default k.
    rounded
        Run a half-precision file as `runtime.rounding` says, and not as ONNX Runtime's CPU provider does.

    Raises
    ------
    KeygraphError
        A value is not finite, an image is off by more than `required` says, or a graph by more than near ties.
    """
    probe = GraphProbe(path, library, rounded)
    runtime_k = manifest.neighbours is not None and manifest.neighbours.runtime
    tolerance = required(manifest)
    cases: list[tuple[Inputs, tuple[int, int, int], int | None, str | None]] = [
        (test_inputs(manifest, shape), shape, k, None) for shape, k in verification_cases(manifest)
    ]
    default = manifest.neighbours.default if manifest.neighbours else None
    cases += [(picture.inputs, _size(picture.inputs, manifest), default, picture.name) for picture in pictures]
    checks = []
    for inputs, shape, k, picture in cases:
        image, *extras = inputs
        where = f"at {'x'.join(map(str, shape))}" + (f", k = {k}" if k else "") + (f", on {picture}" if picture else "")
        if progress is not None:
            progress(where)
        restored, selections = probe.record(image, k if runtime_k else None, *extras)
        if not np.isfinite(restored).all():
            raise _not_finite(path, inputs, k if runtime_k else None, library, where)
        arguments = [*map(torch.from_numpy, inputs), *([k] if k is not None else [])]
        forced = [torch.from_numpy(selection.graph) for selection in selections]
        with torch.inference_mode(), forced_graphs(forced, tolerance.similarity) as agreements:
            reference = model(*arguments).numpy()
        wrong = [f"body stage {i}: {a.beyond_tolerance} links" for i, a in enumerate(agreements) if a.beyond_tolerance]
        if wrong:
            raise KeygraphError(f"the exported file chooses other neighbours than PyTorch {where} ({'; '.join(wrong)})")
        result = psnr(restored, reference, manifest.value_range)
        if not result >= tolerance.psnr:
            raise KeygraphError(
                f"the exported file differs from PyTorch {where}: {result:.1f} dB, needs {tolerance.psnr:.0f} dB"
            )
        links = sum(a.selected for a in agreements)
        different = sum(a.different for a in agreements) / links if links else 0.0
        as_run = None
        if picture is not None:
            with torch.inference_mode():
                own = model(*arguments).numpy()
            as_run = _tenths(psnr(restored, own, manifest.value_range))
        checks.append(Check(shape, k, _tenths(result), float(f"{different:.1e}"), picture, as_run))
    return checks


def _size(inputs: Inputs, manifest: Manifest) -> tuple[int, int, int]:
    """(B, H, W) of the size rule, without margins."""
    batch, _, height, width = result_shape(manifest, inputs[0].shape)
    return batch, height // manifest.scale, width // manifest.scale


def required(manifest: Manifest) -> Tolerance:
    """What a file of this precision must reach; a lower target that the user set counts."""
    tolerance = TOLERANCES[manifest.precision]
    target = manifest.half.target_psnr if manifest.half is not None else None
    return tolerance if target is None else replace(tolerance, psnr=min(tolerance.psnr, target))


def _tenths(decibels: float) -> float:
    return math.floor(min(decibels, EQUAL_DB) * 10) / 10


def _not_finite(path: Path, inputs: Inputs, k: int | None, library: Path | None, where: str) -> KeygraphError:
    """The error that names the first node at fault."""
    node = first_not_finite(path, inputs, k, library)
    if node is None:
        return KeygraphError(f"the exported file gives values that are not finite {where}")
    return KeygraphError(
        f"the exported file gives values that are not finite {where}; the first are those of {node}; keep it in FP32 "
        f"with --keep-fp32 '{node}', let --precision auto find what to keep, or export with --precision bf16"
    )


def as_record(checks: list[Check], operators: str, manifest: Manifest, rounded: bool = False) -> dict[str, Any]:
    """What the manifest keeps of a verification."""
    tolerance = required(manifest)
    return {
        "against": "PyTorch",
        "engine": "onnxruntime",
        "operators": operators,
        "arithmetic": f"float32, every stored tensor rounded to {manifest.precision}"
        if rounded
        else "the engine's own",
        "tolerance_db": tolerance.psnr,
        "similarity_tolerance": tolerance.similarity,
        "checks": [{**asdict(check), "shape": list(check.shape)} for check in checks],
    }
