"""Whole models on this machine, side by side: latency, throughput, what the host adds, memory, and the same numbers."""

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

from .. import load
from ..errors import InputError, KeygraphError
from ..files import CHECKPOINT_SUFFIXES
from ..instrumentation.synthetic import test_inputs, test_scene
from ..manifest import Manifest
from ..runtime.backends.base import Inputs, Session, StreamingSession, resolve_k, run_batches
from ..runtime.device.cuda_driver import used_memory
from ..runtime.device.spec import Device, parse_device
from ..runtime.restorer import Restorer
from ..runtime.tiling.tile_size import choose
from .timing import cpu_times

T = TypeVar("T")

#: A stream of batches lasts about so many seconds, within these limits of batches.
_STREAM_SECONDS, _STREAM_LEAST, _STREAM_MOST = 1.0, 2, 64
#: The photo that shows what the host adds makes so many batches.
_PHOTO_BATCHES = 3


@dataclass(frozen=True)
class Way:
    """One way to run a network, in words that another process understands too.

    Attributes
    ----------
    name
        For tables.
    model
        An exported file, an engine, or a checkpoint.
    device
        As `load` takes it; an engine runs on a GPU whatever this says.
    provider, library, threads
        As `load` takes them.
    compiled
        For checkpoints: through ``torch.compile``.
    """

    name: str
    model: str
    device: str | None = None
    provider: str | None = None
    library: str | None = "auto"
    threads: int | None = None
    compiled: bool = False

    def open(self) -> Session:
        """Make it ready to run; raises as `load` does."""
        session = load(
            self.model,
            device=self.device,
            provider=self.provider,
            library=self.library,
            threads=self.threads,
            notice=_silent,
        ).session
        if not self.compiled:
            return session
        from ..runtime.backends.pytorch import TorchSession

        assert isinstance(session, TorchSession)
        return session.compiled()


@dataclass(frozen=True)
class Measurement:
    """One way with one batch.

    Attributes
    ----------
    way, batch
        What was measured.
    milliseconds
        Of one batch, from the host's memory to the host's memory; the median.
    tiles_per_second, megapixels_per_second
        Of many batches one after the other, in pixels of the tiles.
    overhead
        Time of a whole restoration over the sum of its session runs, less 1: what cutting, converting and joining add.
        A session that overlaps its copies may get below 0.
    psnr
        Against the first way, dB; None for that one itself, infinity for equal results.
    """

    way: str
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
        With which every way ran.
    descriptions
        Way -> what really ran.
    measurements
        By batch, then by way.
    memory
        Way -> (MiB of a process that does only this, MiB on the GPU or None), with the largest batch.
    failures
        Way -> why it is missing.
    """

    tile: int
    k: int | None
    descriptions: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    memory: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def ways(
    models: Sequence[str],
    against: str | None,
    device: str | None,
    provider: str | None = None,
    threads: int | None = None,
) -> list[Way]:
    """Name the ways to run these files, PyTorch's first.

    An ONNX file runs with our operators and with its own functions, a checkpoint as it is and compiled.

    Raises
    ------
    InputError
        A file is no model by its name.
    """
    found = []
    if against is not None:
        found += [
            Way("PyTorch", against, device, threads=threads),
            Way("torch.compile", against, device, threads=threads, compiled=True),
        ]
    for model in models:
        path = Path(model)
        several = f" {path.name}" if len(models) > 1 else ""
        if path.suffix.lower() == ".onnx":
            title = "ONNX Runtime" + ("" if provider is None else f" {provider}")
            found += [
                Way(f"{title}, our operators{several}", model, device, provider, "auto", threads),
                Way(f"{title}, functions{several}", model, device, provider, None, threads),
            ]
        elif path.suffix.lower() == ".plan":
            found.append(Way(f"engine{several}", model, None if device == "cpu" else device))
        elif path.suffix.lower() in CHECKPOINT_SUFFIXES:
            found.append(Way(f"PyTorch {path.name}", model, device, threads=threads))
        else:
            suffixes = ", ".join((".onnx", ".plan", *CHECKPOINT_SUFFIXES))
            raise InputError(f"{model!r} cannot be measured; give files that end with {suffixes}, or operators")
    return found


def measure(
    contenders: Sequence[Way],
    *,
    tile: int | None = None,
    batches: Sequence[int] = (1, 4),
    k: int | None = None,
    rounds: int = 7,
    memory: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Measure every way with every batch.

    A way that does not open or run is a failure in the report, and does not keep the others from being measured.

    Parameters
    ----------
    contenders
        The first that opens is what the others' results are compared with.
    tile
        Side of the tiles; None for the first way's default.
    batches
        Tiles that run together, each at least 1.
    k
        Neighbours of each node; None for the first way's default.
    rounds
        Of measurements, at least 1; the medians count.
    memory
        Whether to measure memory, in a process of its own for every way.
    say
        Takes what is under way.

    Raises
    ------
    InputError
        No way opens, the tile or k is not possible for the first that does, or the files are not forms of one network.
    """
    sessions: dict[str, Session] = {}
    failures: dict[str, str] = {}
    for way in contenders:
        say(f"opening {way.name}")
        session = _attempt(failures, way.name, way.open)
        if session is not None:
            sessions[way.name] = session
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
        for way in contenders:
            if way.name in sessions and way.name not in failures:
                say(f"memory of {way.name}")
                used = _attempt(failures, way.name, partial(_apart, (way, side, max(batches), number)))
                if used is not None:
                    report.memory[way.name] = used
    return report


