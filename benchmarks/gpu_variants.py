"""Time every kernel variant that fits, by Triton and by the C library, and the launches of the fastest by every host.

Medians of CUDA events with a head start, so that no gap between launches counts; several inputs, together larger than
the L2 cache, taken in turn. Every variant's result is checked against float64. A wrong result is an error; a variant
for which the GPU has too little shared memory is not. The host's cost of a launch is measured separately, on a tiny
problem.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from gpu_lost import is_lost
from gpu_script import Report, gpus, options, reason, require_gpu
from keygraph.bench.operators import OUR_LINKS, OUR_TOLERANCE
from keygraph.bench.problem import Inputs, Problem, random_inputs
from keygraph.bench.reference import attention_error, graph_agreement
from keygraph.bench.roofline import attention_roofline, graph_roofline
from keygraph.bench.timing import gpu_medians, input_sets
from keygraph.plugins.torch import key_graph, key_graph_attention, pack_graph, top_k_graph, unpack_graph
from keygraph.plugins.triton import jit
from keygraph.plugins.triton.variants import Variant
from torch import Tensor

#: Launches of the host's cost, and in one CUDA graph.
_HOST_LAUNCHES, _CAPTURED = 200, 8
#: Nodes of the problem on which the host's cost is measured.
_SMALL = 32
#: How often another process may continue: each costs seconds.
_MOST_LOST = 4
#: The name that stands for timing, if the GPU was lost there and not by one variant.
_TIMING = "timing"


class LostGpu(Exception):
    """Raised when the GPU is unusable for this process, since it ran the variant `name`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}; the GPU is lost to this process")
        self.name = name


@dataclass(frozen=True)
class Case:
    """A problem of one operator."""

    op: str
    problem: Problem
    heads_last: bool = False

    def __str__(self) -> str:
        p = self.problem
        if self.op == "KeyGraph":
            return f"N {p.nodes}, C {p.graph_channels}, k {p.k}"
        if self.of_scores:
            return f"N {p.nodes}, k {p.k}"
        return f"N {p.nodes}, D {p.channels}, heads {'last' if self.heads_last else 'first'}"

    @property
    def sizes(self) -> jit.Sizes:
        """The sizes, as the kernels' launcher takes them."""
        p = self.problem
        if self.op == "KeyGraph":
            return jit.Sizes(p.windows, 1, p.nodes, p.nodes, p.graph_channels)
        if self.of_scores:
            return jit.Sizes(p.windows, 1, p.nodes, p.nodes, p.nodes)
        return jit.Sizes(p.windows, 1, p.nodes, p.nodes, p.channels, p.heads, p.channels)

    def fitting(self, place: torch.device) -> tuple[Variant, ...]:
        """Return the variants that can compute it on this GPU."""
        dtype = getattr(torch, self.problem.dtype)
        return jit.fitting(self.op, dtype, self.sizes, self.op == "PackGraph", jit.capability(place))

    @property
    def of_scores(self) -> bool:
        """Whether the operator reads scores [windows, 1, N, N]: PackGraph, with a threshold, and TopKGraph."""
        return self.op in ("PackGraph", "TopKGraph")


#: (windows, N, k) of the attention, and its D; (windows, N, C, k) of the graph.
ATTENTION = ((64, 1024, 256), (256, 256, 64))
CHANNELS = (30, 32, 24)
GRAPHS = ((64, 1024, 180, 128), (64, 1024, 180, 256), (64, 1024, 180, 512), (256, 256, 180, 64), (256, 256, 48, 128))
#: (windows, N, k) of scores.
SCORES = ((16, 1024, 256), (256, 256, 64))


def cases(dtype: str, tiny: bool = False) -> Iterator[Case]:
    """Yield the cases to measure."""
    for windows, nodes, k in ((1, 4, 2),) if tiny else ATTENTION:
        for channels in CHANNELS[1:2] if tiny else CHANNELS:
            for heads_last in (False, True):
                heads = 1 if tiny else 6
                problem = Problem(windows, heads, nodes, channels, k, dtype, heads * channels)
                yield Case("KeyGraphAttention", problem, heads_last)
    for windows, nodes, channels, k in ((1, 4, 24, 2),) if tiny else GRAPHS:
        yield Case("KeyGraph", Problem(windows, 1, nodes, channels, k, dtype, channels))
    for op in ("PackGraph", "TopKGraph"):
        for windows, nodes, k in ((1, 4, 2),) if tiny else SCORES:
            yield Case(op, Problem(windows, 1, nodes, 32, k, dtype, 32))


