"""Which variant of a kernel is fastest here: measured once per kind of problem, remembered in memory and on disk."""

from __future__ import annotations

import functools
import json
import os
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from ... import __version__
from ...errors import InputError
from ...files import atomic_path
from ..triton.jit import DTYPES, Sizes, capability, fitting
from ..triton.variants import Variant

#: Starts a variant on a problem's tensors.
Launch = Callable[[Variant], Any]

_ROUNDS = 5
_LAUNCHES_PER_ROUND = 3

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
        if torch.cuda.is_current_stream_capturing():
            return candidates[0]
        known[kind] = _fastest(candidates, launches()).number
        _remember(machine, known)
    return by_number[known[kind]]


def cache_file() -> Path:
    """Where choices are kept between processes; may be deleted at any time."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "keygraph" / "variants.json"


def _fastest(candidates: tuple[Variant, ...], launch: Launch) -> Variant:
    times = [_milliseconds(variant, launch) for variant in candidates]
    return candidates[times.index(min(times))]


def _milliseconds(variant: Variant, launch: Launch) -> float:
    """Median of a few rounds; infinite where the GPU has not the registers or the shared memory for the variant."""
    try:
        launch(variant)  # Compiles it.
    except triton.runtime.errors.OutOfResources:
        return float("inf")
    times = []
    for _ in range(_ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(_LAUNCHES_PER_ROUND):
            launch(variant)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


@functools.cache
def _machine(device: torch.device) -> str:
    """What choices depend on beyond the problem."""
    name = torch.cuda.get_device_properties(device).name
    return f"{name}, keygraph {__version__}, torch {torch.__version__}, triton {triton.__version__}"


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
