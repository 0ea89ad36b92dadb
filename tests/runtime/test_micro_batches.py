"""Runs of several threads that are joined into batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from concurrency import at_the_same_time
from keygraph.errors import KeygraphError
from keygraph.manifest import ExtraInput, Manifest, Profile
from keygraph.runtime.backends.micro_batches import MicroBatches
from keygraph.runtime.errors import NotFiniteError, SessionMemoryError
from keygraph.runtime.restorer import Restorer

PROFILES = (Profile((1, 4, 8), (8, 32, 64), (8, 32, 64)),)


class Busy:
    """A session that adds k / 100, which is busy until `go_on` is set, and records its batches."""

    description = "busy"

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.batches = manifest, list[tuple[int, int | None]]()
        self.started, self.go_on = threading.Semaphore(0), threading.Event()

    def run(self, images: Any, k: int | None, *extras: Any) -> Any:
        self.batches.append((len(images), k))
        self.started.release()
        assert self.go_on.wait(30)
        if len(images) > 6:
            raise SessionMemoryError("too many")
        if (images == 0.5).all(axis=(1, 2, 3)).any():
            raise KeygraphError(f"a bad image among {len(images)}")
        return images + (k or 0) / 100 + sum(extras)


def calls(batches: MicroBatches, given: list[tuple[Any, ...]], most: int = 4) -> Iterator[tuple[threading.Thread, Any]]:
    """Start a thread for each (k, *inputs); yield it with the list for its outcome."""
    for k, *inputs in given:
        outcome: list[Any] = []

        def call(k: int, inputs: list[Any], outcome: list[Any]) -> None:
            try:
                outcome.append(batches.run(most, k, tuple(inputs)))
            except KeygraphError as error:
                outcome.append(error)

        thread = threading.Thread(target=call, args=(k, inputs, outcome))
        thread.start()
        yield thread, outcome


def joined(session: Busy, given: list[tuple[Any, ...]], most: int = 4) -> list[Any]:
    """Keep the session busy with two runs, let the given ones wait, and return their outcomes."""
    batches = MicroBatches(session)
    first = list(calls(batches, [(1, np.zeros((1, 1, number, 8), np.float32)) for number in (8, 16)]))
    for _ in first:
        session.started.acquire()
    waiting = list(calls(batches, given, most))
    while sum(map(len, batches._waiting.values())) < len(given):
        threading.Event().wait(0.001)
    session.go_on.set()
    for thread, _ in [*first, *waiting]:
        thread.join()
    return [outcome for _, (outcome,) in waiting]


def test_what_waits_runs_together(make_manifest: Callable[..., Manifest]) -> None:
    session = Busy(make_manifest())
    given = [(2, np.full((1, 3, 8, 8), number, np.float32)) for number in range(6)]
    results = joined(session, given)
    for (k, images), result in zip(given, results, strict=True):
        np.testing.assert_array_equal(result, images + k / 100)
    assert sorted(session.batches[2:]) == [(2, 2), (4, 2)]


def test_other_shapes_and_k_stay_apart(make_manifest: Callable[..., Manifest]) -> None:
    session = Busy(make_manifest())
    image, wide = np.ones((1, 3, 8, 8), np.float32), np.ones((1, 3, 8, 16), np.float32)
    mask = np.full((1, 1, 8, 8), 5, np.float32)
    given = [(2, image), (3, image), (2, wide), (2, image), (2, image, mask), (2, image, mask)]
    results = joined(session, given)
    assert [float(result.ravel()[0]) for result in results] == pytest.approx([1.02, 1.03, 1.02, 1.02, 6.02, 6.02])
    assert sorted(session.batches[2:]) == [(1, 2), (1, 3), (2, 2), (2, 2)]


def test_a_call_is_not_joined_beyond_its_own_limit(make_manifest: Callable[..., Manifest]) -> None:
    """A thread whose batch did not fit in memory has halved it; others have not."""
    session = Busy(make_manifest())
    batches, image = MicroBatches(session), np.ones((1, 3, 8, 8), np.float32)
    first = list(calls(batches, [(1, np.zeros((1, 1, number, 8), np.float32)) for number in (8, 16)]))
    for _ in first:
        session.started.acquire()
    waiting = [*calls(batches, [(2, image)] * 2, 6), *calls(batches, [(2, image)] * 3, 2)]
    while sum(map(len, batches._waiting.values())) < len(waiting):
        threading.Event().wait(0.001)
    session.go_on.set()
    for thread, _ in [*first, *waiting]:
        thread.join()
    assert sorted(session.batches[2:]) == [(1, 2), (2, 2), (2, 2)]


def test_each_part_of_a_batch_that_fails_has_its_own_outcome(make_manifest: Callable[..., Manifest]) -> None:
    session = Busy(make_manifest())
    given = [(2, np.full((1, 3, 8, 8), value, np.float32)) for value in (0.0, 0.5, 1.0)]
    good, bad, other = joined(session, given)
    assert (float(good.max()), float(other.max())) == pytest.approx((0.02, 1.02))
    assert str(bad) == "a bad image among 1"
    assert session.batches[2:] == [(3, 2), (1, 2), (1, 2), (1, 2)]


def test_a_batch_that_does_not_fit_is_run_one_by_one(make_manifest: Callable[..., Manifest]) -> None:
    session = Busy(make_manifest())
    results = joined(session, [(2, np.ones((1, 3, 8, 8), np.float32))] * 8, most=8)
    assert [result.shape for result in results] == [(1, 3, 8, 8)] * 8


def test_threads_get_their_own_images(make_manifest: Callable[..., Manifest]) -> None:
    session = Busy(make_manifest())
    session.go_on.set()
    batches = MicroBatches(session)

    def run(number: int) -> None:
        image = np.full((1, 3, 8 + 8 * (number % 2), 8), number, np.float32)
        np.testing.assert_array_equal(batches.run(4, None, (image,)), image)

    at_the_same_time(8, run, rounds=50)
    assert sum(count for count, _ in session.batches) == 400
    assert batches._waiting == {}


def test_an_engine_batches_the_images_of_a_stream(make_manifest: Callable[..., Manifest]) -> None:
    class Counted:
        description = "counted"

        def __init__(self, manifest: Manifest) -> None:
            self.manifest, self.batches, self._lock = manifest, list[int](), threading.Lock()
            self.meet: threading.Barrier | None = None

        def run(self, images: Any, k: int | None, *extras: Any) -> Any:
            self.batches.append(len(images))
            threading.Event().wait(0.02)
            return np.where(images > 0.99, np.float32(np.nan), images) + sum(extras) * 0

    images = [np.full((32, 24, 3), number, np.uint8) for number in range(20)]
    engine = Counted(make_manifest(profiles=PROFILES))
    for restored, image in zip(Restorer(engine).many(images), images, strict=True):
        np.testing.assert_array_equal(restored, image)
    assert sum(engine.batches) == 20
    assert 2 <= max(engine.batches) <= 4
    images[7] = np.full_like(images[7], 255)
    results = list(Restorer(Counted(make_manifest(profiles=PROFILES))).many(images, return_exceptions=True))
    assert [number for number, result in enumerate(results) if isinstance(result, NotFiniteError)] == [7]
    for one in (Counted(make_manifest()), Counted(make_manifest(shape=(1, 32, 24)))):
        list(Restorer(one).many(images[:6]))
        assert one.batches == [1] * 6


def test_large_images_are_not_joined(make_manifest: Callable[..., Manifest]) -> None:
    session = Busy(make_manifest(profiles=PROFILES, extra_inputs=(ExtraInput("mask", 1),)))
    session.go_on.set()
    restorer, image = Restorer(session), np.zeros((100, 80, 3), np.float32)
    expected = restorer(image, inputs={"mask": image[:, :, 0]})
    assert session.batches[0][0] == 4  # Tiles of this image alone.
    np.testing.assert_array_equal(expected, image)