@dataclass
class Tensors:
    """A case's tensors: `inputs` with the heads first, for float64; q, k, v as the kernels get them."""

    inputs: Inputs
    q: Tensor
    k: Tensor
    v: Tensor
    keep: Tensor
    heads_last: bool
    scores: Tensor | None = None
    threshold: Tensor | None = None


def tensors(case: Case, place: torch.device, seed: int = 0) -> Tensors:
    """Return a case's random tensors.

    Parameters
    ----------
    case
        The case.
    place
        The GPU.
    seed
        Of the random numbers.
    """
    inputs = random_inputs(case.problem, place, seed)
    q, k, v = (t.transpose(1, 2).contiguous() if case.heads_last else t for t in (inputs.q, inputs.k, inputs.v))
    made = Tensors(inputs, q, k, v, torch.tensor([inputs.neighbours], device=place), case.heads_last)
    if case.of_scores:
        made.scores = (inputs.nodes.float() @ inputs.nodes.float().mT).to(inputs.nodes.dtype)
        made.threshold = made.scores.float().topk(case.problem.k).values[..., -1:].to(made.scores.dtype).contiguous()
    return made


def just_in_time(case: Case, variant: Variant, given: Tensors) -> Callable[[], Tensor]:
    """Return the call of a variant that Triton compiles.

    Parameters
    ----------
    case
        The case.
    variant
        One that fits.
    given
        The tensors.
    """
    i = given.inputs
    if case.op == "KeyGraph":
        return lambda: jit.key_graph(i.nodes, i.nodes, given.keep, variant)
    if given.scores is not None:
        scores, threshold = given.scores, given.threshold
        if case.op == "PackGraph":
            return lambda: jit.pack_graph(scores, threshold, variant)
        return lambda: jit.top_k_graph(scores, given.keep, variant)
    return lambda: jit.key_graph_attention(given.q, given.k, given.v, i.graph, None, i.scale, case.heads_last, variant)


def ahead_of_time(case: Case, variant: Variant, given: Tensors) -> Callable[[], Tensor]:
    """Return the call of a variant in the C library.

    Parameters
    ----------
    case
        The case.
    variant
        One that fits.
    given
        The tensors.
    """
    from cuda_host import prepared_attention, prepared_graph, prepared_pack, prepared_top_k

    i = given.inputs
    call: Callable[[], Tensor]
    if case.op == "KeyGraph":
        call = prepared_graph(i.nodes, i.nodes, given.keep, torch.empty_like(i.graph), variant.number)
    elif given.scores is not None:
        graph = torch.empty_like(i.graph)
        if case.op == "PackGraph":
            call = prepared_pack(given.scores, given.threshold, graph, variant.number)
        else:
            call = prepared_top_k(given.scores, given.keep, graph, variant.number)
    else:
        output = torch.empty_like(given.q)
        call = prepared_attention(
            given.q, given.k, given.v, i.graph, None, i.scale, output, case.heads_last, variant.number
        )
    return call


HOSTS = {"just in time": just_in_time, "C library": ahead_of_time}


def wrong(case: Case, given: Tensors, result: Tensor) -> str | None:
    """Return what is wrong with a result; None if nothing.

    Parameters
    ----------
    case
        The case.
    given
        The tensors.
    result
        Of a variant.
    """
    if case.op == "KeyGraph":
        selected = unpack_graph(result, case.problem.nodes)
        if not bool((selected.sum(-1) == case.problem.k).all()):
            return f"rows without exactly {case.problem.k} links"
        share = graph_agreement(given.inputs, selected)
        return None if share >= OUR_LINKS else f"{share:.2%} of its links are float64's"
    if given.scores is not None and given.threshold is not None:
        selected = unpack_graph(result, case.problem.nodes)
        above = given.scores > given.threshold
        tied = given.scores == given.threshold
        if case.op == "TopKGraph":  # The first ones of those that tie.
            tied &= tied.cumsum(-1) <= case.problem.k - above.sum(-1, keepdim=True)
        differ = int((selected != (above | tied)).sum())
        return f"{differ} other links" if differ else None
    error = attention_error(given.inputs, result.transpose(1, 2) if case.heads_last else result)
    return None if error <= OUR_TOLERANCE[case.problem.dtype] else f"error {error:.2g}"


