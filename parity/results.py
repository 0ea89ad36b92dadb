"""Result records of a comparison and their JSON form: plain data, without rules or computations on images."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..instrumentation.metrics import EQUAL_DB
from ..integrity import Integrity
from ..manifest import IMAGE_INPUT, Manifest
from ..runtime.tiling.blend import Plan
from .localize.error_patterns import Cause
from .localize.first_divergence import FirstDivergence
from .metrics.blocks import BlockDifference
from .metrics.image import Difference
from .metrics.rounding import RoundingError
from .metrics.selection import StageAgreement

#: Packages whose versions are recorded with a run, where they are installed.
_PACKAGES = (
    "keygraph",
    "numpy",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "triton",
)

#: Field -> key in JSON, where they differ: scripts of users read the key.
_JSON_KEYS = {"first_divergence": "origin"}


@dataclass(frozen=True)
class Side:
    """Description of one side of a comparison.

    Attributes
    ----------
    name
        The model specification as given, for instance ``"kgt.ckpt@fp16"`` (see `parity.sides.spec`).
    description
        What ran: engine, version and device.
    manifest
        The model's manifest.
    integrity
        Whether the file is still as it was exported; None for checkpoints.
    digests
        SHA-256 of what ran, computed from the file; see `Probe.digests`.
    """

    name: str
    description: str
    manifest: Manifest
    integrity: Integrity | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate computes what the reference computes.

    Attributes
    ----------
    good
        True when every input passes the rule.
    rule
        The rule as a sentence.
    reasons
        Why it failed, one line each, the most specific first; empty when it passed.
    """

    good: bool
    rule: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class PrecisionSearch:
    """Result of the mixed-precision search for a candidate: which blocks must stay in FP32 for it to pass.

    Attributes
    ----------
    possible
        Whether keeping more blocks in FP32 makes the candidate pass.
    fp32_patterns
        Blocks to keep in FP32 in addition to those that are kept already, as patterns for ``keygraph export
        --keep-fp32``. None of them can be left out.
    psnr
        PSNR in dB with these blocks in FP32 and the same key graphs; None when nothing was tried.
    words
        The result as a sentence.
    command
        Command line that exports such a file; None when there is none.
    """

    possible: bool
    fp32_patterns: tuple[str, ...]
    psnr: float | None
    words: str
    command: str | None = None


@dataclass(frozen=True)
class CleanPsnr:
    """PSNR of both sides against the clean image in dB, on values clipped to the value range but not rounded.

    Attributes
    ----------
    candidate, reference
        NaN where a value is not finite.
    """

    candidate: float
    reference: float

    @property
    def change(self) -> float:
        """Candidate minus reference in dB: above zero, the candidate is better."""
        return 0.0 if self.candidate == self.reference else self.candidate - self.reference


@dataclass(frozen=True)
class BlockRounding:
    """A block's own error on one image.

    Attributes
    ----------
    name
        Name of the module.
    error
        The error, and what rounding explains of it.
    suspect
        The fault that explains the error, in words; None where none of the usual ones does (see `rounding.suspects`).
    """

    name: str
    error: RoundingError
    suspect: str | None = None


