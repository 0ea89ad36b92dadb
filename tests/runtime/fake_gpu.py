"""A fake GPU that runs operations as late and in as random an order as streams and events allow.

Missing synchronization gives wrong results here: copies access host memory when they run, not when they are submitted,
and the next operation is chosen at random among those that are ready. Every operation records its dependencies.

It may be called by several threads at a time, as CUDA may, and calls let other threads run at random. A stream that is
captured takes the work of all threads, and no synchronization with other streams.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keygraph.errors import KeygraphError
from keygraph.runtime.errors import SessionMemoryError


def _nothing() -> None:
    pass


@dataclass(eq=False)
class Work:
    """One operation of a stream."""

    name: str
    stream: int
    run: Callable[[], None]
    after: list[Work]
    done: bool = False

    def needs(self, other: Work) -> bool:
        """Whether it must start after the other has finished."""
        return any(one is other or one.needs(other) for one in self.after)


@dataclass(eq=False)
class Event:
    work: Work | None = None


@dataclass
class FakeGpu:
    """Replaces `cuda_runtime.Cuda`."""

    seed: int = 0
    capability: tuple[int, int] = (8, 9)
    memory: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)
    history: list[Work] = field(default_factory=list)
    #: The host's calls in order: names of submitted operations, and "wait NAME" for each wait.
    host: list[str] = field(default_factory=list)
    graphs: int = 0
    #: Pinned host memory that is not freed.
    pinned_blocks: list[np.ndarray[Any, Any]] = field(default_factory=list)
    #: Names of freed objects, in order.
    freed: list[str] = field(default_factory=list)
    closed: bool = False
    #: The stream that is captured, and its work.
    capturing: tuple[int, list[Callable[[], None]]] | None = None
    capturable: bool = True
    #: Whether every call that can fail fails.
    broken: bool = False
    limit: int = 1 << 40

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.RLock()
        self._last: dict[int, Work | None] = {}
        self._waiting: dict[int, list[Work]] = {}
        self._next_address = 1 << 20
        self.gpu = type("Gpu", (), {"capability": self.capability, "name": "Model 9", "target": "sm_89"})()

    def use(self) -> None:
        assert not self.closed

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        yield

    def finish(self) -> None:
        self.use()
        if self.broken:
            raise KeygraphError("the GPU failed")
        self.run_all()

    def close(self) -> None:
        self.use()
        self.free_object("streams")
        self.closed = True

    def free_object(self, name: str) -> None:
        """Record that an object was freed, and check that no operation uses it."""
        assert not self.closed
        used_by = ("graph", "compute") if name == "graph" else ("",)
        assert self.broken or all(work.done for work in self.history if work.name.startswith(used_by))
        self.freed.append(name)

    def allocate(self, size: int) -> int:
        with self._lock:
            if sum(len(block) for block in self.memory.values()) + size > self.limit:
                raise SessionMemoryError("the GPU ran out of memory")
            address, self._next_address = self._next_address, self._next_address + size + 256
            self.memory[address] = np.full(size, 0xFF, np.uint8)  # NaN as floating-point numbers
            return address

    def free(self, address: int) -> None:
        if self.broken:
            raise KeygraphError("the GPU failed")
        with self._lock:
            self.run_all()  # cudaFree synchronizes.
            del self.memory[address]
            self.free_object("memory")

    def pinned(self, size: int) -> np.ndarray[Any, Any]:
        block = np.full(size, 0xFF, np.uint8)
        self.pinned_blocks.append(block)
        return block

    def free_pinned(self, memory: np.ndarray[Any, Any]) -> None:
        with self._lock:
            if not self.broken:
                self.run_all()
            self.pinned_blocks = [block for block in self.pinned_blocks if block is not memory]
            self.free_object("pinned")

    def stream(self) -> int:
        with self._lock:
            self._last[len(self._last) + 1] = None
            return len(self._last)

    def event(self) -> Event:
        return Event()

    def upload(self, target: int, source: np.ndarray[Any, Any], stream: int) -> None:
        self.submit("upload", stream, lambda: self.write(target, source))

    def download(self, target: np.ndarray[Any, Any], source: int, stream: int) -> None:
        def run() -> None:
            target.reshape(-1).view(np.uint8)[:] = self.memory[source][: target.nbytes]

        self.submit("download", stream, run)

    def record(self, event: Event, stream: int) -> None:
        self._yield()
        with self._lock:
            assert not self._captured(stream)
            event.work = self._last[stream]

    def wait(self, stream: int, event: Event) -> None:
        self._yield()
        with self._lock:
            assert not self._captured(stream)
            if event.work is not None:
                self._waiting.setdefault(stream, []).append(event.work)

    def synchronize(self, event: Event) -> None:
        self.use()
        if event.work is None:
            return
        self.host.append(f"wait {event.work.name}")
        while not event.work.done:
            self._step()
            self._yield()

    def capture(self, stream: int, launch: Callable[[], None]) -> Any:
        graph: list[Callable[[], None]] = []
        with self._lock:
            assert self.capturing is None
            self.capturing = stream, graph
        launch()
        self._yield()
        with self._lock:
            self.capturing = None
            if not self.capturable:
                return None
            self.graphs += 1
            return graph

    def launch(self, graph: list[Callable[[], None]], stream: int) -> None:
        for run in graph:
            self.submit("graph", stream, run)

    def free_graph(self, graph: Any) -> None:
        self.graphs -= 1
        self.free_object("graph")

    def free_memory(self) -> tuple[int, int]:
        return 1 << 30, 8 << 30

    def submit(self, kind: str, stream: int, run: Callable[[], None]) -> None:
        """Submit an operation to a stream, after all earlier ones."""
        self._yield()
        with self._lock:
            if self._captured(stream):
                assert self.capturing is not None
                self.capturing[1].append(run)
                return
            before = self._last[stream]
            after = [*([before] if before else []), *self._waiting.pop(stream, [])]
            number = sum(work.name.split()[0] == kind for work in self.history)
            work = Work(f"{kind} {number}", stream, run, after)
            self._last[stream] = work
            self.history.append(work)
            self.host.append(work.name)
        for _ in range(self._random.choice([0, 0, 1, 2])):  # The GPU may or may not run something meanwhile.
            self._step()

    def write(self, target: int, source: np.ndarray[Any, Any]) -> None:
        self.memory[target][: source.nbytes] = np.ascontiguousarray(source).reshape(-1).view(np.uint8)

    def read(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        array: np.ndarray[Any, Any] = self.memory[address][:size].view(dtype).reshape(shape)
        return array

    def run_all(self) -> None:
        while any(not work.done for work in self.history):
            self._step()

    def _step(self) -> None:
        with self._lock:
            ready = [work for work in self.history if not work.done and all(one.done for one in work.after)]
            if ready:
                work = self._random.choice(ready)
                work.run()
                work.done, work.run = True, _nothing  # So that the history keeps no memory alive.

    def _captured(self, stream: int) -> bool:
        return self.capturing is not None and self.capturing[0] == stream

    def _yield(self) -> None:
        """Let other threads run, if there are any."""
        if threading.active_count() > 1 and self._random.random() < 0.3:
            time.sleep(0)
