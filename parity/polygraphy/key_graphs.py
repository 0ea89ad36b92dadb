"""Comparison of the selection of neighbours, apart from the arithmetic, with Polygraphy's Comparator.

Two correct implementations select different neighbours where similarities nearly tie, and from there on their outputs
differ by more than rounding. So a network with key graphs is run twice more: one runner records the candidate's graphs,
another forces them on the reference. Their images then differ by arithmetic alone, and the graphs are compared as
graphs.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import BaseCompareFunc, CompareResult, IterationResult, Threshold
from polygraphy.json import Decoder, Encoder
from polygraphy.logger import G_LOGGER

from ...errors import KeygraphError
from ...instrumentation.key_graphs import Selection
from ...instrumentation.metrics import TOLERANCES
from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT
from ..metrics.selection import agreements
from ..sides.base import Probe
from ..sides.opening import open_probe
from .artifacts import tensors_of

#: A stage's outputs are named after the stage and these fields of `Selection`.
_FIELDS = ("query", "key", "graph")


class _ProbeRunner(BaseRunner):
    """Runs a probe; its outputs are ``restored``, and query, key and graph of each stage."""

    def __init__(self, model: str | os.PathLike[str], name: str | None, prefix: str) -> None:
        super().__init__(name=name, prefix=prefix)
        self._model = model

    def activate_impl(self) -> None:
        """Open the model."""
        self._probe: Probe = open_probe(self._model)

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Return names, types and shapes, as in the exported file."""
        metadata = TensorMetadata()
        for name, (dtype, shape) in tensors_of(self._probe.manifest).items():
            metadata.add(name, dtype, shape)
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, NDArray[Any]]) -> OrderedDict[str, NDArray[Any]]:
        """Restore a batch. The time includes reading the graphs, so it is not that of a normal run."""
        extras = [feed_dict[extra.name] for extra in self._probe.manifest.extra_inputs]
        k = int(feed_dict[K_INPUT][0]) if K_INPUT in feed_dict else None
        start = time.perf_counter()
        restored, selections = self._restore(feed_dict[IMAGE_INPUT], k, extras)
        self.inference_time = time.perf_counter() - start
        outputs = OrderedDict([(IMAGE_OUTPUT, restored)])
        for selection in selections:
            outputs.update((f"{selection.name}/{field}", getattr(selection, field)) for field in _FIELDS)
        return outputs

    def _restore(
        self, images: NDArray[Any], k: int | None, extras: list[NDArray[Any]]
    ) -> tuple[NDArray[Any], list[Selection]]:
        raise NotImplementedError

    def deactivate_impl(self) -> None:
        """Release the model."""
        del self._probe


class RecordingRunner(_ProbeRunner):
    """Runs the candidate and records its key graphs.

    Parameters
    ----------
    model
        A checkpoint or an exported file; engines do not expose their key graphs.
    name
        Of the runner, for reports.
    """

    def __init__(self, model: str | os.PathLike[str], name: str | None = None) -> None:
        super().__init__(model, name, "recording-runner")
        #: Graphs of each iteration that no `ForcedRunner` has used yet.
        self.recorded: deque[list[NDArray[np.int32]]] = deque()

    def _restore(
        self, images: NDArray[Any], k: int | None, extras: list[NDArray[Any]]
    ) -> tuple[NDArray[Any], list[Selection]]:
        restored, selections = self._probe.record(images, k, *extras)
        self.recorded.append([selection.graph for selection in selections])
        return restored, selections


class ForcedRunner(_ProbeRunner):
    """Runs the reference with the candidate's key graphs, and returns those that it would have selected itself.

    Parameters
    ----------
    model
        A checkpoint or an exported file.
    candidate
        The candidate's runner, earlier in the same `Comparator.run`.
    name
        Of the runner, for reports.
    """

    def __init__(self, model: str | os.PathLike[str], candidate: RecordingRunner, name: str | None = None) -> None:
        super().__init__(model, name, "forced-runner")
        self._candidate = candidate

    def _restore(
        self, images: NDArray[Any], k: int | None, extras: list[NDArray[Any]]
    ) -> tuple[NDArray[Any], list[Selection]]:
        if not self._candidate.recorded:
            raise KeygraphError(f"{self._candidate.name} has not run on these inputs; put it before {self.name}")
        return self._probe.force(images, k, self._candidate.recorded.popleft(), *extras)


