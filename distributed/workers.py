"""Gives calls to Ray actors, a few at a time, and repeats them when an actor dies.

Plain actors, not Ray Data: see docs/scale.md for what was measured.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

from ..errors import CancelledError, KeygraphError
from .cluster import Share
from .worker import Description, Outcome, Probe, Setup, Worker

#: Calls that an actor has at a time: it computes one, and decodes or encodes the other.
_CALLS_EACH = 2

#: A call during which so many workers died is given up. From the second time on it is the only one of its worker.
_MOST_DEATHS = 4

#: What is raised when an actor's process, or its machine, is gone.
_DEATHS = (RayActorError, WorkerCrashedError, OutOfMemoryError)


@dataclass(eq=False)
class _Call:
    """A call that was submitted."""

    method: str
    arguments: tuple[Any, ...]
    future: Future[Any] = field(default_factory=Future)
    deaths: int = 0


@dataclass(eq=False)
class _Actor:
    """An actor, and the calls that it has.

    Attributes
    ----------
    handle
        Ray's.
    calls
        What it was given and has not given back.
    ready
        False from its death until it has passed the checks again.
    """

    handle: Any
    calls: set[_Call] = field(default_factory=set)
    ready: bool = True


class Workers:
    """Actors that share the work. All Ray calls are made by one thread; `submit` may be called from any.

    Parameters
    ----------
    setup
        What they run.
    share
        How many, and what each gets of the cluster.
    notice
        Called with a line when a worker has died.
    """

    def __init__(self, setup: Setup, share: Share, notice: Callable[[str], None]) -> None:
        self._notice = notice
        actor = ray.remote(Worker).options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=-1, max_concurrency=_CALLS_EACH
        )
        self._actors = [_Actor(actor.remote(setup)) for _ in range(share.workers)]
        self._probe: Probe | None = None
        self._waiting: deque[_Call] = deque()
        self._repeated: deque[_Call] = deque()
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="keygraph-workers", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._actors)

    @property
    def most_calls(self) -> int:
        """Calls that are worth submitting at a time: every actor has its own, and one waits for each."""
        return len(self._actors) * (_CALLS_EACH + 1)

    def check(self, probe: Probe | None = None) -> tuple[Description, tuple[str, ...]]:
        """Wait until all workers have loaded the model and passed the checks of `Worker.check`.

        Parameters
        ----------
        probe
            What they must see, now and when one is started again.

        Returns
        -------
        description, notices
            Of the first worker.

        Raises
        ------
        KeygraphError
            A worker has not passed, or cannot be started.
        """
        self._probe = probe
        try:
            found: list[Outcome[Description]] = ray.get([self._checked(one) for one in self._actors])
        except RayError as error:
            raise KeygraphError(f"the workers cannot be started: {_reason(error)}") from error
        for outcome in found:
            outcome.result()
        return found[0].result(), found[0].notices

    def submit(self, method: str, *arguments: Any) -> Future[Any]:
        """Call a method of a worker that is free, or of the next one.

        Parameters
        ----------
        method
            Name of a method of `Worker` that returns an `Outcome`.
        arguments
            What it is called with.

        Returns
        -------
        Future
            Gets the `Outcome`, or an error where workers died again and again.
        """
        call = _Call(method, arguments)
        self._events.put(lambda: self._waiting.append(call))
        return call.future

    def stop(self) -> None:
        """Let all calls that have not ended fail; workers end what they compute, and nobody hears of it."""
        self._events.put(self._stop)

    def close(self) -> None:
        """End the workers."""
        self._events.put(None)
        self._thread.join()

    def _serve(self) -> None:
        """Take events and give out calls, until `close`."""
        while (event := self._events.get()) is not None:
            event()
            self._give_out()
            if not self._actors:
                self._fail_waiting()
        for one in self._actors:
            ray.kill(one.handle)
        self._stop()

    def _stop(self) -> None:
        for call in [*self._waiting, *self._repeated, *(call for one in self._actors for call in one.calls)]:
            _give(call.future, CancelledError("the restoration was stopped"))
        self._waiting.clear()
        self._repeated.clear()

    def _give_out(self) -> None:
        """Give calls to actors that have room, those with the fewest first; a repeated one has its actor alone."""
        for one in sorted((one for one in self._actors if one.ready), key=lambda one: len(one.calls)):
            if self._repeated and not one.calls:
                self._start(one, self._repeated.popleft())
            if any(call.deaths for call in one.calls):
                continue
            room = 1 if self._repeated else _CALLS_EACH
            while self._waiting and len(one.calls) < room:
                self._start(one, self._waiting.popleft())

    def _start(self, one: _Actor, call: _Call) -> None:
        if call.future.done():
            return
        one.calls.add(call)
        reference = getattr(one.handle, call.method).remote(*call.arguments)
        reference.future().add_done_callback(lambda done: self._events.put(lambda: self._ended(one, call, done)))

    def _ended(self, one: _Actor, call: _Call, done: Future[Any]) -> None:
        one.calls.discard(call)
        error = done.exception()
        if error is None:
            _give(call.future, done.result())
        elif isinstance(error, _DEATHS):
            self._died(one)
            call.deaths += 1
            if call.deaths < _MOST_DEATHS:
                self._repeated.append(call)
            else:
                _give(
                    call.future,
                    KeygraphError(
                        f"{call.deaths} workers died one after another while it was restored, perhaps for lack of "
                        "memory; give --memory, or fewer --workers"
                    ),
                )
        else:
            _give(call.future, KeygraphError(f"a worker failed: {_reason(error)}"))

    def _died(self, one: _Actor) -> None:
        """Give an actor no more work until Ray has started it again, and it has passed the checks."""
        if not one.ready:
            return
        one.ready = False
        self._notice("a worker died; it is started again, and its work is repeated")
        self._checked(one).future().add_done_callback(lambda done: self._events.put(lambda: self._returned(one, done)))

    def _checked(self, one: _Actor) -> Any:
        """Start the checks of an actor; Ray repeats them each time it has started the actor again."""
        return one.handle.check.options(max_task_retries=-1).remote(self._probe)

    def _returned(self, one: _Actor, done: Future[Outcome[Description]]) -> None:
        error = done.exception() or done.result().error
        if error is None:
            one.ready = True
            return
        self._actors.remove(one)
        ray.kill(one.handle)
        self._notice(f"a worker is left out: {_reason(error)}")

    def _fail_waiting(self) -> None:
        for calls in (self._waiting, self._repeated):
            while calls:
                _give(calls.popleft().future, KeygraphError("no worker is left; see the notes above"))


def _give(future: Future[Any], value: Any) -> None:
    """Set what a future gets, unless it has something already or nobody waits for it any more."""
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(value) if isinstance(value, Exception) else future.set_result(value)


def _reason(error: BaseException) -> str:
    """Return an error of Ray in one line: the last one of its text, which has the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
