"""Times that can be compared on a machine under changing load: calls interleaved in one process, and medians."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: A call that takes this much longer than the fastest runs in `_SLOW_ROUNDS` rounds only.
_SLOW_MS = 200.0
_SLOW_ROUNDS = 3
#: Clock cycles that the GPU is kept busy while launches are queued, so that it never waits for the host between them.
_HEAD_START = 20_000_000


def cpu_times(calls: dict[str, Callable[[], Any]], rounds: int, alone: bool = False) -> dict[str, float]:
    """Return the median milliseconds of each call on the CPU.

    Every round runs each call once, in a new random order, after a pause in which the previous call's threads stop
    spinning. A call that takes over 200 ms more than the fastest runs in three rounds only.

    Parameters
    ----------
    calls
        Name -> what to measure.
    rounds
        Number of measurements of each, at least 1.
    alone
        Return the least CPU time of this thread instead, for calls that run in one thread.
    """
    clock = time.thread_time if alone else time.perf_counter

    def once(name: str) -> list[float]:
        time.sleep(0.005)
        start = clock()
        calls[name]()
        return [(clock() - start) * 1e3]

    return _interleaved(calls, rounds, once, min if alone else statistics.median)


def gpu_medians(calls: dict[str, Sequence[Callable[[], Any]]], rounds: int, launches: int = 4) -> dict[str, float]:
    """Return the median milliseconds of each computation on the current GPU, by events on its stream.

    Parameters
    ----------
    calls
        Name -> the same computation on several inputs, which are taken in turn. Together they should be larger than the
        L2 cache, so that it is as cold as in a network.
    rounds
        As for `cpu_times`.
    launches
        Minimum number of launches of each in one round.
    """
    import torch

    event = partial(torch.cuda.Event, enable_timing=True)

    def once(name: str) -> list[float]:
        number = max(launches, len(calls[name]))
        events = [(event(), event()) for _ in range(number)]
        torch.cuda._sleep(_HEAD_START)
        for (start, end), call in zip(events, itertools.cycle(calls[name]), strict=False):
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    return _interleaved(calls, rounds, once, statistics.median)


def input_sets(problem_bytes: int, device: torch.device) -> int:
    """Return how many sets of inputs of this size are twice as large as the GPU's L2 cache, at least two."""
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