class KeyGraphThreshold(Threshold):
    """Two selections of neighbours agree when each node has as many, and all differences are near ties."""

    METRIC_FIELDS = ["different", "beyond_tolerance", "misjudged"]  # noqa: RUF012 - as Polygraphy declares it

    def passed(self, metric_values: Mapping[str, float]) -> bool:
        """Return whether no link differs by more than a near tie."""
        return metric_values["beyond_tolerance"] == 0 and metric_values["misjudged"] == 0

    def describe(self, metric_values: Mapping[str, float]) -> tuple[str, bool]:
        """Return a line for the log, and whether the selections agree."""
        passed = self.passed(metric_values)
        different, beyond, misjudged = (metric_values[name] for name in self.METRIC_FIELDS)
        return (
            f"links that differ: {different:.0f}, beyond tolerance: {beyond:.0f}, wrong by the candidate's own "
            f"features: {misjudged:.0f} (tolerance: 0 and 0) | {'PASSED' if passed else 'FAILED'}",
            passed,
        )


class KeyGraphResult(CompareResult):
    """The numbers of one stage's `parity.StageAgreement` that decide."""

    _THRESHOLD_CLASS = KeyGraphThreshold

    def __init__(
        self, different: float, beyond_tolerance: float, misjudged: float, thresholds: KeyGraphThreshold | None = None
    ) -> None:
        super().__init__(thresholds=thresholds)
        self.different, self.beyond_tolerance, self.misjudged = different, beyond_tolerance, misjudged


class KeyGraphCompareFunc(BaseCompareFunc):
    """Compares the selections of a `RecordingRunner` and a `ForcedRunner`, stage by stage.

    Parameters
    ----------
    k
        Number of neighbours that each node should keep.
    similarity
        Relative tolerance of similarities, see `instrumentation.metrics.Tolerance`.
    """

    _RESULT_CLASS = KeyGraphResult

    def __init__(self, k: int, similarity: float = TOLERANCES["fp32"].similarity) -> None:
        self._k, self._similarity = k, similarity

    def thresholds_for(self, output_name: str) -> KeyGraphThreshold:
        """Return the limits; see `BaseCompareFunc.thresholds_for`."""
        return KeyGraphThreshold()

    def __call__(self, iter_result0: IterationResult, iter_result1: IterationResult) -> OrderedDict[str, Any]:
        """Compare one iteration; the results are named after the stages' graphs."""
        results: OrderedDict[str, Any] = OrderedDict()
        selected, forced = _selections(iter_result0), _selections(iter_result1)
        if not selected or [one.name for one in selected] != [one.name for one in forced]:
            raise KeygraphError(
                "the runners did not return key graphs; compare a RecordingRunner with its ForcedRunner"
            )
        for stage in agreements(selected, forced, self._k, self._similarity):
            name = f"{stage.name}/graph"
            threshold = self.thresholds_for(name)
            result = KeyGraphResult(stage.different, stage.beyond_tolerance, stage.misjudged, thresholds=threshold)
            result.output0_name = result.output1_name = name
            line, passed = result.describe()
            (G_LOGGER.finish if passed else G_LOGGER.error)(f"{stage.name} | {line}")
            results[name] = result
        return results


def _selections(result: IterationResult) -> list[Selection]:
    names = [name.removesuffix("/graph") for name in result if name.endswith("/graph")]
    return [Selection(name, *(np.asarray(result[f"{name}/{field}"]) for field in _FIELDS)) for name in names]


@Encoder.register(KeyGraphThreshold)
def _encode_threshold(threshold: KeyGraphThreshold) -> dict[str, Any]:
    return {}


@Decoder.register(KeyGraphThreshold)
def _decode_threshold(values: dict[str, Any]) -> KeyGraphThreshold:
    return KeyGraphThreshold()


@Encoder.register(KeyGraphResult)
def _encode_result(result: KeyGraphResult) -> dict[str, Any]:
    return {**result.metric_values(), "thresholds": result.thresholds}


@Decoder.register(KeyGraphResult)
def _decode_result(values: dict[str, Any]) -> KeyGraphResult:
    return KeyGraphResult(**{name: values[name] for name in (*KeyGraphResult.metric_fields(), "thresholds")})
