"""Latency, throughput, host overhead, memory and accuracy of whole models, side by side."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, KeygraphError
from ..instrumentation.synthetic import test_inputs, test_scene
from ..manifest import Manifest
from ..runtime.backends.base import Inputs, Session, StreamingSession, resolve_k, run_batches
from ..runtime.device.cuda_driver import used_memory
from ..runtime.restorer import Restorer
from ..runtime.tiling.tile_size import choose
from .configurations import RunConfiguration
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
        Configuration -> (peak MiB of a process that does only this, MiB on the GPU or None), with the largest batch.
    failures
        Configuration -> why it is missing.
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
) -> Report:
    """Measure every configuration with every batch size.

    A configuration that cannot be loaded or run is listed in the report's failures; the others are measured all the
    same.

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

    Raises
    ------
    InputError
        No configuration loads, the first one does not take the tile or k, or the files are not forms of one network.
    """
    sessions: dict[str, Session] = {}
    failures: dict[str, str] = {}
    for one in configurations:
        say(f"opening {one.name}")
        session = _attempt(failures, one.name, one.open)
        if session is not None:
            sessions[one.name] = session
    if not sessions:
        raise InputError(f"nothing can be measured: {'; '.join(f'{name}: {why}' for name, why in failures.items())}")
    first = next(iter(sessions.values())).manifest
    for name, session in sessions.items():
        if (session.manifest.in_channels, session.manifest.scale) != (first.in_channels, first.scale):
            raise InputError(f"{name} is another network: {session.manifest.architecture}; give forms of one")
    side = choose(first, 10**4, 10**4, tile="auto" if tile is None else tile).tile[0]
    number = resolve_k(first, k)
    report = Report(side, number, failures=failures)
    report.descriptions.update({name: session.description for name, session in sessions.items()})
    for batch in batches:
        _measure_batch(report, sessions, batch, rounds, say)
    if memory:
        for one in configurations:
            if one.name in sessions and one.name not in failures:
                say(f"memory of {one.name}")
                used = _attempt(failures, one.name, partial(_in_own_process, (one, side, max(batches), number)))
                if used is not None:
                    report.memory[one.name] = used
    return report


def _measure_batch(
    report: Report, sessions: dict[str, Session], batch: int, rounds: int, say: Callable[[str], None]
) -> None:
    """Measure every configuration that has not failed with one batch size."""
    results: dict[str, NDArray[np.float32]] = {}
    calls: dict[str, Callable[[], NDArray[np.float32]]] = {}
    for name, session in sessions.items():
        if name in report.failures:
            continue
        say(f"batch {batch}: {name}")
        call = _attempt(report.failures, name, partial(_prepared, session, report, batch))
        if call is not None:
            calls[name], results[name] = call, call()
    say(f"batch {batch}: latency")
    times = cpu_times(calls, rounds)
    for name in results:
        say(f"batch {batch}: throughput of {name}")
        session = sessions[name]
        k = resolve_k(session.manifest, report.k)
        tiles = _throughput(session, batch, report.tile, k, times[name] / 1e3)
        report.measurements.append(
            Measurement(
                configuration=name,
                batch=batch,
                milliseconds=times[name],
                tiles_per_second=tiles,
                megapixels_per_second=tiles * report.tile**2 / 1e6,
                overhead=host_overhead(session, report.tile, batch, k),
                psnr=_psnr(results, name, session.manifest),
            )
        )


def _prepared(session: Session, report: Report, batch: int) -> Callable[[], NDArray[np.float32]]:
    """Run once, because the first run of a shape prepares for it; return the call that runs again."""
    k = resolve_k(session.manifest, report.k)
    choose(session.manifest, 10**4, 10**4, tile=report.tile, batch=batch)  # Raises for a tile that it does not take.
    images, *extras = test_inputs(session.manifest, (batch, report.tile, report.tile))
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
    photo, inputs = test_scene(manifest, tile, tile * batch * _PHOTO_BATCHES)
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
    inputs = test_inputs(session.manifest, (batch, tile, tile))
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


def _attempt(failures: dict[str, str], name: str, work: Callable[[], T]) -> T | None:
    """Do some work for one configuration; if it raises, record the failure and return None."""
    try:
        return work()
    except Exception as error:  # PyTorch, its compiler, an engine: whatever it raises, the others are measured.
        failures[name] = " ".join(str(error).split())[:300] or type(error).__name__
        return None


def _in_own_process(work: tuple[RunConfiguration, int, int, int | None]) -> tuple[float, float | None]:
    """Measure memory in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, work)


def _memory(configuration: RunConfiguration, tile: int, batch: int, k: int | None) -> tuple[float, float | None]:
    """Return the peak MiB of this process, and the MiB of the GPU that it took; None on the CPU."""
    device = configuration.gpu()
    before = 0 if device is None else used_memory(device)
    session = configuration.open()
    images, *extras = test_inputs(session.manifest, (batch, tile, tile))
    session.run(images, k, *extras)
    on_gpu = None if device is None else (used_memory(device) - before) / 2**20
    return _peak_memory(), on_gpu


def _peak_memory() -> float:
    """Return the peak resident MiB of this process; `getrusage` would count its parent's as well."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    raise KeygraphError("this system does not report the peak memory of a process")
