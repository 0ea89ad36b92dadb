"""Compile on all cores what the later steps run: every kernel variant that they use, and FlexAttention.

Triton and PyTorch's compiler cache what they have compiled in folders that all steps share (TRITON_CACHE_DIR,
TORCHINDUCTOR_CACHE_DIR), so that a step loads it in milliseconds instead of compiling it in seconds. A variant is
compiled once for all sizes and layouts, and not run here: after a kernel with an invalid memory access, every later
call in the process fails, and its failure could not be told from the others'.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from gpu_operators import SIZES
from gpu_script import Report, options, reason, require_gpu
from gpu_variants import Case, cases, just_in_time, tensors
from keygraph.bench import implementations
from keygraph.bench.problem import Problem, random_inputs
from keygraph.plugins.triton import jit
from keygraph.plugins.triton.variants import Variant
from torch import Tensor

#: A KGT's layers beside those of `cases`: (heads, channels of a head), heads last.
_LAYERS = ((2, 24), (16, 24))
#: Processes: each holds half a gigabyte of the GPU's memory.
_MOST_PROCESSES = 16


@dataclass(frozen=True)
class Task:
    """One variant, or FlexAttention on one problem."""

    case: Case | None = None
    variant: int = 0
    flex: Problem | None = None
    padded: bool = False

    def __str__(self) -> str:
        return f"flex on {self.flex}{', padded' * self.padded}" if self.flex else f"variant {self.variant}, {self.case}"


def tasks(place: torch.device, tiny: bool) -> Iterator[Task]:
    """Yield what has to be compiled, the slowest first."""
    if not tiny:
        for problem in {Problem(windows, 6, nodes, 30, 1, "float16") for windows, nodes, _ in SIZES}:
            for padded in (False, True):
                yield Task(flex=problem, padded=padded)
    known = set()
    for case in [*cases("float16", tiny), *(() if tiny else _others())]:
        small = replace(case, problem=replace(case.problem, windows=1))
        for variant in case.fitting(place):
            if variant.number not in known:
                known.add(variant.number)
                yield Task(small, variant.number)


def _others() -> Iterator[Case]:
    # The network's reference is in float32, by SDPA on our graph.
    yield from (case for case in cases("float32") if case.op == "KeyGraph")
    for case in cases("bfloat16"):
        if case.problem.channels == 30 or case.op == "KeyGraph":
            yield case
    for heads, channels in _LAYERS:
        yield Case("KeyGraphAttention", Problem(1, heads, 256, channels, 64, "float16"), heads_last=True)


def compile_only() -> None:
    """Make `jit` compile what it would launch, in this process."""

    def launch(variant: Variant, tensors: Sequence[Tensor], numbers: Sequence[float], count: int) -> None:
        variant.kernel.warmup(*tensors, *numbers, grid=(count,), **variant.constants, **variant.compiler_options)

    jit.launch = launch


def compiled(one: Task) -> tuple[str, float, str | None]:
    """Compile one task; return its name, the seconds, and the error or None."""
    began, error = time.monotonic(), None
    place = torch.device("cuda")
    try:
        if one.flex is not None:
            implementation = implementations.padded(implementations.flex) if one.padded else implementations.flex
            implementation(random_inputs(one.flex, place))()
        else:
            assert one.case is not None
            variant = next(v for v in one.case.fitting(place) if v.number == one.variant)
            just_in_time(one.case, variant, tensors(one.case, place))()
        torch.cuda.synchronize()
    except Exception as failure:  # A variant that does not compile is a result.
        error = reason(failure)
    return str(one), time.monotonic() - began, error


def main() -> int:
    """Run the step from the command line; return its exit code."""
    arguments = options(__doc__, rounds=1).parse_args()
    place = require_gpu()
    report = Report(arguments)
    found = list(tasks(place, arguments.tiny))
    processes = min(os.cpu_count() or 1, _MOST_PROCESSES, len(found))
    began = time.monotonic()
    done: list[tuple[str, float, str | None]] = []
    report.values |= {"tasks": len(found), "processes": processes}
    # Not forked: neither CUDA nor PyTorch's threads survive that.
    with multiprocessing.get_context("spawn").Pool(processes, compile_only) as pool:
        for result in pool.imap_unordered(compiled, found):
            done.append(result)
            name, _, error = result
            if error is not None:
                print(f"{name}: {error}", flush=True)
                # A failure of FlexAttention is no error of keygraph's.
                if not name.startswith("flex"):
                    report.errors.append(f"{name}: {error}")
            report.values |= {"done": len(done), "failures": {name: error for name, _, error in done if error}}
            report.write()
    seconds = time.monotonic() - began
    total = sum(one for _, one, _ in done)
    report.values |= {"seconds": seconds, "slowest": sorted(((s, n) for n, s, _ in done), reverse=True)[:10]}
    print(f"{len(done)} compiled in {seconds:.1f} s by {processes} processes, {total:.0f} s of theirs")
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