def _measure_batch(
    report: Report, sessions: dict[str, Session], batch: int, rounds: int, say: Callable[[str], None]
) -> None:
    """Measure every way that still runs with one batch."""
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
                way=name,
                batch=batch,
                milliseconds=times[name],
                tiles_per_second=tiles,
                megapixels_per_second=tiles * report.tile**2 / 1e6,
                overhead=host_overhead(session, report.tile, batch, k),
                psnr=_psnr(results, name, session.manifest),
            )
        )


def _prepared(session: Session, report: Report, batch: int) -> Callable[[], NDArray[np.float32]]:
    """Run once, since the first run of a shape prepares for it; return the call that runs again."""
    k = resolve_k(session.manifest, report.k)
    choose(session.manifest, 10**4, 10**4, tile=report.tile, batch=batch)  # Refuses what the model does not take.
    images, *extras = test_inputs(session.manifest, (batch, report.tile, report.tile))
    session.run(images, k, *extras)
    return partial(session.run, images, k, *extras)


def host_overhead(session: Session, tile: int, batch: int, k: int | None) -> float:
    """Restore a photo of a few batches; return its time over the sum of the session's runs, less 1."""
    manifest = session.manifest
    photo, inputs = test_scene(manifest, tile, tile * batch * _PHOTO_BATCHES)
    inputs = inputs | {name: _eight_bits(inputs[name]) for name in manifest.views[1:]}
    image = _eight_bits(photo)
    timed = Timed(session)
    began = time.perf_counter()
    Restorer(timed).restore(image, k, inputs=inputs, tile=tile, overlap=0, batch=batch)
    total = time.perf_counter() - began
    if isinstance(session, StreamingSession):  # `Timed` ran it batch by batch.
        began = time.perf_counter()
        Restorer(session).restore(image, k, inputs=inputs, tile=tile, overlap=0, batch=batch)
        total = time.perf_counter() - began
    return total / timed.seconds - 1


def _eight_bits(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(picture * 255).astype(np.uint8)


class Timed:
    """A session that adds up how long its runs take, in `seconds`, and never overlaps them."""

    def __init__(self, session: Session) -> None:
        self._session, self.seconds = session, 0.0
        self.manifest, self.description = session.manifest, session.description

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Session.run`."""
        began = time.perf_counter()
        restored = self._session.run(images, k, *extras)
        self.seconds += time.perf_counter() - began
        return restored


def _throughput(session: Session, batch: int, tile: int, k: int | None, seconds: float) -> float:
    """Tiles a second in a stream of batches, each of which takes about so many seconds alone."""
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
    """A result against the first one's, in dB."""
    first = next(iter(results))
    if name == first:
        return None
    low, high = manifest.value_range
    error = float(np.mean((results[name].astype(np.float64) - results[first]) ** 2))
    return 10 * math.log10((high - low) ** 2 / error) if error else math.inf


def _attempt(failures: dict[str, str], name: str, work: Callable[[], T]) -> T | None:
    """Do something for one way; what goes wrong is its failure, and None is returned."""
    try:
        return work()
    except Exception as error:  # Of PyTorch, its compiler, an engine: whatever it is, the others are measured.
        failures[name] = " ".join(str(error).split())[:300] or type(error).__name__
        return None


def _apart(work: tuple[Way, int, int, int | None]) -> tuple[float, float | None]:
    """Measure memory in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, work)


def _memory(way: Way, tile: int, batch: int, k: int | None) -> tuple[float, float | None]:
    """MiB that this process had at most, and MiB of the GPU's that came into use."""
    device = _gpu_of(way)
    before = 0 if device is None else used_memory(device)
    session = way.open()
    images, *extras = test_inputs(session.manifest, (batch, tile, tile))
    session.run(images, k, *extras)
    on_gpu = None if device is None else (used_memory(device) - before) / 2**20
    return _peak_memory(), on_gpu


def _peak_memory() -> float:
    """MiB that this process had at most; `getrusage` would count its parent's as well."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    raise KeygraphError("this system does not tell how much memory a process had")


def _gpu_of(way: Way) -> Device | None:
    named = parse_device(way.device or ("cuda" if way.model.endswith(".plan") or way.provider else "cpu"))
    return named if named.kind == "cuda" else None


def _silent(message: str) -> None:
    """Drop a note."""
