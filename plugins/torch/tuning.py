"""Which variant of a kernel is fastest here: measured once per kind of problem, remembered in memory and on disk."""

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

#: Starts a variant on a problem's tensors.
Launch = Callable[[Variant], Any]

_ROUNDS = 5
_LAUNCHES_PER_ROUND = 4
#: What takes so many times longer than the fastest runs in no further round.
_HOPELESS = 2.0
#: Clock cycles, some 0.5 ms, that the GPU is kept busy beforehand for every launch, so that all of a round are queued
#: when the first one begins: no gap between them is Python's, which takes a fifth of that.
_HEAD_START = 1_000_000

#: Device's `_machine` -> problem's `kind` -> number of the fastest variant; what is on disk, once it has been read.
_choices: dict[str, dict[str, int]] = {}


@dataclass(frozen=True)
class Problem:
    """What a choice is made for.

    Attributes
    ----------
    op, dtype, sizes, bias
        As in `jit.fitting`.
    heads_last
        How q, k and v lie.
    share
        Selected nodes per node, above 0 and up to 1; the graph's own problem has none.
    """

    op: str
    dtype: torch.dtype
    sizes: Sizes
    bias: bool = False
    heads_last: bool = False
    share: float = 0.0

    @property
    def kind(self) -> str:
        """One name for what is alike: sizes up to the next power of two, but channels, which variants are made for."""
        sizes = self.sizes
        rounded = (_power_of_two(n) for n in (sizes.batch, sizes.rows, sizes.nodes))
        words = [self.op, DTYPES[self.dtype], *map(str, rounded), *map(str, (sizes.groups, sizes.heads))]
        words += [str(sizes.channels), str(sizes.value_channels)]
        if self.share:
            # Steps of 1/16: the crossover from gathering to the dense form lies somewhere among the small shares.
            words.append(f"{max(1, round(16 * self.share))}/16")
        return " ".join(words) + " bias" * self.bias + " heads-last" * self.heads_last


def choose(problem: Problem, device: torch.device, launches: Callable[[], Launch]) -> Variant | None:
    """The fastest variant for a problem; the first that fits where nothing may be measured now; None where none fits.

    Nothing is measured on the CPU, nor while a CUDA graph is captured, in which nothing may be waited for.

    Parameters
    ----------
    problem
        What is to be computed.
    device
        Where.
    launches
        Called where variants are measured; what it returns starts one of them.
    """
    candidates = fitting(problem.op, problem.dtype, problem.sizes, problem.bias, capability(device))
    if len(candidates) < 2 or device.type != "cuda":
        return candidates[0] if candidates else None
    machine, kind = _machine(device), problem.kind
    known = _known(machine)
    by_number = {variant.number: variant for variant in candidates}
    if known.get(kind) not in by_number:
        with torch.cuda.device(device):  # Events, and what is captured, belong to the current one.
            if torch.cuda.is_current_stream_capturing():
                return candidates[0]
            known[kind] = _fastest(candidates, launches()).number
        _remember(machine, known)
    return by_number[known[kind]]


def cache_file() -> Path:
    """Where choices are kept between processes; may be deleted at any time."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "keygraph" / "variants.json"


def _fastest(candidates: Sequence[Variant], launch: Launch) -> Variant:
    """Time the variants in turn on the current GPU and stream: the least median of a few rounds."""
    contenders = _working(candidates, launch)
    if len(contenders) == 1:
        return contenders[0]
    times: dict[int, list[float]] = {variant.number: [] for variant in contenders}

    def median(variant: Variant) -> float:
        return statistics.median(times[variant.number])

    for _ in range(_ROUNDS):
        for variant, milliseconds in zip(contenders, _round(contenders, launch), strict=True):
            times[variant.number].append(milliseconds)
        limit = _HOPELESS * min(map(median, contenders))
        contenders = [variant for variant in contenders if median(variant) <= limit]
        contenders = contenders[1:] + contenders[:1]  # Nobody comes first, when caches are cold, every time.
    return min(contenders, key=median)


def _working(candidates: Sequence[Variant], launch: Launch) -> list[Variant]:
    """The variants that compile and start, after they have.

    Others are left out: for want of registers or shared memory in silence, else with a warning. Where none is left, the
    first one's error is raised.
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
                f"{name} is left out, it does not start on this GPU: {type(error).__name__}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
    return working


def _failure(variant: Variant, launch: Launch) -> Exception | None:
    """Start a variant once; what of the compiler's or the driver's kept it from starting."""
    try:
        launch(variant)
    except torch.OutOfMemoryError:
        raise  # Of what every variant would need.
    except (triton.errors.TritonError, RuntimeError) as error:
        return error
    return None


def _round(variants: Sequence[Variant], launch: Launch) -> list[float]:
    """Milliseconds of a launch of each."""
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in variants]
    torch.cuda._sleep(_HEAD_START * _LAUNCHES_PER_ROUND * len(variants))
    for variant, (start, end) in zip(variants, events, strict=True):
        start.record()
        for _ in range(_LAUNCHES_PER_ROUND):
            launch(variant)
        end.record()
    events[-1][1].synchronize()
    return [start.elapsed_time(end) / _LAUNCHES_PER_ROUND for start, end in events]


@functools.cache
def _machine(device: torch.device) -> str:
    """What choices depend on beyond the problem."""
    name = torch.cuda.get_device_properties(device).name
    return f"{name}, keygraph {version()}, torch {torch.__version__}, triton {triton.__version__}"


def _known(machine: str) -> dict[str, int]:
    if machine not in _choices:
        _choices[machine] = _read().get(machine, {})
    return _choices[machine]


def _read() -> dict[str, dict[str, int]]:
    """What is on disk; nothing where the file is missing or damaged, which costs a measurement and no more."""
    try:
        content = json.loads(cache_file().read_text())
        return {
            str(machine): {str(kind): int(number) for kind, number in kinds.items()}
            for machine, kinds in content.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(machine: str, known: dict[str, int]) -> None:
    """Add to the file, as other processes do; without a place to write the choices live in memory only."""
    content = _read()
    content[machine] = {**content.get(machine, {}), **known}
    with suppress(OSError, InputError):
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cache_file()) as temporary:
            temporary.write_text(json.dumps(content, indent=1))


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
