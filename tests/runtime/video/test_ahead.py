from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from keygraph.runtime.video.ahead import ahead
from keygraph.runtime.video.mux import decoding_times


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "keygraph-ahead"]


def test_items_come_in_order_and_a_few_ahead() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    taken = ahead(items(), depth=2)
    assert next(taken) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2, 3]  # One taken, two that wait, one in the hand of the thread.
    assert list(taken) == list(range(1, 10))
    assert threads() == []


def test_errors_arrive_and_closing_ends_the_thread() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    taken = ahead(ahead(failing()))
    assert next(taken) == 1
    with pytest.raises(ValueError, match="no more"):
        next(taken)
    endless = ahead(iter(int, 1))
    next(endless)
    endless.close()
    assert threads() == []


@pytest.mark.parametrize(
    ("shown", "decoded"),
    [
        ([], []),
        ([5], [5]),
        ([0, 10, 30], [0, 10, 30]),
        ([0, 20, 10, 30], [-10, 0, 10, 20]),
        ([0, 40, 20, 10, 30, 50], [-20, -10, 0, 10, 20, 30]),
        # Two segments, each with its own reordering.
        ([0, 20, 10, 30, 50, 40], [-10, 0, 10, 20, 30, 40]),
    ],
)
def test_decoding_times(shown: list[int], decoded: list[int]) -> None:
    assert decoding_times(shown) == decoded
    assert all(late <= time for late, time in zip(decoded, shown, strict=True))
