"""Steps overlapped: order, bounds, errors, interruption. The threads are real, and waited for by events, not times."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
from keygraph.runtime.pipeline import overlapped

#: Seconds after which a step that should have been started is taken to be missing.
PATIENCE = 60


class Steps:
    """Three steps that note what they were called with, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.lock = threading.Lock()

    def note(self, step: str, item: int) -> None:
        with self.lock:
            self.calls.append((step, item))

    def prepare(self, item: int) -> int:
        self.note("prepare", item)
        return item * 10

    def compute(self, item: int, prepared: int) -> int:
        self.note("compute", item)
        return prepared + 1

    def finish(self, item: int, computed: int) -> str:
        self.note("finish", item)
        return f"{item}: {computed}"

    def run(self, items: Any, **options: Any) -> Generator[tuple[int, str | Exception], None, None]:
        options = {"cost": lambda _item: 1, "limit": 100, "threads": 2, **options}
        return overlapped(items, self.prepare, self.compute, self.finish, **options)


@pytest.mark.parametrize("threads", [0, 1, 2, 7])
def test_results_come_in_order(threads: int) -> None:
    steps = Steps()
    assert list(steps.run(range(30), threads=threads)) == [(item, f"{item}: {item * 10 + 1}") for item in range(30)]
    assert [item for step, item in steps.calls if step == "compute"] == list(range(30))
    assert list(Steps().run([], threads=threads)) == []


def test_the_next_is_prepared_and_the_last_finished_while_one_is_computed() -> None:
    prepared, finished = threading.Event(), threading.Event()

    class Waiting(Steps):
        def prepare(self, item: int) -> int:
            if item == 2:
                prepared.set()
            return super().prepare(item)

        def compute(self, item: int, prepared_value: int) -> int:
            if item == 1:
                assert prepared.wait(PATIENCE)
                assert finished.wait(PATIENCE)
            return super().compute(item, prepared_value)

        def finish(self, item: int, computed: int) -> str:
            if item == 0:
                finished.set()
            return super().finish(item, computed)

    assert [result for _, result in Waiting().run(range(3))] == ["0: 1", "1: 11", "2: 21"]


def test_a_slow_last_step_does_not_change_the_order() -> None:
    later = threading.Event()

    class Slow(Steps):
        def finish(self, item: int, computed: int) -> str:
            if item == 0:
                assert later.wait(PATIENCE)
            if item == 1:
                later.set()
            return super().finish(item, computed)

    steps = Slow()
    assert [item for item, _ in steps.run(range(4))] == [0, 1, 2, 3]
    assert steps.calls.index(("finish", 1)) < steps.calls.index(("finish", 0))


@pytest.mark.parametrize(("costs", "most"), [([3] * 20, 3), ([50, 1, 1, 50, 1, 1, 1, 1], 5), ([1] * 20, 5)])
def test_no_more_is_under_way_than_allowed(costs: list[int], most: int) -> None:
    """Items of 3 with a limit of 9: three at a time. One of 50 is alone. With two threads five at a time at most."""
    under_way: set[int] = set()
    seen: list[tuple[int, int]] = []

    class Counting(Steps):
        def prepare(self, item: int) -> int:
            with self.lock:
                under_way.add(item)
                seen.append((len(under_way), sum(costs[one] for one in under_way)))
            return super().prepare(item)

        def finish(self, item: int, computed: int) -> str:
            result = super().finish(item, computed)
            with self.lock:
                under_way.remove(item)
            return result

    results = list(Counting().run(range(len(costs)), cost=costs.__getitem__, limit=9))
    assert len(results) == len(costs)
    assert max(number for number, _ in seen) <= most
    assert all(cost <= 9 or number == 1 for number, cost in seen)


@pytest.mark.parametrize("step", ["prepare", "compute", "finish"])
@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_belongs_to_its_item(step: str, threads: int) -> None:
    def failing(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(item: int, *values: Any) -> Any:
            if item in (0, 3):
                raise ValueError(f"item {item}")
            return method(item, *values)

        return run

    steps = Steps()
    setattr(steps, step, failing(getattr(steps, step)))
    results = dict(steps.run(range(6), threads=threads))
    assert list(results) == list(range(6))
    assert {item: str(result) for item, result in results.items() if isinstance(result, ValueError)} == {
        0: "item 0",
        3: "item 3",
    }
    assert results[5] == "5: 51"


@pytest.mark.parametrize("step", ["prepare", "compute", "finish"])
def test_after_the_first_failure_nothing_is_finished_when_asked(step: str) -> None:
    class Failing(Steps):
        def note(self, called: str, item: int) -> None:
            if (called, item) == (step, 2):
                raise ValueError("item 2")
            super().note(called, item)

    steps = Failing()
    results = steps.run(range(9), stop_at_failure=True)
    for item, result in results:
        if isinstance(result, ValueError):
            assert item == 2
            break
    results.close()
    assert [item for called, item in steps.calls if called == "finish"] == [0, 1]


def test_an_interruption_loses_nothing_that_was_computed() -> None:
    release = threading.Event()

    class Interrupted(Steps):
        def compute(self, item: int, prepared: int) -> int:
            if item == 3:
                release.set()
                raise KeyboardInterrupt
            return super().compute(item, prepared)

        def finish(self, item: int, computed: int) -> str:
            assert release.wait(PATIENCE)
            return super().finish(item, computed)

    steps = Interrupted()
    results: list[tuple[int, str | Exception]] = []

    with pytest.raises(KeyboardInterrupt):
        results.extend(steps.run(range(50)))
    assert results == [(item, f"{item}: {item * 10 + 1}") for item in range(3)]
    assert max(item for _, item in steps.calls) <= 5  # What was to come is dropped.


def test_a_caller_that_stops_waits_for_what_is_being_finished() -> None:
    steps = Steps()
    results = steps.run(range(50))
    assert next(results) == (0, "0: 1")
    results.close()
    computed = [item for step, item in steps.calls if step == "compute"]
    assert [item for step, item in sorted(steps.calls) if step == "finish"] == computed
    assert not any(thread.name.startswith("keygraph-files") for thread in threading.enumerate())