def measured(
    case: Case, place: torch.device, rounds: int, report: Report, without: Collection[str] = ()
) -> dict[str, Any]:
    """Time every variant by every host; return ``{"milliseconds": {host: {variant: ms}}, "failures"}``.

    Parameters
    ----------
    case
        The case.
    place
        The GPU.
    rounds
        Number of measurements.
    report
        Takes the errors.
    without
        Names to leave out: those at which the GPU was lost before.

    Raises
    ------
    LostGpu
        A variant made the GPU unusable for this process.
    """
    sets = input_sets(case.problem.attention_bytes, place)
    given = [tensors(case, place, seed) for seed in range(sets)]
    calls: dict[str, Sequence[Callable[[], Tensor]]] = {}
    failures = {}
    for host, prepare in HOSTS.items():
        for variant in case.fitting(place):
            name = f"{host}: {variant.name}"
            if name in without:
                failures[name] = "the GPU is lost"
                continue
            report.values["running"] = f"{case.op}, {case}: {name}"
            report.write()  # Names the kernel if it hangs.
            try:
                prepared = [prepare(case, variant, each) for each in given]
                problem = wrong(case, given[0], prepared[0]())
            except triton.runtime.errors.OutOfResources as error:
                failures[name] = reason(error)
                continue
            except Exception as error:  # One variant's failure must not lose the others' numbers.
                problem = reason(error)
                if is_lost():
                    raise LostGpu(name, problem) from error
            if problem is None:
                calls[name] = prepared
            else:
                failures[name] = problem
                report.errors.append(f"{case}: {name}: {problem}")
    try:
        times = {} if _TIMING in without else gpu_medians(calls, rounds)
    except RuntimeError as error:
        raise LostGpu(_TIMING, reason(error)) from error
    by_host = {
        host: {name.removeprefix(f"{host}: "): ms for name, ms in times.items() if name.startswith(host)}
        for host in HOSTS
    }
    return {"milliseconds": by_host, "failures": failures}


def replayed(calls: Sequence[Callable[[], Any]], rounds: int) -> float:
    """Return the milliseconds of one launch among several in a CUDA graph."""
    calls[0]()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        for place in range(_CAPTURED):
            calls[place % len(calls)]()
    return gpu_medians({"replay": [captured.replay]}, rounds)["replay"] / _CAPTURED


def host_microseconds(call: Callable[[], Any], number: int) -> float:
    """Return what one of `number` launches costs the host, where the GPU is never what is waited for."""
    call()
    best = float("inf")
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(number):
            call()
        best = min(best, time.perf_counter() - start)
    torch.cuda.synchronize()
    return best / number * 1e6


def launches(case: Case, place: torch.device, variant: Variant, rounds: int) -> dict[str, dict[str, float]]:
    """Return host -> milliseconds on the GPU by events and in a CUDA graph, and microseconds of the host.

    Parameters
    ----------
    case
        The case.
    place
        The GPU.
    variant
        The fastest.
    rounds
        Number of measurements.
    """
    number = 1 if case.problem.nodes < _SMALL else _HOST_LAUNCHES  # a case of --tiny
    small = replace(case, problem=replace(case.problem, windows=1, nodes=min(_SMALL, case.problem.nodes), k=2))
    found = {}
    everyone = {**HOSTS, "PyTorch operator": _operator}
    for host, prepare in everyone.items():
        given = [tensors(case, place, seed) for seed in range(2)]
        calls = [prepare(case, variant, each) for each in given]
        for call in calls:
            call()  # Compiles it, or chooses a variant.
        tiny = prepare(small, _fits(variant, small, place), tensors(small, place))
        found[host] = {
            "events": gpu_medians({host: calls}, rounds)[host],
            "graph": replayed(calls, rounds),
            "host": host_microseconds(tiny, number),
        }
    return found


def _fits(variant: Variant, case: Case, place: torch.device) -> Variant:
    fitting = case.fitting(place)
    return variant if variant in fitting else fitting[0]


def _operator(case: Case, _variant: Variant, given: Tensors) -> Callable[[], Tensor]:
    """Return the call of `keygraph.plugins.torch`, with its own choice of variant."""
    i = given.inputs
    if case.op == "KeyGraph":
        return lambda: key_graph(i.nodes, i.nodes, given.keep)
    if given.scores is not None:
        scores, threshold = given.scores, given.threshold
        if case.op == "PackGraph":
            return lambda: pack_graph(scores, threshold)
        return lambda: top_k_graph(scores, given.keep)
    if not case.heads_last:
        return lambda: key_graph_attention(i.q, i.k, i.v, i.graph)
    q, k, v = (t.flatten(2) for t in (given.q, given.k, given.v))
    return lambda: key_graph_attention(q, k, v, i.graph, heads=case.problem.heads)


