"""The precision search for the candidates of a comparison that failed."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Sequence

from ...errors import InputError
from ...files import CHECKPOINT_SUFFIXES
from ...manifest import Manifest
from ...models import LoadedModel, load_checkpoint
from ...parity import Comparison, PrecisionSearch, Run, Sample, compare
from ...parity.inputs import demands, read_inputs
from ...parity.pass_criteria import limit_of
from ...parity.piecewise import TRACED, distances, worst_piece
from ...parity.sides.spec import ModelSpec
from ..calibration_data import CalibrationImage
from .checkpoint import SearchResult, search_checkpoint


def check_models(models: Sequence[ModelSpec]) -> None:
    """Check, before any work, that the search has a checkpoint to export from.

    Parameters
    ----------
    models
        The candidates, then the reference.

    Raises
    ------
    InputError
        A candidate is an exported file, and no checkpoint is among the models.
    """
    exported = next((model for model in models[:-1] if not _is_checkpoint(model)), None)
    if exported is not None and not any(map(_is_checkpoint, models)):
        raise InputError(
            f"--bisect exports {exported.path} again with other FP32 patterns, which takes the checkpoint that it was "
            "exported from; give that as the reference"
        )


def search_run(run: Run, models: Sequence[ModelSpec], progress: Callable[[str], None]) -> Run:
    """Run the precision search for every candidate of a run.

    Parameters
    ----------
    run
        The run, with its images kept (``compare(..., keep_images=True)``).
    models
        The candidates, then the reference, as they were compared.
    progress
        Called with a line before each step.

    Returns
    -------
    Run
        The same run, with the results of the search.
    """
    comparisons = [
        dataclasses.replace(comparison, precision_search=_CandidateSearch(run, index, models, progress).result())
        for index, comparison in enumerate(run.comparisons)
    ]
    return dataclasses.replace(run, comparisons=tuple(comparisons))


def worst_windows(run: Run, index: int) -> list[CalibrationImage]:
    """Return, of every image of a run, the window where a candidate is furthest from the reference.

    Parameters
    ----------
    run
        The run, with its images kept.
    index
        Index of the candidate.

    Returns
    -------
    list of CalibrationImage
        One for each image, with sides of at most `TRACED` pixels (rounded up to the size multiple).
    """
    needs = demands(run.comparisons[index].reference.manifest)
    windows = []
    for image in run.images:
        (given,) = read_inputs([Sample(image.name, image.arrays)], needs)
        inputs, _ = worst_piece(given, needs, distances(image.candidates[index], image.reference), TRACED)
        windows.append(CalibrationImage(image.name, inputs))
    return windows


class _CandidateSearch:
    """The search for one candidate."""

    def __init__(self, run: Run, index: int, models: Sequence[ModelSpec], progress: Callable[[str], None]) -> None:
        self.run, self.index, self.models, self.progress = run, index, models, progress
        self.comparison: Comparison = run.comparisons[index]
        self.candidate: Manifest = self.comparison.candidate.manifest

    def result(self) -> PrecisionSearch:
        """Return the FP32 patterns with which the candidate would pass, or the reason why there are none."""
        if self.comparison.verdict.good:
            return PrecisionSearch(True, (), None, "not needed: the candidate passes as it is")
        if self.candidate.precision == "fp32":
            return _no_solution("the candidate computes in FP32 already, so precision is not the cause")
        source = self._source()
        if source is None:
            return _no_solution(
                "none of the checkpoints given has the weights that the candidate was made from (SHA-256)"
            )
        exact = self._compare_fp32(source)
        if exact is not None and not exact.verdict.good:
            lowest = min(result.judged.psnr for result in exact.inputs)
            return _no_solution(f"{source.path} in FP32 fails as well ({lowest:.1f} dB), so precision is not the cause")
        model = load_checkpoint(source.path)
        patterns = self._current_patterns(model)
        found = search_checkpoint(
            model,
            self.candidate.precision,
            patterns,
            worst_windows(self.run, self.index),
            self._target(),
            self.comparison.k,
            self.progress,
        )
        requested = [pattern for pattern in patterns if pattern not in model.architecture.keep_fp32]
        return self._describe(found, source, requested)

    def _source(self) -> ModelSpec | None:
        """Return the checkpoint that the candidate is or was exported from; None where it was not given."""
        own = self.models[self.index]
        if _is_checkpoint(own):
            return own
        sides = [*(comparison.candidate for comparison in self.run.comparisons), self.comparison.reference]
        return next(
            (
                model
                for model, side in zip(self.models, sides, strict=True)
                if _is_checkpoint(model) and side.manifest.weights_sha256 == self.candidate.weights_sha256
            ),
            None,
        )

    def _compare_fp32(self, source: ModelSpec) -> Comparison | None:
        """Compare the checkpoint in FP32 with the reference; None where it is the reference."""
        reference = self.models[-1]
        if reference.path == source.path and reference.precision in (None, "fp32"):
            return None
        samples = [Sample(image.name, image.arrays) for image in self.run.images]
        settings = {name: self.run.settings[name] for name in ("k", "tile", "at_least")}
        exact = dataclasses.replace(source, precision="fp32")
        return compare([exact], reference, samples, notice=self.progress, **settings).comparisons[0]

    def _target(self) -> float:
        """Return the PSNR in dB with which every image passes."""
        at_least = self.run.settings["at_least"]
        return max(limit_of(result, self.comparison.threshold, at_least) for result in self.comparison.inputs)

    def _current_patterns(self, model: LoadedModel) -> tuple[str, ...]:
        """Return the candidate's FP32 patterns; of a checkpoint in half precision those that an export would use."""
        half = self.candidate.half
        return model.architecture.keep_fp32 if half is None else (*half.keep_fp32, *half.found)

    def _describe(self, found: SearchResult, source: ModelSpec, requested: Sequence[str]) -> PrecisionSearch:
        """Put a result into words, with the command that exports such a file."""
        precision, target = self.candidate.precision, self._target()
        if found.fp32_patterns is None:
            return _no_solution(f"the PSNR stays below {target:.4g} dB even with every block in FP32", found.before)
        own = self.models[self.index].path
        out = source.path.with_suffix(".onnx") if own == source.path else own.with_name(f"{own.stem}-mixed.onnx")
        words = ["keygraph", "export", str(source.path), "-o", str(out), "--precision", precision]
        for pattern in (*requested, *found.fp32_patterns):
            words += ["--keep-fp32", pattern]
        before, after = _decibels(found.before), _decibels(found.after)
        if found.fp32_patterns:
            text = (
                f"with {', '.join(found.fp32_patterns)} in FP32 the PSNR rises from {before} to {after} "
                f"({target:.4g} dB are needed)"
            )
        elif self.candidate.half is None:
            text = f"no --keep-fp32 is needed: the blocks that keygraph export keeps in FP32 by default give {before}"
        else:
            text = (
                f"no FP32 pattern is missing: exported again with the same ones, the file reaches {before}, so this "
                "file is damaged"
            )
        return PrecisionSearch(True, found.fp32_patterns, found.after, text, shlex.join(words))


def _no_solution(reason: str, reached: float | None = None) -> PrecisionSearch:
    return PrecisionSearch(False, (), reached, f"no FP32 pattern makes it pass: {reason}")


def _is_checkpoint(model: ModelSpec) -> bool:
    return model.path.suffix.lower() in CHECKPOINT_SUFFIXES


def _decibels(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "values that are not finite"
