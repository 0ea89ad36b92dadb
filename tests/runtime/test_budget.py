"""A budget of memory that the calls of several threads share."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from keygraph.errors import CancelledError, InputError, KeygraphError
from keygraph.manifest import Manifest
from keygraph.runtime import reservation
from keygraph.runtime.device.budget import MemoryBudget, parse_size
from keygraph.runtime.errors import ClosedError
from keygraph.runtime.restorer import Restorer
from keygraph.runtime.tiling.run_memory import measured_bytes_per_pixel

ModelFile = Callable[..., Path]
MIB = 2**20


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 << 30), ("512m", 512 << 20), ("1.5G", 3 << 29), (" 64K ", 64 << 10), (1000, 1000), (np.int64(7), 7)],
)
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["4", "G", "4GB", "4T", "-1G", "0G", "1e3M", "4 G", "", "٤G", 0, -5, True, 2.5, None])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(InputError, match=r"the memory budget is .*; give a number with the unit K, M or G, such as 4G"):
        parse_size(text)


def test_calls_wait_in_the_order_in_which_they_came() -> None:
    budget, served, waiting = MemoryBudget(10), list[str](), threading.Semaphore(0)
    first = budget.reserve(6, lambda: None)
    first.__enter__()

    def call(name: str, need: int) -> None:
        with budget.reserve(need, waiting.release):
            served.append(name)

    threads = []
    for name, need in (("large", 8), ("small", 3), ("smaller", 3)):
        threads.append(threading.Thread(target=call, args=(name, need)))
        threads[-1].start()
        waiting.acquire()  # It waits: 4 are free for the small ones, but they came later.
        assert served == []
    first.__exit__(None, None, None)
    for thread in threads:
        thread.join()
    assert served[0] == "large"
    with budget.reserve(10, lambda: None):  # All is given back.
        pass


def test_a_call_that_gives_up_waiting_leaves_its_place() -> None:
    budget = MemoryBudget(10)

    def give_up() -> None:
        raise CancelledError("enough")

    with budget.reserve(6, lambda: None):
        with pytest.raises(CancelledError), budget.reserve(5, give_up):
            pass
        with budget.reserve(4, lambda: None):
            pass


class Counting:
    """A session that restores nothing, and counts the bytes that runs in progress are estimated to take."""

    description = "counting"

    def __init__(self, manifest: Manifest, together: int = 1) -> None:
        self.manifest = manifest
        self.pixels = self.most = 0
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(together) if together > 1 else None

    def run(self, images: Any, k: int | None, *extras: Any) -> Any:
        with self._lock:
            self.pixels += images[:, 0].size
            self.most = max(self.most, self.pixels)
        if self._barrier is not None:
            self._barrier.wait(30)
        with self._lock:
            self.pixels -= images[:, 0].size
        return images


@pytest.fixture
def assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Assume what runs take, as where the system does not report memory."""
    monkeypatch.setattr(reservation, "measured_bytes_per_pixel", lambda session: None)


