"""What a run of comparisons is: its sides, its images, its results, and all of it as JSON."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..instrumentation.metrics import EQUAL_DB
from ..manifest import IMAGE_INPUT, Manifest
from ..runtime.tiling.blend import Plan
from .localize.first_divergence import Origin
from .metrics.blocks import BlockDifference
from .metrics.selection import StageAgreement
from .pass_criteria import Verdict
from .results import InputResult

#: What a result depends on, where it is installed.
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


@dataclass(frozen=True)
class Side:
    """What was compared.

    Attributes
    ----------
    name
        The file, with how it was run where that was said: ``"kgt.ckpt@fp16"`` (see `parity.models`).
    description
        What really ran.
    manifest
        What it says of itself.
    """

    name: str
    description: str
    manifest: Manifest


@dataclass(frozen=True)
class Mending:
    """What would mend a candidate, or why nothing does.

    Attributes
    ----------
    possible
        Whether keeping more in FP32 mends it.
    islands
        What to keep in FP32 besides what is kept already, none of which can be left out: patterns for
        ``keygraph export --keep-fp32``.
    psnr
        PSNR in dB that is reached with them, with the same key graphs; None where nothing was tried.
    words
        In a sentence.
    command
        The command line that makes such a file; None where there is none.
    """

    possible: bool
    islands: tuple[str, ...]
    psnr: float | None
    words: str
    command: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A candidate compared with a reference.

    Attributes
    ----------
    candidate, reference
        What was compared.
    k
        Neighbours of each node, None for networks without key graphs.
    same_weights
        Whether the weights that they were made from have the same SHA-256.
    inputs
        One result for each image.
    stages
        The choice of neighbours, summed over all images.
    verdict
        Whether they agree.
    notices
        What a reader should know besides.
    blocks
        Outputs of every block, in the order of execution; empty unless asked for.
    origin
        Where the difference starts, from the blocks; None unless asked for.
    mending
        What would mend the candidate; None unless it was looked for.
    threshold
        The least PSNR in dB that passes, for images and blocks.
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
    origin: Origin | None = None
    mending: Mending | None = None
    threshold: float = math.nan

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON: PSNR at most 200 (which stands for equal images), None for what is not a number."""
        values = dataclasses.asdict(self)
        for name in ("candidate", "reference"):
            side: Side = getattr(self, name)
            values[name] = {
                "name": side.name,
                "description": side.description,
                "architecture": side.manifest.architecture,
                "precision": side.manifest.precision,
                "weights_sha256": side.manifest.weights_sha256,
            }
        _add_stages(values["stages"], self.stages)
        for result, given in zip(values["inputs"], self.inputs, strict=True):
            _add_stages(result["stages"], given.stages)
            if given.clean is not None:
                result["clean"]["change"] = given.clean.change
        plain: dict[str, Any] = plain_values(values)
        return plain


@dataclass(frozen=True)
class ComparedImage:
    """One image and what all sides made of it.

    Attributes
    ----------
    name
        The file, or what a reader knows it by.
    input
        [H, W] or [H, W, C] as given (the first view, where the model takes several).
    reference
        float32[H', W', C'], as the model gives it: in the manifest's value range, neither rounded nor clipped.
    candidates
        Likewise, one for each of the run's comparisons.
    clean
        float32[H', W', C'] in the same range; None where none was given.
    tiles
        How the image was cut for the reference; a tile is no larger than the padded image. None: in pieces that do not
        overlap, as the comparison does by default.
    beside
        What the model took beside the input, by name.
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
        """The input and what goes with it, by name, as `Sample.arrays`."""
        return {IMAGE_INPUT: self.input, **self.beside}


@dataclass(frozen=True)
class Run:
    """Candidates compared with one reference, on the same images.

    Attributes
    ----------
    comparisons
        One for each candidate.
    images
        What was compared, image by image; empty unless it was asked to be kept.
    command
        The command line that repeats it; None where it was called from Python.
    versions
        Of what it depends on: package -> version, and ``"python"``, ``"platform"``.
    settings
        What else it was run with: ``"k"``, ``"tile"``, ``"at_least"``, each None where nothing was asked for, and
        ``"blocks"``.
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
        """Why not, a line each; of several candidates, each with its name."""
        several = len(self.comparisons) > 1
        return tuple(
            f"{comparison.candidate.name}: {reason}" if several else reason
            for comparison in self.comparisons
            for reason in comparison.verdict.reasons
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON, without the images; see `Comparison.as_json`."""
        return {
            "command": self.command,
            "settings": self.settings,
            "versions": self.versions,
            "good": self.good,
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
        }


def versions() -> dict[str, str]:
    """What `Run.versions` holds here."""
    installed = {one.name.lower().replace("_", "-"): one.version for one in importlib.metadata.distributions()}
    packages = {name: installed[name] for name in _PACKAGES if name in installed}
    return {"python": platform.python_version(), "platform": platform.platform(), **packages}


def plain_values(value: Any) -> Any:
    """Make JSON's values of it."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return EQUAL_DB if value > 0 else None
    return value


def _add_stages(values: Sequence[dict[str, Any]], stages: Sequence[StageAgreement]) -> None:
    for value, stage in zip(values, stages, strict=True):
        value["jaccard"], value["near_ties"], value["slip"] = stage.jaccard, stage.near_ties, stage.slip
