"""The two operators on one problem: our time, and everybody else's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import KeygraphError
from ..plugins.torch import unpack_graph
from . import onnx_runtime, ways
from .problem import Inputs, Problem, random_inputs
from .timing import cpu_times, gpu_medians, input_sets
from .ways import Call, Way

OURS = "ours"
#: Largest relative difference, norm-wise, between two ways' results; storing the weights costs low precision this much.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
#: Least share of links that two ways have in common.
_SHARED_LINKS = 0.98
#: Torch-Gather's copies at a time.
_CHUNK_BYTES = {"cpu": 1 << 30, "cuda": 4 << 30}


@dataclass
class Times:
    """Of one operator.

    Attributes
    ----------
    milliseconds
        Way -> median; ours is called "ours".
    failures
        Way -> why there is no time of it.
    """

    milliseconds: dict[str, float]
    failures: dict[str, str] = field(default_factory=dict)

    def ratio(self, *rivals: str) -> float | None:
        """The fastest of these rivals' time over ours; None where none of them ran."""
        times = [self.milliseconds[name] for name in rivals if name in self.milliseconds]
        return min(times) / self.milliseconds[OURS] if times else None

    def as_json(self) -> dict[str, Any]:
        """Everything, with each rival's ratio."""
        rivals = [name for name in self.milliseconds if name != OURS]
        return {
            "milliseconds": self.milliseconds,
            "ratios": {name: self.ratio(name) for name in rivals},
            "failures": self.failures,
        }


def measure(problem: Problem, device: torch.device, rounds: int = 20) -> dict[str, Times]:
    """Time both operators, after comparing every rival's result with ours.

    TF32 is off: float32 means float32.

    Parameters
    ----------
    problem
        The sizes.
    device
        "cuda": ours are the kernels through PyTorch. "cpu": the library in ONNX Runtime.
    rounds
        Of measurements, at least 1.

    Returns
    -------
    dict
        "KeyGraph" and "KeyGraphAttention".

    Raises
    ------
    KeygraphError
        A rival's result is not ours.
    MissingDependencyError
        The native library or a package is not installed.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    on_gpu = device.type == "cuda"
    sets = input_sets(problem.attention_bytes, device) if on_gpu else 1
    inputs = [random_inputs(problem, device, seed) for seed in range(sets)]
    host = ways if on_gpu else onnx_runtime
    rivals = ways.attention_rivals(problem.channels, _CHUNK_BYTES[device.type])
    return {
        "KeyGraph": _times(inputs, host.our_graph, ways.GRAPH_RIVALS, rounds, on_gpu, _same_links),
        "KeyGraphAttention": _times(
            inputs, host.our_attention, rivals, rounds, on_gpu, _same(_TOLERANCE[problem.dtype])
        ),
    }


Check = Callable[[str, Tensor, Tensor], None]


def _times(
    inputs: Sequence[Inputs], ours: Way, rivals: dict[str, Way], rounds: int, on_gpu: bool, check: Check
) -> Times:
    calls: dict[str, Sequence[Call]] = {OURS: [ours(each) for each in inputs]}
    expected = [call() for call in calls[OURS]]
    failures = {}
    for name, way in rivals.items():
        # Out of memory, or a size that it does not take: a rival's limits are no failure of the measurement.
        try:
            prepared = [way(each) for each in inputs]
            results = [call() for call in prepared]
        except (RuntimeError, NotImplementedError, ValueError) as error:
            failures[name] = (str(error).splitlines() or [type(error).__name__])[0]
            continue
        for mine, theirs in zip(expected, results, strict=True):
            check(name, theirs, mine)
        calls[name] = prepared
    del expected
    if on_gpu:
        return Times(gpu_medians(calls, rounds), failures)
    return Times(cpu_times({name: each[0] for name, each in calls.items()}, rounds), failures)


def _same(tolerance: float) -> Check:
    def check(name: str, result: Tensor, expected: Tensor) -> None:
        result, expected = result.double(), expected.double()
        difference = float((result - expected).norm() / expected.norm())
        if not difference <= tolerance:
            raise KeygraphError(f"{name} and our attention differ by {difference:.2g} of their size")

    return check


def _same_links(name: str, result: Tensor, graph: Tensor) -> None:
    """Nearly: PyTorch rounds similarities to their type before it ranks them."""
    selected = unpack_graph(graph, graph.shape[2])
    shared = selected[result] if result.dtype == torch.bool else selected.gather(-1, result)
    share = float(shared.sum() / selected.sum())
    if not share >= _SHARED_LINKS:
        raise KeygraphError(f"{name} and our graph share {share:.1%} of their links")
