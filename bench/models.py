"""Latency, throughput, host overhead, memory and accuracy of whole models, side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..instrumentation.synthetic import synthetic_inputs, synthetic_scene
from ..manifest import Manifest
from ..runtime.backends.base import Inputs, Session, StreamingSession, resolve_k, run_batches
from ..runtime.device import memory as host
from ..runtime.restorer import Restorer
from ..runtime.tiling.tile_size import choose
from .configurations import RunConfiguration
from .model_memory import MemoryNeed, measure_memory
from .timing import cpu_times

T = TypeVar("T")

#: Throughput is measured for about this many seconds, with at least and at most this many batches.
_STREAM_SECONDS, _STREAM_LEAST, _STREAM_MOST = 1.0, 2, 64
#: Batches in the image that the host overhead is measured with.
_PHOTO_BATCHES = 3


@dataclass(frozen=True)
class Measurement:
    """One configuration with one batch size.

    Attributes
    ----------
    configuration, batch
        What was measured.
    milliseconds
        Median time of one batch, from host memory to host memory.
    tiles_per_second, megapixels_per_second
        Throughput of many batches one after the other, in tiles and in pixels of the tiles.
    overhead
        Time of a whole restoration over the sum of its session runs, less 1: what cutting, converting and joining tiles
        adds. It may be below 0 for a session that overlaps transfers with computation.
    psnr
        Against the first configuration, dB; None for that one itself, infinity for equal results.
    """

    configuration: str
    batch: int
    milliseconds: float
    tiles_per_second: float
    megapixels_per_second: float
    overhead: float
    psnr: float | None


@dataclass
class Report:
    """Everything that was measured.

    Attributes
    ----------
    tile, k
        With which every configuration ran.
    descriptions
        Configuration -> the session's description of itself.
    measurements
        By batch size, then by configuration.
    memory
        Configuration -> (peak MiB of a process that does only this, MiB on the GPU or None), with the largest batch
        that was measured.
    failures
        Configuration -> what is missing of it, and why.
    """

    tile: int
    k: int | None
    descriptions: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    memory: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure(
    configurations: Sequence[RunConfiguration],
    *,
    tile: int | None = None,
    batches: Sequence[int] = (1, 4),
    k: int | None = None,
    rounds: int = 7,
    memory: bool = True,
    say: Callable[[str], None] = lambda line: None,
    started: Callable[[Report], None] = lambda report: None,
    finished: Callable[[Measurement], None] = lambda measurement: None,
) -> Report:
    """Measure every configuration with every batch size.

    A configuration that cannot be loaded or run, or whose run would not fit into memory, is listed in the report's
    failures; the others are measured all the same.

    Parameters
    ----------
    configurations
        The results of the first that loads are the reference for the others' PSNR.
    tile
        Side of the tiles in pixels; None for the first configuration's default.
    batches
        Numbers of tiles that run together, each at least 1.
    k
        Neighbours of each node; None for the first configuration's default.
    rounds
        Number of measurements, at least 1; the median counts.
    memory
        Whether to measure memory, each configuration in a process of its own.
    say
        Takes a line of progress.
    started
        Takes the report before the first measurement.
    finished
        Takes each measurement as soon as it is complete.

    Raises
    ------
    InputError
        No configuration loads, the first one does not take the tile or k, or the files are not forms of one network.
    """
    sessions: dict[str, Session] = {}
    failures: dict[str, str] = {}
    for one in configurations:
        say(f"opening {one.name}")
        session = _attempt(failures, one.name, "did not run", one.open)
        if session is not None:
            sessions[one.name] = session
    if not sessions:
        raise InputError(f"nothing can be measured: {'; '.join(f'{name} {why}' for name, why in failures.items())}")
    first = next(iter(sessions.values())).manifest
    for name, session in sessions.items():
        if (session.manifest.in_channels, session.manifest.scale) != (first.in_channels, first.scale):
            raise InputError(f"{name} is another network: {session.manifest.architecture}; give forms of one")
    side = choose(first, 10**4, 10**4, tile="auto" if tile is None else tile).tile[0]
    report = Report(side, resolve_k(first, k), failures=failures)
    report.descriptions.update({name: session.description for name, session in sessions.items()})
    started(report)
    need = MemoryNeed(report.tile, report.k, max(batches))
    for batch in batches:
        _measure_batch(
            report,
            [(one, sessions[one.name]) for one in configurations if one.name in sessions],
            batch,
            rounds,
            need,
            say,
            finished,
        )
    sessions.clear()  # Their memory is needed next.
    if memory:
        _measure_memory(report, configurations, need, say)
    return report


def _measure_batch(
    report: Report,
    sessions: Sequence[tuple[RunConfiguration, Session]],
    batch: int,
    rounds: int,
    need: MemoryNeed,
    say: Callable[[str], None],
    finished: Callable[[Measurement], None],
) -> None:
    """Measure every configuration that has not failed with one batch size."""
    results: dict[str, NDArray[np.float32]] = {}
    calls: dict[str, Callable[[], NDArray[np.float32]]] = {}
    held: dict[str, int] = {}
    trouble = f"did not run with batch {batch}"
    due = [(one, session) for one, session in sessions if one.name not in report.failures]
    for one, session in due:
        say(f"batch {batch}: {one.name}")
        before = host.resident() or 0
        call = _attempt(report.failures, one.name, trouble, partial(_prepared, one, session, report, batch, need))
        if call is not None:
            calls[one.name], results[one.name] = call, call()
            held[one.name] = max(0, (host.resident() or 0) - before)
    for one, _ in due:  # The others keep memory by now.
        if one.name in calls:
            fits = partial(need.check, one, None, batch, held[one.name])
            _attempt(report.failures, one.name, trouble, fits)
            if one.name in report.failures:
                del calls[one.name]
    say(f"batch {batch}: latency")
    times = cpu_times(calls, rounds)
    for one, session in due:
        name = one.name
        if name not in calls:
            continue
        say(f"batch {batch}: throughput of {name}")
        k = resolve_k(session.manifest, report.k)
        tiles = _throughput(session, batch, report.tile, k, times[name] / 1e3)
        measurement = Measurement(
            configuration=name,
            batch=batch,
            milliseconds=times[name],
            tiles_per_second=tiles,
            megapixels_per_second=tiles * report.tile**2 / 1e6,
            overhead=host_overhead(session, report.tile, batch, k),
            psnr=_psnr(results, name, session.manifest),
        )
        report.measurements.append(measurement)
        finished(measurement)


def _measure_memory(
    report: Report, configurations: Sequence[RunConfiguration], need: MemoryNeed, say: Callable[[str], None]
) -> None:
    """Measure the memory of every configuration with the largest batch that it was measured with."""
    for one in configurations:
        batches = [measured.batch for measured in report.measurements if measured.configuration == one.name]
        if not batches:
            continue
        say(f"memory of {one.name}")

        def work(one: RunConfiguration = one, batch: int = max(batches)) -> tuple[float, float | None]:
            need.check(one, None, batch)
            return measure_memory(one, report.tile, batch, report.k)

        used = _attempt(report.failures, one.name, "has no figure for memory", work)
        if used is not None:
            report.memory[one.name] = used


def _prepared(
    one: RunConfiguration, session: Session, report: Report, batch: int, need: MemoryNeed
) -> Callable[[], NDArray[np.float32]]:
    """Run once, because the first run of a shape prepares for it; return the call that runs again."""
    k = resolve_k(session.manifest, report.k)
    choose(session.manifest, 10**4, 10**4, tile=report.tile, batch=batch)  # Raises for a tile that it does not take.
    need.check(one, session, batch)
    images, *extras = synthetic_inputs(session.manifest, (batch, report.tile, report.tile))
    session.run(images, k, *extras)
    return partial(session.run, images, k, *extras)


def host_overhead(session: Session, tile: int, batch: int, k: int | None) -> float:
    """Return the time of restoring an image over the sum of its session runs, less 1.

    Parameters
    ----------
    session
        What runs the model.
    tile
        Side of the tiles in pixels.
    batch
        Number of tiles that run together.
    k
        Neighbours of each node; None for a model without a key graph.
    """
    manifest = session.manifest
    photo, inputs = synthetic_scene(manifest, tile, tile * batch * _PHOTO_BATCHES)
    inputs = inputs | {name: _eight_bits(inputs[name]) for name in manifest.views[1:]}
    image = _eight_bits(photo)
    timed = TimedSession(session)
    began = time.perf_counter()
    Restorer(timed).restore(image, k, inputs=inputs, tile=tile, overlap=0, batch=batch)
    total = time.perf_counter() - began
    if isinstance(session, StreamingSession):  # `TimedSession` cannot overlap its batches.
        began = time.perf_counter()
        Restorer(session).restore(image, k, inputs=inputs, tile=tile, overlap=0, batch=batch)
        total = time.perf_counter() - began
    return total / timed.seconds - 1


def _eight_bits(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(picture * 255).astype(np.uint8)


class TimedSession:
    """A session that adds up the time of its runs in `seconds`, and does not overlap them."""

    def __init__(self, session: Session) -> None:
        self._session, self.seconds = session, 0.0
        self.manifest, self.description = session.manifest, session.description

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch, as `Session.run`."""
        began = time.perf_counter()
        restored = self._session.run(images, k, *extras)
        self.seconds += time.perf_counter() - began
        return restored