def noise(height: int, width: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_threads(restorer: Restorer, images: list[Any]) -> None:
    threads = [threading.Thread(target=restorer.restore, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("assumed")
def test_runs_at_the_same_time_share_the_budget(make_manifest: Callable[..., Manifest]) -> None:
    """28 KiB per pixel are assumed, over a share of 0.6: 46.7 KiB, and a little for the result."""
    session = Counting(make_manifest())
    in_threads(Restorer(session, 400 * MIB), [noise(64, 64)] * 6)
    assert 64 * 64 <= session.most <= 400 * MIB / (28 * 1024 / 0.6)
    both = Counting(make_manifest(), together=2)
    in_threads(Restorer(both, "400M"), [noise(64, 64)] * 2)  # They meet inside: neither waits for the other.
    assert both.most == 2 * 64 * 64


@pytest.mark.usefixtures("assumed")
def test_tiles_are_smaller_under_a_budget(make_manifest: Callable[..., Manifest]) -> None:
    image, session = noise(500, 700), Counting(make_manifest())
    assert Restorer(session).restore(image).plan.rows.tile >= 256
    restored = Restorer(session, "500M").restore(image)
    assert 64 <= restored.tile[0] < 128
    np.testing.assert_array_equal(restored.image, image)
    batch = Restorer(session, "500M").restore(image, tile=64, batch=16).batch
    assert batch == 2


@pytest.mark.usefixtures("assumed")
def test_a_budget_that_is_too_small_says_the_least(make_manifest: Callable[..., Manifest]) -> None:
    session = Counting(make_manifest())
    with pytest.raises(
        InputError, match=r"500 x 700 in tiles of \d+ x \d+ needs about .* give --memory (\d+)M"
    ) as said:
        Restorer(session, "20M").restore(noise(500, 700))
    least = str(said.value).split("--memory ")[1].split()[0]
    np.testing.assert_array_equal(Restorer(session, least).restore(noise(500, 700)).image, noise(500, 700))
    with pytest.raises(InputError, match=r"tiles of 256 x 256 needs about .*, or choose a smaller tile or auto"):
        Restorer(session, least).restore(noise(500, 700), tile=256)


@pytest.mark.usefixtures("assumed")
def test_colours_of_a_gray_model_count_three_times(make_manifest: Callable[..., Manifest]) -> None:
    session = Counting(make_manifest(in_channels=1, out_channels=1))
    Restorer(session, "700M").restore(noise(100, 100))
    assert session.most * 28 * 1024 / 0.6 <= 700 * MIB


@pytest.mark.usefixtures("assumed")
def test_waiting_ends_when_cancelled_or_closed(
    make_manifest: Callable[..., Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Counting):
        begun, go_on = threading.Event(), threading.Event()

        def run(self, images: Any, k: int | None, *extras: Any) -> Any:
            self.begun.set()
            assert self.go_on.wait(30)
            return images

    session = Slow(make_manifest())
    restorer = Restorer(session, "250M")
    first = threading.Thread(target=restorer.restore, args=(noise(64, 64),))
    first.start()
    assert session.begun.wait(30)
    cancel, raised = threading.Event(), list[BaseException]()

    def wait(**options: Any) -> None:
        try:
            restorer.restore(noise(64, 64), **options)
        except keygraph.KeygraphError as error:
            raised.append(error)

    caplog.set_level(logging.DEBUG, logger="keygraph")
    second, third = threading.Thread(target=wait, kwargs={"cancel": cancel}), threading.Thread(target=wait)

    def start(thread: threading.Thread) -> None:
        before = caplog.text.count("waits for")
        thread.start()
        while caplog.text.count("waits for") == before:
            threading.Event().wait(0.001)

    start(second)
    cancel.set()
    second.join()
    start(third)
    restorer.close()
    third.join()
    session.go_on.set()
    first.join()
    assert [type(error) for error in raised] == [CancelledError, ClosedError]
    assert "MiB of the memory budget of 250 MiB" in caplog.text


def write_wide(path: Path) -> None:
    """Write a network with 512 feature maps: 4 to 6 KiB per pixel."""
    onnx = pytest.importorskip("onnx")
    from keygraph.manifest import METADATA_KEY
    from onnx import helper, numpy_helper
    from small_models import manifest_for

    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {
        "up": rng.random((512, 3, 1, 1), np.float32),
        "down": rng.random((3, 512, 1, 1), np.float32) / 512,
    }
    nodes = [
        helper.make_node("Conv", ["image", "up"], ["features"]),
        helper.make_node("Sigmoid", ["features"], ["bounded"]),
        helper.make_node("Conv", ["bounded", "down"], ["restored"]),
    ]
    shape: list[str | int | None] = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("restored", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: manifest_for().to_json()})
    onnx.save(model, path)


def test_memory_of_many_threads_stays_within_the_budget(tmp_path: Path) -> None:
    """A network with 512 feature maps, 4 to 6 KiB per pixel: 8 calls of 192 x 192 pixels take 2 GB without a budget."""
    path = tmp_path / "wide.onnx"
    write_wide(path)
    code = """
        import json, sys, threading
        import numpy as np, keygraph
        from concurrent.futures import ThreadPoolExecutor
        from keygraph.runtime.device.memory import growth

        path, budget = sys.argv[1], sys.argv[2]
        restore = keygraph.load(path, library=None, threads=1, memory=None if budget == "none" else budget)
        image, small = np.zeros((192, 192, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
        restore(small)
        begin = threading.Barrier(4)

        def call(number):
            begin.wait()
            restore(image)

        def work():
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(call, range(4)))

        print(json.dumps(growth(work)))
    """

    def grown(budget: str) -> int:
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(path), budget], capture_output=True, text=True, check=True
        )
        return int(json.loads(run.stdout))

    assert grown("250M") <= 250 * MIB < grown("none")


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_allowed_for_a_run_is_near_what_it_takes(tmp_path: Path, threads: int) -> None:
    """Also from the second run of a size on, and for several at a time."""
    path = tmp_path / "wide.onnx"
    write_wide(path)
    code = """
        import json, sys, threading
        import numpy as np, keygraph
        from keygraph.runtime.device.memory import growth
        from keygraph.runtime.tiling.run_memory import measured_bytes_per_pixel

        path, threads = sys.argv[1], int(sys.argv[2])
        session = keygraph.load(path, library=None, threads=1).session
        if threads == 0:
            print(json.dumps(measured_bytes_per_pixel(session)))
            raise SystemExit
        image = np.zeros((1, 3, 128, 128), np.float32)

        def work():
            runs = lambda: [session.run(image, None) for _ in range(3)]
            started = [threading.Thread(target=runs) for _ in range(threads)]
            for thread in started:
                thread.start()
            for thread in started:
                thread.join()

        print(json.dumps(growth(work) / (threads * 128 * 128)))
    """

    def run(count: int) -> float:
        line = [sys.executable, "-c", textwrap.dedent(code), str(path), str(count)]
        return float(json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout))

    # Threads that do not meet in their peaks take less.
    assert run(threads) <= run(0) <= (1.6 if threads == 1 else 3) * run(threads)


def test_a_session_of_one_size_is_measured_with_it(make_manifest: Callable[..., Manifest]) -> None:
    class Allocating:
        """A session that takes 20 KiB per pixel, and only images of 64 x 96."""

        description = "allocating"

        def __init__(self) -> None:
            self.manifest = make_manifest(shape=(2, 64, 96))

        def run(self, images: Any, k: int | None, *extras: Any) -> Any:
            assert images.shape == (2, 3, 64, 96)
            np.ones(2 * 64 * 96 * 20 * 1024 // 8).sum()
            return images

    allowed = measured_bytes_per_pixel(Allocating())
    assert allowed is not None
    assert 20 * 1024 < allowed < 30 * 1024


def test_a_session_that_cannot_run_is_not_measured(make_manifest: Callable[..., Manifest]) -> None:
    class Failing(Counting):
        def run(self, images: Any, k: int | None, *extras: Any) -> Any:
            raise KeygraphError("no")

    assert measured_bytes_per_pixel(Failing(make_manifest())) is None
    Restorer(Failing(make_manifest()), "4G")
