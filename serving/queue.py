"""The requests that are accepted at a time, and the threads that restore them, first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..files import FULL
from ..runtime.tiling.progress import CancelToken
from .errors import ClientGoneError, RequestError, no_space
from .metrics import Metrics

Result = TypeVar("Result")

#: Weight of the latest restoration in the mean time of one.
_RECENT = 0.1


class Queue:
    """Accepts a number of requests at a time, and restores some of them at the same time, in the order they came.

    All but the work itself belongs to the thread of the event loop.

    Parameters
    ----------
    threads
        Requests that are restored at the same time.
    most
        Requests that are accepted at a time.
    folder
        Folder in which each request gets one of its own.
    metrics
        Counts what happens.
    """

    def __init__(self, threads: int, most: int, folder: Path | None, metrics: Metrics) -> None:
        self.threads, self._most, self.metrics = threads, most, metrics
        self._folder = Path(tempfile.mkdtemp(prefix="keygraph-serve-", dir=folder))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="keygraph-serve")
        self._accepted = 0
        self._seconds: float | None = None
        self._stopping, self._expired = False, asyncio.Event()
        #: Whether requests that were accepted were ended when the service was stopped.
        self.cut_short = False

    @property
    def stopping(self) -> bool:
        """True when no more requests are accepted."""
        return self._stopping

    @property
    def idle(self) -> bool:
        """True when nothing is accepted, and no thread works."""
        return self._accepted == 0

    def accept(self) -> Place:
        """Accept a request.

        Raises
        ------
        RequestError
            There are too many, there is no space for another, or the service is stopping.
        """
        if self._stopping:
            raise stopping()
        if self._accepted >= self._most:
            seconds = math.ceil(max(1.0, self._accepted * (self._seconds or 1.0) / self.threads / 2))
            raise RequestError(
                429,
                "too_many_requests",
                f"{self._most} requests are in progress, the most that are accepted; try again in {seconds} s",
                {"Retry-After": str(seconds)},
            )
        try:
            folder = Path(tempfile.mkdtemp(dir=self._folder))
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise no_space() from error
        self._accepted += 1
        self.metrics.accepted.set(self._accepted)
        return Place(self, folder)

    def submit(self, work: Callable[[CancelToken], Result], cancel: threading.Event) -> Future[Result]:
        """Put work in the queue; it gets `cancel`."""
        return self._pool.submit(self._timed, work, cancel)

    def _timed(self, work: Callable[[CancelToken], Result], cancel: threading.Event) -> Result:
        with self.metrics.running.track_inprogress(), self.metrics.work_seconds.time():
            return work(cancel)

    def release(self, folder: Path) -> None:
        """Remove a request's folder in another thread, and let another request in."""
        asyncio.get_running_loop().run_in_executor(None, partial(shutil.rmtree, folder, ignore_errors=True))
        self._accepted -= 1
        self.metrics.accepted.set(self._accepted)

    def worked(self, seconds: float) -> None:
        """Count the time of a restoration, by which clients are told when to try again."""
        self._seconds = seconds if self._seconds is None else self._seconds + _RECENT * (seconds - self._seconds)

    def stop(self, grace: float) -> None:
        """Accept no more requests, and end after so many seconds those that are not finished."""
        if not self._stopping:
            self._stopping = True
            asyncio.get_running_loop().call_later(grace, self._expire)

    def _expire(self) -> None:
        self.cut_short = self._accepted > 0
        self._expired.set()

    async def expired(self) -> None:
        """Wait for the end of the time in which accepted requests may finish."""
        await self._expired.wait()

    def close(self) -> None:
        """End the threads without waiting for them, and remove all files."""
        self._stopping = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)


def stopping() -> RequestError:
    """Return the refusal of a service that is being stopped."""
    return RequestError(
        503, "stopping", "the service is being stopped; try again later", {"Retry-After": "10", "Connection": "close"}
    )


class Place:
    """An accepted request: its folder, and its work.

    Parameters
    ----------
    queue
        What accepted it.
    folder
        Its folder.
    """

    def __init__(self, queue: Queue, folder: Path) -> None:
        self.folder = folder
        self._queue, self._cancel = queue, threading.Event()
        self._future: Future[Any] | None = None

    async def run(
        self, work: Callable[[CancelToken], Result], gone: Callable[[], Awaitable[None]], timeout: float
    ) -> Result:
        """Wait for the request's turn, and run its work in a thread.

        Parameters
        ----------
        work
            Gets the token that cancels it.
        gone
            Returns when the client has closed its connection.
        timeout
            Most seconds for waiting and work.

        Raises
        ------
        RequestError
            It took too long, or the service is stopped.
        ClientGoneError
            The client left. Its work is taken out of the queue, or ended before its next tile.
        """
        future = self._queue.submit(work, self._cancel)
        self._future = future
        result = asyncio.wrap_future(future)
        left, expired = asyncio.ensure_future(gone()), asyncio.ensure_future(self._queue.expired())
        try:
            ends: set[asyncio.Future[Any]] = {result, left, expired}
            done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if result in done:
                return result.result()
        finally:
            for task in (left, expired):
                task.cancel()
            if not result.done():
                self._cancel.set()
                # Whatever becomes of it, nobody asks any more.
                result.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                result.cancel()
        if left in done:
            raise ClientGoneError
        if expired in done:
            raise stopping()
        raise RequestError(
            504,
            "timed_out",
            f"the image was not restored within {timeout:g} s; try again later, or send a smaller image",
        )

    def release(self) -> None:
        """Give the place back when its work has ended, also where nobody waits for that."""
        if self._future is None or self._future.done():
            self._queue.release(self.folder)
            return
        loop = asyncio.get_running_loop()

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # The loop is closed, and all files are removed.
                loop.call_soon_threadsafe(self._queue.release, self.folder)

        self._future.add_done_callback(ended)