def _throughput(session: Session, batch: int, tile: int, k: int | None, seconds: float) -> float:
    """Return tiles per second in a stream of batches, of which one alone takes about `seconds`."""
    inputs = synthetic_inputs(session.manifest, (batch, tile, tile))
    count = min(max(round(_STREAM_SECONDS / seconds), _STREAM_LEAST), _STREAM_MOST)

    def stream() -> Iterator[Inputs]:
        for _ in range(count):
            yield inputs

    began = time.perf_counter()
    for _ in run_batches(session, stream(), k):
        pass
    return count * batch / (time.perf_counter() - began)


def _psnr(results: dict[str, NDArray[np.float32]], name: str, manifest: Manifest) -> float | None:
    """Return a result's PSNR against the first one, in dB."""
    first = next(iter(results))
    if name == first:
        return None
    low, high = manifest.value_range
    error = float(np.mean((results[name].astype(np.float64) - results[first]) ** 2))
    return 10 * math.log10((high - low) ** 2 / error) if error else math.inf


def _attempt(failures: dict[str, str], name: str, trouble: str, work: Callable[[], T]) -> T | None:
    """Do some work for one configuration; if it raises, record the trouble with the reason, and return None."""
    try:
        return work()
    except Exception as error:  # PyTorch, its compiler, an engine: whatever it raises, the others are measured.
        failures[name] = f"{trouble}: {' '.join(str(error).split())[:300] or type(error).__name__}"
        return None
