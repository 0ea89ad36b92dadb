"""Fair times on machines that are never quite at rest: contenders interleaved in one process, medians."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: What takes so much longer than the fastest runs in a few rounds only.
_SLOW_MS = 200.0
_SLOW_ROUNDS = 3
#: Clock cycles that a GPU is kept busy while launches are queued: then no gap between them is the host's.
_HEAD_START = 20_000_000


def cpu_times(calls: dict[str, Callable[[], Any]], rounds: int, alone: bool = False) -> dict[str, float]:
    """Milliseconds of each on the CPU: the median; `alone`, of what runs in this thread, the least processor time.

    Every round runs each once, in a new random order, with a pause before each so that the previous one's threads have
    stopped spinning. What takes over 200 ms more than the fastest runs in three rounds only.
    """
    clock = time.thread_time if alone else time.perf_counter

    def once(name: str) -> list[float]:
        time.sleep(0.005)
        start = clock()
        calls[name]()
        return [(clock() - start) * 1e3]

    return _interleaved(calls, rounds, once, min if alone else statistics.median)


def gpu_medians(calls: dict[str, Sequence[Callable[[], Any]]], rounds: int, launches: int = 4) -> dict[str, float]:
    """Median milliseconds of each on the current GPU, by events on its stream.

    Parameters
    ----------
    calls
        Name -> the same computation on several inputs, which are taken in turn: together they should be larger than the
        L2 cache, so that each finds it as cold as in a network.
    rounds
        As for `cpu_times`.
    launches
        Of each in one round, at least.
    """

    import torch

    def once(name: str) -> list[float]:
        number = max(launches, len(calls[name]))
        events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(number)]
        torch.cuda._sleep(_HEAD_START)
        for (start, end), call in zip(events, itertools.cycle(calls[name]), strict=False):
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    return _interleaved(calls, rounds, once, statistics.median)


def input_sets(problem_bytes: int, device: torch.device) -> int:
    """How many sets of inputs are twice as large as the GPU's L2 cache, and at least two."""
    import torch

    cache: int = torch.cuda.get_device_properties(device).L2_cache_size
    return max(2, -(-2 * cache // problem_bytes))


def _interleaved(
    names: Iterable[str],
    rounds: int,
    once: Callable[[str], list[float]],
    summary: Callable[[list[float]], float],
) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        fastest = min((min(values) for values in times.values() if values), default=0.0)
        due = [name for name in names if round_ < _SLOW_ROUNDS or min(times[name]) < fastest + _SLOW_MS]
        for name in random.sample(due, len(due)):
            times[name] += once(name)
    return {name: summary(values) for name, values in times.items()}
