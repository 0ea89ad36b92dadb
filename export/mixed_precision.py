"""Convert a traced network to mixed precision: which nodes stay in FP32, and the head-room of the others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ..errors import KeygraphError
from ..instrumentation.metrics import LARGEST
from ..manifest import Manifest
from .calibration_data import CalibrationImage
from .fp32_patterns import check_patterns, matching
from .precision import HALF_TYPES, float_nodes, to_half
from .precision_search.measurement import Measurement
from .precision_search.search import search

#: Number of nodes with the largest values that the manifest records.
RECORDED_RANGES = 8


def to_mixed_precision(
    traced: ir.Model,
    manifest: Manifest,
    policy: Sequence[str],
    images: Sequence[CalibrationImage],
    progress: Callable[[str], None],
) -> Manifest:
    """Convert a traced network in place to the precision that its manifest names.

    Parameters
    ----------
    traced
        The network after `canonicalize`, in FP32.
    manifest
        Its `half` holds the user's request: FP32 patterns, and the target PSNR of a precision search.
    policy
        The architecture's FP32 patterns.
    images
        Images to measure the tensors' ranges on and, for a precision search, the PSNR; when empty, nothing is
        measured.
    progress
        Called with a line before each step.

    Returns
    -------
    Manifest
        With `half` completed.

    Raises
    ------
    InputError
        One of the user's patterns matches no node.
    KeygraphError
        A value is out of range of the half type, or the precision search finds no solution.
    """
    requested = manifest.half
    assert requested is not None
    names = float_nodes(traced)
    check_patterns(names, requested.keep_fp32)
    patterns = (*policy, *requested.keep_fp32)
    found: tuple[str, ...] = ()
    ranges: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="keygraph-") as folder:
        if images:
            progress("measuring ranges")
            measurement = Measurement(traced, manifest, images, Path(folder))
            ranges = measurement.ranges()
            if requested.target_psnr is not None:
                found = search(measurement, names, patterns, requested.target_psnr, progress)
    kept = matching(names, (*patterns, *found))
    to_half(traced, manifest.precision, kept, requested.half_io)
    largest = _half_ranges(traced, ranges, HALF_TYPES[manifest.precision])
    _check_ranges(largest, manifest.precision)
    worst = sorted(((n, v) for n, v in largest.items() if n in names), key=lambda item: -item[1])[:RECORDED_RANGES]
    half = replace(
        requested,
        keep_fp32=patterns,
        found=found,
        nodes=len(names),
        nodes_fp32=len(kept),
        pictures=tuple(image.name for image in images),
        headroom=float(f"{LARGEST[manifest.precision] / worst[0][1]:.4g}") if worst and worst[0][1] else 0.0,
        largest=tuple((name, float(f"{value:.4g}")) for name, value in worst),
    )
    return replace(manifest, half=half)


def _half_ranges(model: ir.Model, ranges: Mapping[str, float], half: ir.DataType) -> dict[str, float]:
    """Return the ranges of the tensors that are stored in half, by the node that computes them, in order."""
    found: dict[str, float] = {}
    for node in model.graph:
        for value in node.outputs:
            source = node.inputs[0] if node.op_type == "Cast" and value.dtype == half else value
            if value.dtype == half and source is not None and source.name is not None and source.name in ranges:
                found.setdefault(source.name, ranges[source.name])
    return found


def _check_ranges(largest: Mapping[str, float], precision: str) -> None:
    for name, value in largest.items():
        if not value <= LARGEST[precision]:
            raise KeygraphError(
                f"{name} reaches {value:.3g}, more than {precision} holds ({LARGEST[precision]:.5g}); keep it in FP32 "
                f"with --keep-fp32 '{name}', let --precision auto find what to keep, or export with --precision bf16; "
                "no file was written"
            )
