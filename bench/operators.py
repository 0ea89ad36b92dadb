"""Times of both operators on one problem: keygraph's implementation and PyTorch's alternatives."""

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
from .implementations import Call, Implementation
from .problem import Inputs, Problem, random_inputs
from .reference import attention_error, graph_agreement
from .timing import cpu_times, gpu_medians, input_sets

#: Name of keygraph's own implementation.
OURS = "ours"
#: Largest relative error, norm-wise, of keygraph's attention against float64.
OUR_TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
#: The same for the alternatives, which lose accuracy by storing the weights in low precision.
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
#: Least share of links that equal float64's: keygraph's, and the alternatives', which round similarities before topk.
OUR_LINKS, _SHARED_LINKS = 0.999, 0.98
#: Device -> bytes that Torch-Gather copies at a time.
_CHUNK_BYTES = {"cpu": 1 << 30, "cuda": 4 << 30}
#: What an implementation raises when it cannot compute a problem: out of memory, or unsupported sizes.
_LIMITS = (RuntimeError, NotImplementedError, ValueError)


@dataclass
class Times:
    """Times of one operator.

    Attributes
    ----------
    milliseconds
        Implementation -> median; keygraph's own is called "ours".
    failures
        Alternative -> why it has no time: it does not run here, or its result is wrong.
    error
        What is wrong with keygraph's own result; None if nothing. Its time is listed all the same if it ran.
    """

    milliseconds: dict[str, float]
    failures: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    def ratio(self, *names: str) -> float | None:
        """Return the time of the fastest of these alternatives over ours; None if either is missing."""
        times = [self.milliseconds[name] for name in names if name in self.milliseconds]
        return min(times) / self.milliseconds[OURS] if times and OURS in self.milliseconds else None

    def as_json(self) -> dict[str, Any]:
        """Return all attributes and each alternative's ratio, as JSON has them."""
        alternatives = [name for name in self.milliseconds if name != OURS]
        return {
            "milliseconds": self.milliseconds,
            "ratios": {name: self.ratio(name) for name in alternatives},
            "failures": self.failures,
            "error": self.error,
        }


def measure(
    problem: Problem, device: torch.device, rounds: int = 20, without: Collection[str] = ()
) -> dict[str, Times]:
    """Time all implementations of both operators, after checking each result against float64. TF32 is off.

    Parameters
    ----------
    problem
        The sizes.
    device
        "cuda": keygraph's kernels run through PyTorch. "cpu": keygraph's library runs in ONNX Runtime.
    rounds
        Number of measurements, at least 1.
    without
        Families of attention alternatives (`implementations.family`) to leave out.

    Returns
    -------
    dict
        ``"KeyGraph"`` and ``"KeyGraphAttention"`` -> `Times`.

    Raises
    ------
    MissingDependencyError
        The native library or a package is not installed.
    """
    on_gpu = device.type == "cuda"
    sets = input_sets(problem.attention_bytes, device) if on_gpu else 1
    inputs = [random_inputs(problem, device, seed) for seed in range(sets)]
    host = implementations if on_gpu else onnx_runtime
    alternatives = {
        name: implementation
        for name, implementation in implementations.attention_alternatives(
            problem.channels, device.type, _CHUNK_BYTES[device.type]
        ).items()
        if implementations.family(name) not in without
    }
    graph_alternatives, wrong_attention = implementations.GRAPH_ALTERNATIVES, _wrong_attention(problem.dtype)
    with full_fp32():
        return {
            "KeyGraph": _times(inputs, host.our_graph, graph_alternatives, rounds, on_gpu, _wrong_graph),
            "KeyGraphAttention": _times(inputs, host.our_attention, alternatives, rounds, on_gpu, wrong_attention),
        }


#: (whether the result is keygraph's, inputs, result) -> what is wrong with it; None if nothing.
Check = Callable[[bool, Inputs, Tensor], "str | None"]


def _times(
    inputs: Sequence[Inputs],
    ours: Implementation,
    alternatives: dict[str, Implementation],
    rounds: int,
    on_gpu: bool,
    check: Check,
) -> Times:
    calls: dict[str, Sequence[Call]] = {}
    failures = {}
    for name, implementation in {OURS: ours, **alternatives}.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                prepared = [implementation(each) for each in inputs]
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
    """Return one line. When an SDPA backend does not support the inputs, only PyTorch's warnings say why."""
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
