"""Which islands of FP32 bring a network of half precision to a PSNR."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import KeygraphError
from ...models import LoadedModel
from ...runtime.backends.base import Inputs
from ..calibration_data import CalibrationPicture
from ..canonicalize import tidy
from ..exporter import plan, save
from ..fp32_patterns import matching
from ..mixed_precision import Measurement, search
from ..precision import float_nodes
from ..trace import trace


@dataclass(frozen=True)
class Islands:
    """What a search found.

    Attributes
    ----------
    before
        PSNR in dB with the islands that were there; -inf where values overflow.
    found
        What has to stay in FP32 besides, none of which can be left out; None where nothing reaches the target.
    after
        PSNR in dB with them.
    """

    before: float
    found: tuple[str, ...] | None
    after: float


def mend(
    model: LoadedModel,
    precision: str,
    keep_fp32: Sequence[str],
    inputs: Sequence[tuple[str, Inputs]],
    target: float,
    k: int | None,
    progress: Callable[[str], None] = lambda _line: None,
) -> Islands:
    """Search the fewest islands of FP32 with which a network's half-precision file reaches a PSNR against FP32.

    As ``keygraph export --precision auto`` does it (`search.find_islands`), on other pictures.

    Parameters
    ----------
    model
        From `models.load_checkpoint`.
    precision
        ``"fp16"`` or ``"bf16"``.
    keep_fp32
        Patterns of what stays in FP32 anyway.
    inputs
        What to measure on, with names: what a session takes but k.
    target
        dB.
    k
        Neighbours of each node; None for networks without key graphs.
    progress
        Takes a line before each step.
    """
    manifest = plan(model.manifest(), k=None, shape=None, precision=precision)
    if manifest.neighbours is not None and k is not None:
        manifest = replace(manifest, neighbours=replace(manifest.neighbours, default=k))
    progress("tracing")
    traced = trace(model.module, manifest)
    tidy(traced)
    names = float_nodes(traced)
    pictures = [CalibrationPicture(name, given) for name, given in inputs]
    with tempfile.TemporaryDirectory(prefix="keygraph-") as folder:
        measurement = Measurement(traced, manifest, pictures, save, Path(folder))
        before = measurement.decibels(matching(names, keep_fp32))
        try:
            found = search(measurement, names, keep_fp32, target, progress)
        except KeygraphError:
            return Islands(before, None, before)
        return Islands(before, found, measurement.decibels(matching(names, (*keep_fp32, *found))))
