"""Verify that an exported file computes what PyTorch computes, up to what rounding explains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import KeygraphError, counted
from ..instrumentation.metrics import EQUAL_DB, TOLERANCES, Tolerance, psnr
from ..instrumentation.synthetic import Content, synthetic_inputs
from ..manifest import Manifest
from ..models.architecture import CUSTOM
from ..parity.metrics.rounding import RoundingError
from ..parity.pass_criteria import beyond, describe_error, rule_by_rounding
from ..parity.rounding.network import rms_error
from ..runtime.backends.base import Inputs, result_shape
from ..runtime.device import memory
from ..runtime.preprocess.padding import round_up
from .activation_ranges import first_nonfinite
from .calibration_data import CalibrationImage
from .custom import sizes
from .reference import AnyReference
from .rounding import LEAST_PIXELS, ExpectedRounding

#: Smallest height and width of the largest test image for a network with global statistics, so that they are sums over
#: many pixels. A Restormer of 26 million parameters takes 29 GMAC for it, one or two seconds.
GLOBAL_STATISTICS_SIZE = (96, 128)


#: A side that is a multiple of all usual windows: what pads its image itself pads nothing there.
_ROUND_SIDE = 64


@dataclass(frozen=True)
class Check:
    """One run compared with PyTorch.

    Attributes
    ----------
    shape, k
        (B, H, W) of the input, without a margin.
    psnr
        PSNR in dB over the value range, both with the same key graphs; rounded down to 0.1, at most 200.
    links_different
        Share of the key graphs' links that differ; all of them near ties, within the similarity tolerance.
    content
        What the generated image shows.
    picture
        Name of the calibration image; None for a generated one.
    psnr_as_run
        On calibration images: PSNR in dB with each side's own key graphs, rounded likewise.
    found
        RMS of the difference that `psnr` is of, in units of the image's values.
    expected
        RMS of the difference that rounding explains, which decides; None where it could not be measured.
    """

    shape: tuple[int, int, int]
    k: int | None
    psnr: float
    links_different: float
    content: Content = "picture"
    picture: str | None = None
    psnr_as_run: float | None = None
    found: float = 0.0
    expected: float | None = None

    @property
    def error(self) -> RoundingError | None:
        """The two errors; None where that of rounding is not known."""
        return None if self.expected is None else RoundingError("", self.found, self.expected)


class VerificationError(KeygraphError):
    """A file does not compute what PyTorch computes."""


def rounding_inputs(manifest: Manifest) -> tuple[Inputs, int | None]:
    """Return the inputs and k of the run that rounding is measured on: the smallest image that is large enough."""
    side = max(manifest.least_side, round_up(math.isqrt(LEAST_PIXELS), manifest.size_multiple))
    default = manifest.neighbours.default if manifest.neighbours else None
    return synthetic_inputs(manifest, manifest.shape or (1, side, side)), default


def verification_cases(manifest: Manifest) -> list[tuple[tuple[int, int, int], int | None]]:
    """Return the shapes (B, H, W) and values of k to verify.

    Shapes: the smallest, a non-square one, a batch of 2, and a large one: three times the smallest, and at least
    `GLOBAL_STATISTICS_SIZE` for networks with global statistics. Values of k: the default, and when k is an input also
    an eighth of the maximum and the maximum.

    Of a network without a description, sizes are tried that are multiples of nothing more than the size multiple, and
    one that is a multiple of all usual windows.
    """
    m = manifest.least_side
    neighbours = manifest.neighbours
    default = neighbours.default if neighbours else None
    if manifest.shape is not None:
        shapes = [manifest.shape]
    else:
        height, width = GLOBAL_STATISTICS_SIZE if manifest.global_statistics else (0, 0)
        large = (1, max(3 * m, round_up(height, m)), max(2 * m, round_up(width, m)))
        shapes = [(1, m, m), (1, m, 2 * m), (2, m, m), large]
        if manifest.architecture == CUSTOM:
            odd, wide, _ = sizes.shapes(manifest.size_multiple, m)
            round_side = max(m, round_up(_ROUND_SIDE, manifest.size_multiple))
            shapes = [(1, m, m), (1, *odd), (2, *wide), (1, round_side, round_side)]
            shapes += [large] if manifest.global_statistics else []
    cases = [(shape, default) for shape in shapes]
    if neighbours is not None and neighbours.runtime:
        cases += [(shapes[0], k) for k in sorted({max(1, neighbours.maximum // 8), neighbours.maximum} - {default})]
    return cases


def verification_contents(manifest: Manifest) -> tuple[Content, ...]:
    """Return what the generated images show: of a network without a description, ties and extremes are tried as well.

    The code of a described network is known, and so is what its operators do with ties.
    """
    return ("picture", "flat", "noise") if manifest.architecture == CUSTOM else ("picture",)


#: Verification of fewer pixels fits into the memory of any machine that exports.
_SMALL = 256 * 256


def check_memory(model: nn.Module, manifest: Manifest) -> None:
    """Check that PyTorch can run the largest test image: that of a fixed shape may be as large as a photo.

    Raises
    ------
    InputError
        There is not enough memory.
    """
    shape, k = max(verification_cases(manifest), key=lambda case: math.prod(case[0]))
    if math.prod(shape) <= _SMALL:
        return

    def run(side: int) -> None:
        inputs = synthetic_inputs(manifest, (1, side, side))
        with torch.inference_mode():
            model(*map(torch.from_numpy, inputs), *([k] if k is not None else []))

    memory.require_run(
        run,
        manifest.least_side,
        math.prod(shape),
        f"verifying the file at {'x'.join(map(str, shape))}",
        "end other programs, export on a larger machine, or skip this with --no-verify",
    )


def verify(
    path: Path,
    reference: AnyReference,
    manifest: Manifest,
    library: Path | None,
    progress: Callable[[str], None] | None = None,
    *,
    images: Sequence[CalibrationImage] = (),
    rounded: bool = False,
    rounding: ExpectedRounding,
) -> list[Check]:
    """Run a file in ONNX Runtime and compare it with PyTorch.

    Each key graph that ONNX Runtime computed is compared with PyTorch's choice on the same features. PyTorch then
    continues with ONNX Runtime's graph, so that near ties do not affect the comparison of the images, and an error in
    the images cannot be mistaken for a near tie.

    Parameters
    ----------
    path
        The exported file.
    reference
        The network that it was exported from.
    manifest
        The file's manifest.
    library
        ONNX Runtime library of keygraph's operators, or None to run the file's own functions.
    progress
        Called with a line before each case.
    images
        Calibration images to run in addition to the generated ones, with the default k.
    rounded
        Emulate half precision (`runtime.backends.emulated_half`) instead of using ONNX Runtime's own.
    rounding
        What rounding explains of the file's errors, which decides; where it cannot be measured, `required` does.

    Returns
    -------
    list of Check
        One for each case.

    Raises
    ------
    VerificationError
        A value is not finite, an error is beyond what rounding explains, or key graphs differ in more than near ties.
    """
    probe = reference.probe(path, library, rounded)
    runtime_k = manifest.neighbours is not None and manifest.neighbours.runtime
    tolerance = required(manifest)
    cases: list[tuple[Inputs, tuple[int, int, int], int | None, Content, str | None]] = [
        (synthetic_inputs(manifest, shape, content), shape, k, content, None)
        for shape, k in verification_cases(manifest)
        for content in verification_contents(manifest)
    ]
    default = manifest.neighbours.default if manifest.neighbours else None
    cases += [(image.inputs, _size(image.inputs, manifest), default, "picture", image.name) for image in images]
    checks = []
    for inputs, shape, k, content, name in cases:
        tensor, *extras = inputs
        shown = name or ("" if content == "picture" else {"flat": "a flat image", "noise": "noise"}[content])
        where = f"at {'x'.join(map(str, shape))}" + (f", k = {k}" if k else "") + (f", on {shown}" if shown else "")
        if progress is not None:
            progress(where)
        restored, selections = probe.record(tensor, k if runtime_k else None, *extras)
        if not np.isfinite(restored).all():
            own, _ = reference.restore(inputs, k)
            advice = _advice(manifest.precision, bool(np.isfinite(own).all()))
            raise _not_finite(path, inputs, k if runtime_k else None, library, where, advice)
        expected, agreements = reference.restore(inputs, k, [selection.graph for selection in selections])
        wrong = [
            f"key graph {i}: {counted(a.beyond_tolerance, 'link')}"
            for i, a in enumerate(agreements)
            if a.beyond_tolerance
        ]
        if wrong:
            raise VerificationError(
                f"the exported file selects other neighbours than PyTorch {where} ({'; '.join(wrong)})"
            )
        result = psnr(restored, expected, manifest.value_range)
        found = rms_error(restored, expected)
        error = rounding.explained(found, inputs, k)
        if error is None and not result >= tolerance.psnr:
            raise VerificationError(
                f"the exported file differs from PyTorch {where}: {result:.1f} dB; {tolerance.psnr:.0f} dB are needed, "
                f"as rounding cannot be measured ({rounding.failure})"
            )
        if error is not None and beyond(error):
            raise VerificationError(
                f"the exported file differs from PyTorch {where}: {result:.1f} dB, {describe_error(error)}"
            )
        links = sum(a.selected for a in agreements)
        different = sum(a.different for a in agreements) / links if links else 0.0
        as_run = None
        if name is not None:
            own, _ = reference.restore(inputs, k)
            as_run = _tenths(psnr(restored, own, manifest.value_range))
        checks.append(
            Check(
                *(shape, k, _tenths(result), float(f"{different:.1e}"), content, name, as_run),
                float(f"{found:.3g}"),
                None if error is None else float(f"{error.expected:.3g}"),
            )
        )
    return checks


def _size(inputs: Inputs, manifest: Manifest) -> tuple[int, int, int]:
    """Return (B, H, W) without margins."""
    batch, _, height, width = result_shape(manifest, inputs[0].shape)
    return batch, height // manifest.scale, width // manifest.scale


def required(manifest: Manifest) -> Tolerance:
    """Return the tolerance of a file: that of its precision, or a lower target PSNR of a precision search.

    Its PSNR is the usual one, and decides only where rounding cannot be measured.
    """
    tolerance = TOLERANCES[manifest.precision]
    target = manifest.half.target_psnr if manifest.half is not None else None
    return tolerance if target is None else replace(tolerance, psnr=min(tolerance.psnr, target))


def _tenths(decibels: float) -> float:
    return math.floor(min(decibels, EQUAL_DB) * 10) / 10


def _advice(precision: str, finite: bool) -> str:
    """Return what to do about values that are not finite; the node's name goes to ``{node}``.

    Parameters
    ----------
    precision
        Of the file.
    finite
        Whether the network's own result in PyTorch is.
    """
    if not finite:
        return (
            "the network's own result in PyTorch is not finite there either: guard its code against overflow, and "
            "against dividing by zero, as in x / (norm + 1e-6), or export it as it is with --no-verify"
        )
    if precision == "fp32":
        return "PyTorch's result is finite, so the file is wrong: please report it"
    return (
        "keep it in FP32 with --keep-fp32 '{node}', let --precision auto find what to keep, or export with "
        "--precision bf16"
    )


def _not_finite(
    path: Path, inputs: Inputs, k: int | None, library: Path | None, where: str, advice: str
) -> VerificationError:
    """Return the error that names the first node with a value that is not finite."""
    node = first_nonfinite(path, inputs, k, library)
    fact = f"the exported file's result is not finite {where}"
    if node is None:
        return VerificationError(fact if "{node}" in advice else f"{fact}; {advice}")
    return VerificationError(f"{fact}; the first such values are those of {node}; {advice.format(node=node)}")


def as_record(checks: list[Check], operators: str, manifest: Manifest, rounded: bool = False) -> dict[str, Any]:
    """Return the record of a verification for the manifest.

    Parameters
    ----------
    checks
        From `verify`.
    operators
        ``"library"`` or ``"functions"``: where the operators came from.
    manifest
        The file's manifest.
    rounded
        Whether half precision was emulated.

    Returns
    -------
    dict
        Values for JSON.
    """
    tolerance = required(manifest)
    return {
        "against": "PyTorch",
        "engine": "onnxruntime",
        "operators": operators,
        "arithmetic": f"float32, every stored tensor rounded to {manifest.precision}"
        if rounded
        else "the engine's own",
        "rule": rule_by_rounding(f"{manifest.precision} rounding"),
        "tolerance_db": tolerance.psnr,
        "similarity_tolerance": tolerance.similarity,
        "checks": [{**asdict(check), "shape": list(check.shape)} for check in checks],
    }
