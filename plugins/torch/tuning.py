"""Autotuning: the fastest variant of a kernel, measured once per kind of problem, cached in memory and on disk."""

from __future__ import annotations

import functools
import json
import os
import statistics
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from ...errors import InputError
from ...files import atomic_path
from ...version import version
from ..triton.jit import DTYPES, Sizes, capability, fitting
from ..triton.variants import Variant

#: Launches a variant on a problem's tensors.
Launch = Callable[[Variant], Any]

_ROUNDS = 5
_LAUNCHES_PER_ROUND = 4
#: A variant that is slower than the fastest by this factor is not measured in the remaining rounds.
_DROP_FACTOR = 2.0
#: Clock cycles, about 0.5 ms, that the GPU is kept busy before a round, per launch, so that all launches are queued
#: when the first one starts and the times hold no gaps from Python, which needs a fifth of that per launch.
_DELAY_CYCLES = 1_000_000

#: `_machine` of a device -> `kind` of a problem -> number of the fastest variant; the file's content, once read.
_choices: dict[str, dict[str, int]] = {}


@dataclass(frozen=True)
class Problem:
    """A problem to choose a variant for.

    Attributes
    ----------
    op, dtype, sizes, bias
        As in `jit.fitting`.
    heads_last
        Whether q, k and v are [B, N, H, D].
    share
        Share of the nodes that a row selects, above 0 and up to 1; 0 for KeyGraph.
    """

    op: str
    dtype: torch.dtype
    sizes: Sizes
    bias: bool = False
    heads_last: bool = False
    share: float = 0.0

    @property
    def kind(self) -> str:
        """Cache key: sizes rounded up to a power of two, except channels, which variants are specialized for."""
        sizes = self.sizes
        rounded = (_power_of_two(n) for n in (sizes.batch, sizes.rows, sizes.nodes))
        words = [self.op, DTYPES[self.dtype], *map(str, rounded), *map(str, (sizes.groups, sizes.heads))]
        words += [str(sizes.channels), str(sizes.value_channels)]
        if self.share:
            # Steps of 1/16: the crossover from the gather to the dense kernel lies among the small shares.
            words.append(f"{max(1, round(16 * self.share))}/16")
        return " ".join(words) + " bias" * self.bias + " heads-last" * self.heads_last


def choose(problem: Problem, device: torch.device, launches: Callable[[], Launch]) -> Variant | None:
    """Return the fastest variant for a problem, or None if none fits it.

    On the CPU and while a CUDA graph is captured nothing can be measured: then it is the first variant that fits.

    Parameters
    ----------
    problem
        What is to be computed.
    device
        Device of the tensors.
    launches
        Called only if variants are measured; returns the function that launches one.
    """
    candidates = fitting(problem.op, problem.dtype, problem.sizes, problem.bias, capability(device))
    if len(candidates) < 2 or device.type != "cuda":
        return candidates[0] if candidates else None
    machine, kind = _machine(device), problem.kind
    known = _known(machine)
    by_number = {variant.number: variant for variant in candidates}
    if known.get(kind) not in by_number:
        with torch.cuda.device(device):  # events and captures belong to the current device
            if torch.cuda.is_current_stream_capturing():
                return candidates[0]
            known[kind] = _fastest(candidates, launches()).number
        _remember(machine, known)
    return by_number[known[kind]]


def cache_file() -> Path:
    """Return the path of the cache on disk; the file may be deleted at any time."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "keygraph" / "variants.json"


def _fastest(candidates: Sequence[Variant], launch: Launch) -> Variant:
    """Time the variants in turn on the current GPU and stream, and return the one of least median."""
    contenders = _working(candidates, launch)
    if len(contenders) == 1:
        return contenders[0]
    times: dict[int, list[float]] = {variant.number: [] for variant in contenders}

    def median(variant: Variant) -> float:
        return statistics.median(times[variant.number])

    for _ in range(_ROUNDS):
        for variant, milliseconds in zip(contenders, _round(contenders, launch), strict=True):
            times[variant.number].append(milliseconds)
        limit = _DROP_FACTOR * min(map(median, contenders))
        contenders = [variant for variant in contenders if median(variant) <= limit]
        contenders = contenders[1:] + contenders[:1]  # each is the first, with cold caches, in one round only
    return min(contenders, key=median)


def _working(candidates: Sequence[Variant], launch: Launch) -> list[Variant]:
    """Launch each variant once and return those that compile and start.

    The others are left out: silently if they need too many registers or too much shared memory, else with a warning. If
    none is left, the first one's error is raised.
    """
    failures = {variant.number: _failure(variant, launch) for variant in candidates}
    working = [variant for variant in candidates if failures[variant.number] is None]
    errors = {variant.name: error for variant in candidates if (error := failures[variant.number]) is not None}
    if not working:
        raise next(iter(errors.values()))
    for name, error in errors.items():
        if not isinstance(error, triton.runtime.errors.OutOfResources):
            reason = (str(error).splitlines() or [""])[0]
            warnings.warn(
                f"{name} is left out because it does not start on this GPU: {type(error).__name__}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
    return working


def _failure(variant: Variant, launch: Launch) -> Exception | None:
    """Launch a variant once and return the compiler's or the driver's error, if any."""
    try:
        launch(variant)
    except torch.OutOfMemoryError:
        raise  # of memory that every variant needs
    except (triton.errors.TritonError, RuntimeError) as error:
        return error
    return None


def _round(variants: Sequence[Variant], launch: Launch) -> list[float]:
    """Return the milliseconds of one launch of each variant."""
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in variants]
    torch.cuda._sleep(_DELAY_CYCLES * _LAUNCHES_PER_ROUND * len(variants))
    for variant, (start, end) in zip(variants, events, strict=True):
        start.record()
        for _ in range(_LAUNCHES_PER_ROUND):
            launch(variant)
        end.record()
    events[-1][1].synchronize()
    return [start.elapsed_time(end) / _LAUNCHES_PER_ROUND for start, end in events]


@functools.cache
def _machine(device: torch.device) -> str:
    """Return the part of the cache key that does not depend on the problem: device and versions."""
    name = torch.cuda.get_device_properties(device).name
    return f"{name}, keygraph {version()}, torch {torch.__version__}, triton {triton.__version__}"


def _known(machine: str) -> dict[str, int]:
    if machine not in _choices:
        _choices[machine] = _read().get(machine, {})
    return _choices[machine]


def _read() -> dict[str, dict[str, int]]:
    """Return the content of the file; empty if it is missing or damaged, so that variants are measured again."""
    try:
        content = json.loads(cache_file().read_text())
        return {
            str(machine): {str(kind): int(number) for kind, number in kinds.items()}
            for machine, kinds in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(machine: str, known: dict[str, int]) -> None:
    """Merge choices into the file, which other processes write too; without write access keep them in memory."""
    content = _read()
    content[machine] = {**content.get(machine, {}), **known}
    with suppress(OSError, InputError):
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cache_file()) as temporary:
            temporary.write_text(json.dumps(content, indent=1))


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
