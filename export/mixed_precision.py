"""From the traced network to its half-precision form: what stays in FP32, and what the ranges leave as head-room."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ..errors import InputError, KeygraphError, MissingDependencyError
from ..instrumentation.key_graphs import GraphProbe
from ..instrumentation.metrics import LARGEST, psnr
from ..manifest import Manifest
from ..plugins import library
from .activation_ranges import largest_values
from .calibration_data import CalibrationPicture
from .fp32_patterns import check_patterns, matching
from .precision import HALF_TYPES, float_nodes, to_half
from .precision_search.search import find_islands

#: Writes a network as a file.
Save = Callable[[ir.Model, Manifest, Path], None]

#: Above the target that a search must reach, dB: the verification sees other images, and the graphs of the other side.
MARGIN_DB = 0.5

#: Nodes with the largest values that the manifest keeps.
KEPT_RANGES = 8


def halve(
    traced: ir.Model,
    manifest: Manifest,
    policy: Sequence[str],
    pictures: Sequence[CalibrationPicture],
    save: Save,
    progress: Callable[[str], None],
) -> Manifest:
    """Convert a network in place to the precision that the manifest names.

    Parameters
    ----------
    traced
        Tidied, in FP32.
    manifest
        With the user's wishes in `half`: patterns, and the target of a search.
    policy
        The architecture's patterns.
    pictures
        To measure ranges and, for a search, PSNR on; none leaves the ranges unmeasured.
    save
        Writes files for these measurements.
    progress
        Takes a line before each step.

    Returns
    -------
    The manifest, with all of `half`.

    Raises
    ------
    InputError
        A pattern of the user's matches nothing.
    KeygraphError
        A value leaves the type's range, or a search finds nothing.
    """
    wishes = manifest.half
    assert wishes is not None
    names = float_nodes(traced)
    check_patterns(names, wishes.keep_fp32)
    patterns = (*policy, *wishes.keep_fp32)
    found: tuple[str, ...] = ()
    ranges: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="keygraph-") as folder:
        if pictures:
            progress("measuring ranges")
            measurement = Measurement(traced, manifest, pictures, save, Path(folder))
            ranges = measurement.ranges()
            if wishes.target_psnr is not None:
                found = search(measurement, names, patterns, wishes.target_psnr, progress)
    kept = matching(names, (*patterns, *found))
    to_half(traced, manifest.precision, kept, wishes.half_io)
    largest = _in_half(traced, ranges, HALF_TYPES[manifest.precision])
    _check_ranges(largest, manifest.precision)
    worst = sorted(((n, v) for n, v in largest.items() if n in names), key=lambda item: -item[1])[:KEPT_RANGES]
    half = replace(
        wishes,
        keep_fp32=patterns,
        found=found,
        nodes=len(names),
        nodes_fp32=len(kept),
        pictures=tuple(picture.name for picture in pictures),
        headroom=float(f"{LARGEST[manifest.precision] / worst[0][1]:.4g}") if worst and worst[0][1] else 0.0,
        largest=tuple((name, float(f"{value:.4g}")) for name, value in worst),
    )
    return replace(manifest, half=half)


def search(
    measurement: Measurement,
    names: Sequence[str],
    patterns: Sequence[str],
    target: float,
    progress: Callable[[str], None],
) -> tuple[str, ...]:
    """Find what has to stay in FP32 besides `patterns` so that a network reaches a PSNR; see `find_islands`.

    Parameters
    ----------
    measurement
        Of the network.
    names
        Of its nodes, from `float_nodes`.
    patterns
        What stays in FP32 anyway.
    target
        dB against FP32.
    progress
        Takes a line after each try.

    Raises
    ------
    KeygraphError
        Nothing reaches it.
    """

    def reaches(more: Sequence[str]) -> bool:
        kept = matching(names, (*patterns, *more))
        decibels = measurement.decibels(kept)
        progress(f"searching islands: {len(kept)} nodes in FP32 give {decibels:.1f} dB")
        return decibels >= target + MARGIN_DB

    kept_anyway = matching(names, patterns)
    return find_islands([name for name in names if name not in kept_anyway], reaches)


class Measurement:
    """An FP32 network on pictures, and forms of it in half precision held against it.

    Parameters
    ----------
    traced
        Tidied, in FP32.
    manifest
        Of the half-precision form.
    pictures
        To measure on.
    save
        Writes files, into
    folder
        this folder.
    """

    def __init__(
        self,
        traced: ir.Model,
        manifest: Manifest,
        pictures: Sequence[CalibrationPicture],
        save: Save,
        folder: Path,
    ) -> None:
        self._proto = ir.to_proto(traced)
        self._manifest, self._pictures, self._save = manifest, pictures, save
        self._reference, self._candidate = folder / "fp32.onnx", folder / "candidate.onnx"
        neighbours = manifest.neighbours
        self._k = neighbours.default if neighbours is not None and neighbours.runtime else None
        self._library: Path | None = None
        with suppress(MissingDependencyError):  # The file's functions give the same, more slowly.
            self._library = library("onnxruntime")
        save(traced, replace(manifest, precision="fp32", half=None), self._reference)
        self._expected: list[tuple] = []

    def ranges(self) -> dict[str, float]:
        """The largest absolute value of every tensor in FP32."""
        return largest_values(self._reference, self._pictures, self._k, self._library)

    def decibels(self, kept: set[str]) -> float:
        """The least PSNR over the pictures, with these nodes in FP32 and FP32's key graphs; -inf where it fails."""
        assert self._manifest.half is not None
        if not self._expected:
            reference = GraphProbe(self._reference, self._library)
            for picture in self._pictures:
                images, *extras = picture.inputs
                image, selections = reference.record(images, self._k, *extras)
                self._expected.append((image, [selection.graph for selection in selections]))
        candidate = ir.from_proto(self._proto)
        try:
            to_half(candidate, self._manifest.precision, kept, self._manifest.half.half_io)
        except KeygraphError:
            return -math.inf  # A weight that half does not hold.
        self._save(candidate, self._manifest, self._candidate)
        probe = GraphProbe(self._candidate, self._library, rounded=True)
        least = math.inf
        for picture, (image, graphs) in zip(self._pictures, self._expected, strict=True):
            images, *extras = picture.inputs
            restored, _ = probe.force(images, self._k, graphs, *extras)
            decibels = psnr(restored, image, self._manifest.value_range)
            least = min(least, -math.inf if math.isnan(decibels) else decibels)
        return least


def _in_half(model: ir.Model, ranges: Mapping[str, float], half: ir.DataType) -> dict[str, float]:
    """The largest value of each tensor that is stored in half, by the node that makes it, in order."""
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


def check_wishes(precision: str, half_io: bool, keep_fp32: Sequence[str], target_psnr: float | None) -> None:
    """Refuse options that belong to another precision.

    Raises
    ------
    InputError
        An option has no meaning here, or the target is no number of dB.
    """
    if precision == "fp32":
        for option, given in (("--half-io", half_io), ("--keep-fp32", bool(keep_fp32))):
            if given:
                raise InputError(
                    f"{option} means nothing with fp32; leave it out, or add --precision fp16, bf16 or auto"
                )
    if target_psnr is not None:
        if precision != "auto":
            raise InputError("--target-psnr is what --precision auto works towards; leave it out, or use that")
        if not 10 <= target_psnr <= 100:
            raise InputError(f"--target-psnr is {target_psnr:g}; it must be from 10 to 100 dB")
