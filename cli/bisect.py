"""``keygraph compare --bisect``: which islands of FP32 would mend a candidate of half precision."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Sequence

from ..errors import InputError
from ..export.precision_search.mend import Islands, mend
from ..files import CHECKPOINT_SUFFIXES
from ..manifest import Manifest
from ..models import LoadedModel, load_checkpoint
from ..parity import Comparison, PrecisionSearch, Run, Sample
from ..parity import compare as compare_models
from ..parity.mending import worst_pieces
from ..parity.sides.spec import ModelSpec


def check_bisect(models: Sequence[ModelSpec]) -> None:
    """Refuse, before any work, what there is no checkpoint for; raises `InputError`."""
    exported = next((model for model in models[:-1] if not _is_checkpoint(model)), None)
    if exported is not None and not any(map(_is_checkpoint, models)):
        raise InputError(
            f"--bisect makes {exported.path} again with other islands, which takes the checkpoint that it was exported "
            "from; give that as the reference"
        )


def search_islands(run: Run, models: Sequence[ModelSpec], progress: Callable[[str], None]) -> Run:
    """Enter into a run what would mend each candidate.

    Parameters
    ----------
    run
        With its images.
    models
        Candidates and the reference.
    progress
        Takes a line before each step.
    """
    found = []
    for index, comparison in enumerate(run.comparisons):
        mending = _Search(run, index, models, progress).mending()
        found.append(dataclasses.replace(comparison, precision_search=mending))
    return dataclasses.replace(run, comparisons=tuple(found))


class _Search:
    """For one candidate."""

    def __init__(self, run: Run, index: int, models: Sequence[ModelSpec], progress: Callable[[str], None]) -> None:
        self.run, self.index, self.models, self.progress = run, index, models, progress
        self.comparison: Comparison = run.comparisons[index]
        self.candidate: Manifest = self.comparison.candidate.manifest

    def mending(self) -> PrecisionSearch:
        """What would mend it, or why nothing does."""
        if self.comparison.verdict.good:
            return PrecisionSearch(True, (), None, "it agrees as it is: there is nothing to mend")
        if self.candidate.precision == "fp32":
            return _nothing("it computes in FP32 already, so its precision is not what is wrong")
        source = self._source()
        if source is None:
            return _nothing(
                "none of the checkpoints has the weights that it was made from (SHA-256), so none was tried"
            )
        exact = self._exact(source)
        if exact is not None and not exact.verdict.good:
            least = min(result.judged.psnr for result in exact.inputs)
            return _nothing(
                f"{source.path} in FP32 is no better ({least:.1f} dB), so what is wrong is no matter of precision"
            )
        model = load_checkpoint(source.path)
        kept = self._kept(model)
        target = self.comparison.threshold
        pieces = worst_pieces(self.run, self.index)
        islands = mend(model, self.candidate.precision, kept, pieces, target, self.comparison.k, self.progress)
        return self._words(
            islands, source, [pattern for pattern in kept if pattern not in model.architecture.keep_fp32]
        )

    def _source(self) -> ModelSpec | None:
        """The checkpoint that the candidate is, or was made from."""
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

    def _exact(self, source: ModelSpec) -> Comparison | None:
        """That checkpoint in FP32 against the reference; None where it is the reference."""
        reference = self.models[-1]
        if reference.path == source.path and reference.precision in (None, "fp32"):
            return None
        samples = [Sample(image.name, image.arrays) for image in self.run.images]
        settings = {name: self.run.settings[name] for name in ("k", "tile", "at_least")}
        exact = dataclasses.replace(source, precision="fp32")
        return compare_models([exact], reference, samples, notice=self.progress, **settings).comparisons[0]

    def _kept(self, model: LoadedModel) -> tuple[str, ...]:
        """What is in FP32 already: of a checkpoint in half what an exported file would keep by itself."""
        half = self.candidate.half
        return model.architecture.keep_fp32 if half is None else (*half.keep_fp32, *half.found)

    def _words(self, islands: Islands, source: ModelSpec, asked: Sequence[str]) -> PrecisionSearch:
        precision, target = self.candidate.precision, self.comparison.threshold
        if islands.found is None:
            return _nothing(f"even with every block in FP32 it stays below {target:g} dB", islands.before)
        own = self.models[self.index].path
        out = source.path.with_suffix(".onnx") if own == source.path else own.with_name(f"{own.stem}-mended.onnx")
        words = ["keygraph", "export", str(source.path), "-o", str(out), "--precision", precision]
        for pattern in (*asked, *islands.found):
            words += ["--keep-fp32", pattern]
        command = shlex.join(words)
        if islands.found:
            text = (
                f"in FP32, {', '.join(islands.found)} mend it: {_decibels(islands.before)} become "
                f"{_decibels(islands.after)} ({target:g} dB are needed)"
            )
        elif self.candidate.half is None:
            text = (
                "no island has to be asked for: those that keygraph export keeps in FP32 by itself give "
                f"{_decibels(islands.before)}"
            )
        else:
            text = (
                f"no island is missing: made again with those that it has, it reaches {_decibels(islands.before)}; the "
                "file itself is off"
            )
        return PrecisionSearch(True, islands.found, islands.after, text, command)


def _nothing(why: str, reached: float | None = None) -> PrecisionSearch:
    return PrecisionSearch(False, (), reached, f"no island mends it: {why}")


def _is_checkpoint(model: ModelSpec) -> bool:
    return model.path.suffix.lower() in CHECKPOINT_SUFFIXES


def _decibels(value: float) -> str:
    return "values that are not finite" if not math.isfinite(value) else f"{value:.1f} dB"
