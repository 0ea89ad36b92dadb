"""The two operators on one problem: our time, and everybody else's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..plugins.torch import unpack_graph
from ..runtime.backends.full_fp32 import full_fp32
from . import implementations, onnx_runtime
from .implementations import Call, Way
from .problem import Inputs, Problem, random_inputs
from .reference import attention_error, graph_agreement
from .timing import cpu_times, gpu_medians, input_sets

OURS = "ours"
#: Largest relative difference of ours, norm-wise, from the result in float64.
OUR_TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
#: And of the rivals: storing the weights costs low precision this much.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
#: Least share of links that are float64's: of ours, and of the rivals, which round similarities before they rank them.
OUR_LINKS, _SHARED_LINKS = 0.999, 0.98
#: Torch-Gather's copies at a time.
_CHUNK_BYTES = {"cpu": 1 << 30, "cuda": 4 << 30}
#: What a way raises where it cannot compute a problem: out of memory, or sizes that it does not take.
_LIMITS = (RuntimeError, NotImplementedError, ValueError)


@dataclass
class Times:
    """Of one operator.

    Attributes
    ----------
    milliseconds
        Way -> median; ours is called "ours".
    failures
        Rival -> why there is no time of it: it does not run here, or its result is wrong.
    error
        What is wrong with ours; its time is there all the same if it ran.
    """

    milliseconds: dict[str, float]
    failures: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    def ratio(self, *rivals: str) -> float | None:
        """The fastest of these rivals' time over ours; None where none of them, or not ours, ran."""
        times = [self.milliseconds[name] for name in rivals if name in self.milliseconds]
        return min(times) / self.milliseconds[OURS] if times and OURS in self.milliseconds else None

    def as_json(self) -> dict[str, Any]:
        """Everything, with each rival's ratio."""
        rivals = [name for name in self.milliseconds if name != OURS]
        return {
            "milliseconds": self.milliseconds,
            "ratios": {name: self.ratio(name) for name in rivals},
            "failures": self.failures,
            "error": self.error,
        }


def measure(
    problem: Problem, device: torch.device, rounds: int = 20, without: Collection[str] = ()
) -> dict[str, Times]:
    """Time both operators, after comparing every result with float64's.

    TF32 is off: float32 means float32.

    Parameters
    ----------
    problem
        The sizes.
    device
        "cuda": ours are the kernels through PyTorch. "cpu": the library in ONNX Runtime.
    rounds
        Of measurements, at least 1.
    without
        Families of the attention's rivals (`ways.family`) that are left out.

    Returns
    -------
    dict
        "KeyGraph" and "KeyGraphAttention".

    Raises
    ------
    MissingDependencyError
        The native library or a package is not installed.
    """
    on_gpu = device.type == "cuda"
    sets = input_sets(problem.attention_bytes, device) if on_gpu else 1
    inputs = [random_inputs(problem, device, seed) for seed in range(sets)]
    host = implementations if on_gpu else onnx_runtime
    rivals = {
        name: way
        for name, way in implementations.attention_rivals(
            problem.channels, device.type, _CHUNK_BYTES[device.type]
        ).items()
        if implementations.family(name) not in without
    }
    with full_fp32():
        return {
            "KeyGraph": _times(inputs, host.our_graph, implementations.GRAPH_RIVALS, rounds, on_gpu, _wrong_graph),
            "KeyGraphAttention": _times(
                inputs, host.our_attention, rivals, rounds, on_gpu, _wrong_attention(problem.dtype)
            ),
        }


#: (whether it is ours, its inputs, its result) -> what is wrong, None if nothing.
Check = Callable[[bool, Inputs, Tensor], "str | None"]


def _times(
    inputs: Sequence[Inputs], ours: Way, rivals: dict[str, Way], rounds: int, on_gpu: bool, check: Check
) -> Times:
    calls: dict[str, Sequence[Call]] = {}
    failures = {}
    for name, way in {OURS: ours, **rivals}.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                prepared = [way(each) for each in inputs]
                wrong = next(
                    filter(None, (check(name == OURS, i, c()) for i, c in zip(inputs, prepared, strict=True))), None
                )
            except _LIMITS as error:
                failures[name] = _reason(error, [str(one.message) for one in said])
                continue
        if wrong is not None:
            failures[name] = wrong
        if wrong is None or name == OURS:
            calls[name] = prepared
    wrong_ours = failures.pop(OURS, None)
    if on_gpu:
        return Times(gpu_medians(calls, rounds), failures, wrong_ours)
    return Times(cpu_times({name: each[0] for name, each in calls.items()}, rounds), failures, wrong_ours)


def _reason(error: Exception, said: Sequence[str]) -> str:
    """One line: SDPA's exceptions do not say why a backend cannot, its warnings do."""
    lines = [text.splitlines()[0].split(" (Triggered internally")[0] for text in (str(error), *said) if text.strip()]
    return "; ".join(dict.fromkeys(lines)) or type(error).__name__


def _wrong_attention(dtype: str) -> Check:
    def check(ours: bool, inputs: Inputs, result: Tensor) -> str | None:
        difference = attention_error(inputs, result)
        if difference <= (OUR_TOLERANCE if ours else _TOLERANCE)[dtype]:
            return None
        return f"differs from float64 by {difference:.2g} of its size"

    return check


def _wrong_graph(ours: bool, inputs: Inputs, result: Tensor) -> str | None:
    if ours:
        selected = unpack_graph(result, inputs.nodes.shape[2])
        if not bool((selected.sum(-1) == inputs.neighbours).all()):
            return f"rows without exactly {inputs.neighbours} links"
    elif result.dtype == torch.bool:
        selected = result
    else:
        sizes = (*result.shape[:3], inputs.nodes.shape[2])
        selected = torch.zeros(sizes, dtype=torch.bool, device=result.device).scatter_(-1, result, True)
    share = graph_agreement(inputs, selected)
    return None if share >= (OUR_LINKS if ours else _SHARED_LINKS) else f"{share:.1%} of its links are float64's"