@dataclass(frozen=True)
class InputResult:
    """The result for one image.

    Attributes
    ----------
    name
        The file name, or ``"generated picture"``.
    height, width
        Of the input image, in pixels.
    as_run
        Difference between both sides as users run them.
    same_graphs
        Difference when the reference uses the candidate's key graphs; None where graphs cannot be forced (networks
        without key graphs, engines).
    stages
        Agreement in the choice of neighbours, one for each key graph in the order of execution.
    clean
        Both sides against the clean image; None where none was given.
    typical
        As run: the median absolute difference of the worst tile (or piece), in dB relative to the value range; see
        `metrics.image.median_tile_error`. Near ties change some rows of some windows, which lowers a PSNR but no
        median.
    causes
        Known error patterns that explain the difference; empty where the image passed or none fits. See
        `localize.error_patterns`.
    rounding
        The RMS error of `judged`, and what rounding explains of it; None where it could not be measured.
    beyond_rounding
        Blocks whose own error is beyond what rounding explains, in the order of execution and without those that
        contain another one; empty where there are none or blocks were not requested.
    """

    name: str
    height: int
    width: int
    as_run: Difference
    same_graphs: Difference | None
    stages: tuple[StageAgreement, ...]
    clean: CleanPsnr | None = None
    typical: float = math.inf
    causes: tuple[Cause, ...] = ()
    rounding: RoundingError | None = None
    beyond_rounding: tuple[BlockRounding, ...] = ()

    @property
    def judged(self) -> Difference:
        """The difference to which the rule applies: with the same key graphs where possible, else as run."""
        return self.same_graphs if self.same_graphs is not None else self.as_run


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with a reference.

    Attributes
    ----------
    candidate, reference
        The two sides.
    k
        Neighbours of each node; None for networks without key graphs.
    same_weights
        Whether both were made from weights with the same SHA-256, and these have not been changed in the files since.
    inputs
        One result for each image.
    stages
        Agreement in the choice of neighbours, summed over all images.
    verdict
        Whether the candidate passes.
    notices
        Further lines for the reader.
    blocks
        Differences of every block's output, in the order of execution; empty unless requested.
    first_divergence
        Where the difference starts, located from `blocks`; None unless requested.
    precision_search
        Result of the mixed-precision search; None unless requested.
    threshold
        Lowest PSNR in dB that passes, for images and blocks, where rounding does not decide: if it was requested, or
        rounding could not be measured.
    """

    candidate: Side
    reference: Side
    k: int | None
    same_weights: bool
    inputs: tuple[InputResult, ...]
    stages: tuple[StageAgreement, ...]
    verdict: Verdict
    notices: tuple[str, ...]
    blocks: tuple[BlockDifference, ...] = ()
    first_divergence: FirstDivergence | None = None
    precision_search: PrecisionSearch | None = None
    threshold: float = math.nan

    @property
    def origin(self) -> FirstDivergence | None:
        """Deprecated name of `first_divergence`."""
        warnings.warn("Comparison.origin is deprecated; use first_divergence", DeprecationWarning, stacklevel=2)
        return self.first_divergence

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON: 200 for an infinite PSNR (equal images), None for other non-finite values."""
        fields = dataclasses.asdict(self)
        values = {_JSON_KEYS.get(name, name): value for name, value in fields.items()}
        for name in ("candidate", "reference"):
            side: Side = getattr(self, name)
            values[name] = {
                "name": side.name,
                "description": side.description,
                "architecture": side.manifest.architecture,
                "precision": side.manifest.precision,
                "weights_sha256": side.manifest.weights_sha256,
                "integrity": side.integrity.state if side.integrity is not None else None,
                "digests": dict(side.digests),
            }
        _add_stage_properties(values["stages"], self.stages)
        for entry, result in zip(values["inputs"], self.inputs, strict=True):
            _add_stage_properties(entry["stages"], result.stages)
            if result.clean is not None:
                entry["clean"]["change"] = result.clean.change
            if result.rounding is not None:
                entry["rounding"]["times"] = result.rounding.times
            for value, one in zip(entry["beyond_rounding"], result.beyond_rounding, strict=True):
                value["error"]["times"] = one.error.times
        for value, block in zip(values["blocks"], self.blocks, strict=True):
            if block.rounding is not None:
                value["rounding"]["times"] = block.rounding.times
        plain: dict[str, Any] = plain_values(values)
        return plain


@dataclass(frozen=True)
class ComparedImage:
    """One input image and the outputs of all sides.

    Attributes
    ----------
    name
        The file name, or how the reader knows the image.
    input
        [H, W] or [H, W, C] as given (the first view, for models that take several).
    reference
        float32[H', W', C'], the reference's output: in the manifest's value range, neither rounded nor clipped.
    candidates
        Likewise, one for each of the run's comparisons.
    clean
        float32[H', W', C'] in the same range; None where none was given.
    tiles
        Tiling plan of the reference; a tile is no larger than the padded image. None: the image was cut into pieces
        that do not overlap, the default of a comparison.
    beside
        The model's other inputs, by name.
    """

    name: str
    input: NDArray[Any]
    reference: NDArray[np.float32]
    candidates: tuple[NDArray[np.float32], ...]
    clean: NDArray[np.float32] | None
    tiles: Plan | None
    beside: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All inputs by name, as `Sample.arrays`."""
        return {IMAGE_INPUT: self.input, **self.beside}


@dataclass(frozen=True)
class Run:
    """Candidates compared with one reference on the same images.

    Attributes
    ----------
    comparisons
        One for each candidate.
    images
        The images and all outputs; empty unless they were to be kept.
    command
        Command line that repeats the run; None for a call from Python.
    versions
        Versions of the packages that matter: package -> version, and ``"python"``, ``"platform"``.
    settings
        ``"k"``, ``"tile"``, ``"at_least"`` (None for the default of each) and ``"blocks"``.
    """

    comparisons: tuple[Comparison, ...]
    images: tuple[ComparedImage, ...] = ()
    command: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """True when every candidate passed."""
        return all(comparison.verdict.good for comparison in self.comparisons)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why candidates failed, one line each; prefixed with the candidate's name when there are several."""
        several = len(self.comparisons) > 1
        return tuple(
            f"{comparison.candidate.name}: {reason}" if several else reason
            for comparison in self.comparisons
            for reason in comparison.verdict.reasons
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON, without the images; see `Comparison.as_json`."""
        return {
            "command": self.command,
            "settings": self.settings,
            "versions": self.versions,
            "good": self.good,
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
        }


def versions() -> dict[str, str]:
    """Return the installed versions for `Run.versions`."""
    installed = {one.name.lower().replace("_", "-"): one.version for one in importlib.metadata.distributions()}
    packages = {name: installed[name] for name in _PACKAGES if name in installed}
    return {"python": platform.python_version(), "platform": platform.platform(), **packages}


def plain_values(value: Any) -> Any:
    """Convert nested values to what JSON can hold; see `Comparison.as_json`."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return EQUAL_DB if value > 0 else None
    return value


def _add_stage_properties(values: Sequence[dict[str, Any]], stages: Sequence[StageAgreement]) -> None:
    for value, stage in zip(values, stages, strict=True):
        value["jaccard"], value["near_ties"], value["slip"] = stage.jaccard, stage.near_ties, stage.slip