def show(report: Report, op: str, results: dict[Case, dict[str, Any]], ceilings: Any) -> None:
    """Add the tables of one operator to the report: variants by cases, the fastest in bold, and the roofline.

    Parameters
    ----------
    report
        Takes the tables.
    op
        The operator.
    results
        Case -> what `measured` returned.
    ceilings
        File with the measured peak rates, or None.
    """
    results = {case: found for case, found in results.items() if case.op == op}
    figures = gpus(ceilings)
    roofline = {"KeyGraphAttention": attention_roofline, "KeyGraph": graph_roofline}.get(op)
    for host in HOSTS:
        columns = {case: found["milliseconds"][host] for case, found in results.items()}
        names = list(dict.fromkeys(name for column in columns.values() for name in column))
        best = {case: min(column.values(), default=float("nan")) for case, column in columns.items()}
        rows = []
        for name in names:
            cells = [_cell(column.get(name), best[case]) for case, column in columns.items()]
            rows.append([name, *cells])
        for of, gpu in figures.items():
            if roofline is None:
                break
            shares = [f"{roofline(case.problem, gpu).milliseconds / ms:.0%}" for case, ms in best.items()]
            rows.append([f"roofline ({of}) over the fastest", *shares])
        report.table(f"{op}, {host}, us", ["variant", *map(str, columns)], rows)


def goes_on(report: Report, case: Case, error: LostGpu) -> int:
    """Let another process measure the rest; return its exit code.

    Parameters
    ----------
    report
        What was measured so far.
    case
        The case at which the GPU was lost.
    error
        Why.
    """
    report.values["lost"].append([f"{case.op}, {case}", error.name])
    report.errors.append(f"{case}: {error}")
    if "--json" not in sys.argv or len(report.values["lost"]) > _MOST_LOST:
        return report.finish()
    report.write()
    print(f"{case}: {error}; another process continues", flush=True)
    words = [word for word in sys.argv if word != "--go-on"]
    return subprocess.run([sys.executable, *words, "--go-on"], check=False).returncode


def _cell(ms: float | None, best: float) -> str:
    if ms is None:
        return "-"
    return f"**{ms * 1e3:.1f}**" if ms == best else f"{ms * 1e3:.1f}"


def main() -> int:
    """Run the step from the command line; return its exit code."""
    parser = options(__doc__, rounds=6)
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--go-on", action="store_true", help="after a process that lost the GPU, with its --json")
    arguments = parser.parse_args()
    place = require_gpu()
    report = Report(arguments)
    report.values |= {"dtype": arguments.dtype, "cases": [], "lost": []}
    if arguments.go_on:
        before = json.loads(arguments.json.read_text())
        report.values |= {name: before[name] for name in ("cases", "lost", "tables")}
        report.errors += before["errors"]
    done = list(report.values["cases"])
    results: dict[Case, dict[str, Any]] = {}
    for number, case in enumerate(cases(arguments.dtype, arguments.tiny)):
        if number < len(done):
            results[case] = done[number]
            continue
        without = [name for of, name in report.values["lost"] if of == f"{case.op}, {case}"]
        try:
            results[case] = measured(case, place, arguments.rounds, report, without)
        except LostGpu as error:
            return goes_on(report, case, error)
        report.values["cases"].append(
            {"op": case.op, "problem": vars(case.problem), "heads_last": case.heads_last, **results[case]}
        )
        show(report, case.op, results, arguments.ceilings)
        print(case.op, case, {host: len(ms) for host, ms in results[case]["milliseconds"].items()}, flush=True)
        torch.cuda.empty_cache()
    report.values["launches"] = by_host = {}
    rows = []
    for case in (case for case in results if case.problem.nodes != 1024):
        times = results[case]["milliseconds"]["just in time"]
        if not times:
            continue
        fastest = next(v for v in case.fitting(place) if v.name == min(times, key=times.__getitem__))
        by_host[f"{case.op}, {case}"] = found = launches(case, place, fastest, arguments.rounds)
        for host, one in found.items():
            cells = [f"{one['events'] * 1e3:.1f}", f"{one['graph'] * 1e3:.1f}", f"{one['host']:.1f}"]
            rows.append([f"{case.op}, {case}", fastest.name, host, *cells])
        header = ["case", "variant", "by", "events, us", "in a CUDA graph, us", "the host's part, us"]
        report.table("launches", header, rows)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
