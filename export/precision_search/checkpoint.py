"""The precision search for a checkpoint, on given inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import KeygraphError
from ...models import LoadedModel
from ..calibration_data import CalibrationImage
from ..canonicalize import canonicalize
from ..fp32_patterns import matching
from ..plan import plan
from ..precision import float_nodes
from ..trace import trace
from .measurement import Measurement
from .search import search


@dataclass(frozen=True)
class SearchResult:
    """Result of `search_checkpoint`.

    Attributes
    ----------
    before
        PSNR in dB with the FP32 patterns given; -inf where values overflow.
    fp32_patterns
        Patterns needed in addition, none of which can be left out; None when the target is out of reach.
    after
        PSNR in dB with them; `before` when the target is out of reach.
    """

    before: float
    fp32_patterns: tuple[str, ...] | None
    after: float


def search_checkpoint(
    model: LoadedModel,
    precision: str,
    patterns: Sequence[str],
    images: Sequence[CalibrationImage],
    target: float,
    k: int | None,
    progress: Callable[[str], None] = lambda _line: None,
) -> SearchResult:
    """Find the FP32 patterns with which the half-precision file of a checkpoint reaches a PSNR against FP32.

    Parameters
    ----------
    model
        From `models.load_checkpoint`.
    precision
        ``"fp16"`` or ``"bf16"``.
    patterns
        FP32 patterns that apply anyway.
    images
        The images to measure on.
    target
        PSNR, dB.
    k
        Neighbours of each node; None for networks without key graphs.
    progress
        Called with a line before each step.

    Returns
    -------
    SearchResult
    """
    manifest = plan(model.manifest(), k=None, shape=None, precision=precision)
    if manifest.neighbours is not None and k is not None:
        manifest = replace(manifest, neighbours=replace(manifest.neighbours, default=k))
    progress("tracing")
    traced = trace(model.module, manifest)
    canonicalize(traced)
    names = float_nodes(traced)
    with tempfile.TemporaryDirectory(prefix="keygraph-") as folder:
        measurement = Measurement(traced, manifest, images, Path(folder))
        before = measurement.psnr(matching(names, patterns))
        try:
            found = search(measurement, names, patterns, target, progress)
        except KeygraphError:
            return SearchResult(before, None, before)
        return SearchResult(before, found, measurement.psnr(matching(names, (*patterns, *found))))
