"""Run the steps of many pieces of work overlapped: prepare ahead, compute one by one, finish behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Computed = TypeVar("Computed")
Result = TypeVar("Result")


@dataclass
class _Flight(Generic[Item, Prepared, Result]):
    """An item that was admitted and whose result was not yet given out.

    Attributes
    ----------
    item
        The item.
    cost
        Bytes that it may take.
    prepared
        Its first step; None when it was taken over by the second.
    finished
        Its last step; None before that starts.
    error
        Why it has none.
    """

    item: Item
    cost: int
    prepared: Future[Prepared] | None
    finished: Future[Result] | None = None
    error: Exception | None = None

    @property
    def settled(self) -> bool:
        """Whether the result is there."""
        return self.error is not None or (self.finished is not None and self.finished.done())

    def result(self) -> Result | Exception:
        """Wait for the last step, which was started, and return its result or the exception of any step."""
        if self.finished is None:
            assert self.error is not None
            return self.error
        try:
            return self.finished.result()
        except Exception as error:
            return error


def overlapped(
    items: Iterable[Item],
    prepare: Callable[[Item], Prepared],
    compute: Callable[[Item, Prepared], Computed],
    finish: Callable[[Item, Computed], Result],
    *,
    cost: Callable[[Item], int],
    limit: int,
    threads: int,
    stop_at_failure: bool = False,
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """Run three steps of each item: the first and the last in threads, the second in the caller's thread, in order.

    At most ``2 * threads + 1`` items are between their first step and the end of their last one. When the caller's
    thread is interrupted, steps that wait are dropped, last steps that were begun end, and their results are given out
    before the interruption goes on.

    Parameters
    ----------
    items
        The pieces of work.
    prepare, compute, finish
        The steps. What one returns, the next gets.
    cost
        Called in the caller's thread before an item's first step; returns the bytes that the item may take until its
        last step ends.
    limit
        Bytes that all items may take together. One item alone may take more.
    threads
        Number of threads for the first and last steps, at least 1; 0 to run every step in the caller's thread.
    stop_at_failure
        Start the last step of an item only after that of the item before it, and give out a failure at once: a caller
        that then stops has finished nothing after the failure.

    Yields
    ------
    tuple[Item, Result | Exception]
        Each item, in order, with what `finish` returned or what one of its steps raised.
    """
    if threads == 0:
        for item in items:
            try:
                result: Result | Exception = finish(item, compute(item, prepare(item)))
            except Exception as error:
                result = error
            yield item, result
        return

    waiting = iter(items)
    refused: deque[Item] = deque()
    flying: deque[_Flight[Item, Prepared, Result]] = deque()

    def admit(pool: ThreadPoolExecutor) -> None:
        """Start the first steps for which there is room."""
        while len(flying) <= 2 * threads:
            try:
                item = refused.popleft() if refused else next(waiting)
            except StopIteration:
                return
            needed = cost(item)
            if flying and needed + sum(flight.cost for flight in flying) > limit:
                refused.append(item)
                return
            flying.append(_Flight(item, needed, pool.submit(prepare, item)))

    with ThreadPoolExecutor(threads, "keygraph-files") as pool:
        try:
            while True:
                admit(pool)
                if not flying:
                    return
                flight = next((one for one in flying if one.prepared is not None), None)
                # Where all that were admitted are computed, the oldest one's room is waited for.
                ready = flight is None
                if flight is not None:
                    try:
                        computed = _computed(flight, compute)
                    except Exception as error:
                        flight.error = error
                    while stop_at_failure and flying[0] is not flight:
                        yield flying[0].item, flying[0].result()
                        flying.popleft()
                    if flight.error is None:
                        flight.finished = pool.submit(finish, flight.item, computed)
                        del computed
                while flying and (ready or flying[0].settled):
                    yield flying[0].item, flying[0].result()
                    flying.popleft()
                    ready = False
        except KeyboardInterrupt:
            _drop_first_steps(flying)
            for flight in flying:
                if flight.finished is not None or flight.error is not None:
                    yield flight.item, flight.result()
            raise
        finally:
            _drop_first_steps(flying)


def _computed(flight: _Flight[Item, Prepared, Result], compute: Callable[[Item, Prepared], Computed]) -> Computed:
    """Run the second step; what the first one returned is not kept any longer."""
    assert flight.prepared is not None
    first, flight.prepared = flight.prepared, None
    prepared = first.result()
    del first
    return compute(flight.item, prepared)


def _drop_first_steps(flying: Iterable[_Flight[Item, Prepared, Result]]) -> None:
    for flight in flying:
        if flight.prepared is not None:
            flight.prepared.cancel()
