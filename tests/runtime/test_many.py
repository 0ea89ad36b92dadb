"""Streams of images, cancelling, and the records of the logger."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from keygraph.errors import CancelledError, InputError, KeygraphError
from keygraph.manifest import ExtraInput, Manifest, Neighbours
from keygraph.runtime.errors import ClosedError, NotFiniteError, SessionMemoryError
from keygraph.runtime.notices import KeygraphWarning
from keygraph.runtime.restorer import Restorer

ModelFile = Callable[..., Path]
Array = np.ndarray[Any, Any]


def noise(number: int, height: int = 32, width: int = 32) -> Array:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Slow:
    """A session whose runs take the longer the darker the image is, and which counts those in progress."""

    description = "slow"

    def __init__(self, manifest: Manifest, seconds: float = 0.0) -> None:
        self.manifest, self.seconds = manifest, seconds
        self.runs = self.inside = self.most = 0
        self._lock = threading.Lock()

    def run(self, images: Any, k: int | None, *extras: Any) -> Any:
        with self._lock:
            self.runs += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(self.seconds * (1 - float(images.max())))
        with self._lock:
            self.inside -= 1
        return images


def test_order_is_kept(make_manifest: Callable[..., Manifest]) -> None:
    """The first images take the longest."""
    restorer = Restorer(Slow(make_manifest(), 0.05))
    images = [np.full((16, 8 + number, 3), 25 * number, np.uint8) for number in range(8)]
    for restored, image in zip(restorer.many(images, in_flight=3), images, strict=True):
        np.testing.assert_array_equal(restored, image)


def test_results_are_those_of_calls(make_model: ModelFile) -> None:
    restorer = keygraph.load(
        make_model("add_k", neighbours=Neighbours(64, 256)), library=None, threads=1, notice=lambda _line: None
    )
    images = [noise(number, 40 + 8 * (number % 3)) for number in range(7)]
    options: dict[str, Any] = {"tile": 32, "overlap": 8, "k": 20}
    for restored, image in zip(restorer.many(images, **options), images, strict=True):
        np.testing.assert_array_equal(restored, restorer(image, **options))


def test_few_images_are_taken_ahead(make_manifest: Callable[..., Manifest]) -> None:
    session, taken = Slow(make_manifest()), list[int]()

    def images() -> Iterator[Array]:
        for number in range(20):
            taken.append(threading.get_ident())
            yield noise(number)

    many = Restorer(session).many(images(), in_flight=2)
    assert taken == []
    for count in range(1, 5):
        next(many)
        assert len(taken) == 2 + count
    many.close()
    assert len(taken) == 6
    assert set(taken) == {threading.get_ident()}
    assert session.inside == 0
    assert session.most <= 2


def test_closing_early_ends_what_is_in_progress(make_manifest: Callable[..., Manifest]) -> None:
    session = Slow(make_manifest(), 0.02)
    many = Restorer(session).many((np.zeros((400, 32, 3), np.uint8) for _ in range(9)), tile=32, overlap=8, batch=1)
    next(many)
    before = threading.active_count()
    many.close()
    runs = session.runs
    assert threading.active_count() < before
    assert runs < 3 * 17  # Tiles of the images that were taken.
    time.sleep(0.1)
    assert session.runs == runs


def test_an_error_comes_in_the_place_of_its_image(make_model: ModelFile) -> None:
    restorer = keygraph.load(make_model("bright_nan"), library=None, threads=1)
    dark, bright = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    many = restorer.many([dark, dark, bright, dark])
    np.testing.assert_array_equal([next(many), next(many)], [dark, dark])
    with pytest.raises(NotFiniteError):
        next(many)
    with pytest.raises(StopIteration):
        next(many)
    results = list(restorer.many([dark, bright, np.zeros((4, 4, 7), np.uint8), dark], return_exceptions=True))
    assert [type(result) for result in results] == [np.ndarray, NotFiniteError, InputError, np.ndarray]


def test_an_error_of_the_iterable_comes_after_the_images_before(make_model: ModelFile) -> None:
    def images() -> Iterator[Array]:
        yield noise(0)
        yield noise(1)
        raise OSError("the camera is gone")

    many = keygraph.load(make_model("identity"), library=None).many(images(), return_exceptions=True)
    np.testing.assert_array_equal([next(many), next(many)], [noise(0), noise(1)])
    with pytest.raises(OSError, match="camera"):
        next(many)


def test_images_with_inputs(make_model: ModelFile) -> None:
    restorer = keygraph.load(make_model("masked", extra_inputs=(ExtraInput("mask", 3),)), library=None)
    image = np.ones((8, 8, 3), np.float32)
    masks = [np.full((8, 8, 3), number / 4, np.float32) for number in range(4)]
    pairs = ((image, {"mask": mask}) for mask in masks)
    np.testing.assert_array_equal(np.stack(list(restorer.many(pairs))), np.stack(masks))


def test_notices_are_warnings_at_the_loop(make_model: ModelFile) -> None:
    restorer = keygraph.load(make_model("identity"), library=None)
    with pytest.warns(KeygraphWarning, match="averaged") as warned:
        for _ in restorer.many([np.zeros((8, 8), np.uint8)]):
            pass
    assert warned[0].filename == __file__


@pytest.mark.parametrize("in_flight", [0, -1, True, 1.5, "2"])
def test_a_wrong_number_in_flight(make_model: ModelFile, in_flight: Any) -> None:
    with pytest.raises(InputError, match="in_flight is"):
        keygraph.load(make_model("identity"), library=None).many([], in_flight=in_flight)


def test_what_is_no_stream_and_no_token(make_model: ModelFile) -> None:
    restorer, wrong = keygraph.load(make_model("identity"), library=None), "cancel is 3; give a threading.Event"
    with pytest.raises(InputError, match="the images are 3; give a list"):
        restorer.many(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=wrong):
        restorer.many([noise(0)], cancel=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=wrong):
        restorer(noise(0), cancel=3)  # type: ignore[arg-type]


def test_many_of_a_closed_model(make_model: ModelFile) -> None:
    restorer = keygraph.load(make_model("identity"), library=None)
    restorer.close()
    with pytest.raises(ClosedError):
        list(restorer.many([noise(0)]))


def test_a_call_is_cancelled_between_tiles(make_model: ModelFile) -> None:
    restorer, cancel, done = keygraph.load(make_model("blur"), library=None), threading.Event(), list[int]()

    def progress(tiles: int, _total: int) -> None:
        done.append(tiles)
        if tiles == 3:
            cancel.set()

    with pytest.raises(CancelledError, match="the restoration was cancelled"):
        restorer(noise(0, 100, 100), tile=32, batch=1, progress=progress, cancel=cancel)
    assert done == [1, 2, 3]
    with pytest.raises(CancelledError):  # Before any work.
        restorer(noise(0), cancel=cancel)
    cancel.clear()
    assert restorer(noise(0), cancel=cancel).shape == (32, 32, 3)
    assert not issubclass(CancelledError, InputError)


def test_a_cancelled_stream_ends(make_manifest: Callable[..., Manifest]) -> None:
    cancel = threading.Event()
    many = Restorer(Slow(make_manifest())).many((noise(n) for n in range(9)), cancel=cancel, return_exceptions=True)
    next(many)
    cancel.set()
    with pytest.raises(CancelledError):
        list(many)


def test_records_of_the_logger(
    make_model: ModelFile, make_manifest: Callable[..., Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    class Small:
        description = "small"
        manifest = make_manifest()

        def run(self, images: Any, k: int | None, *extras: Any) -> Any:
            if len(images) > 1:
                raise SessionMemoryError("out of memory")
            return images

    caplog.set_level(logging.DEBUG, logger="keygraph")
    path = make_model("identity")
    keygraph.load(path, library=None)(noise(0))
    Restorer(Small()).restore(noise(0, 100, 100), tile=32, batch=2)
    records = [(record.levelname, record.name, record.getMessage()) for record in caplog.records]
    assert records[0][:2] == ("INFO", "keygraph")
    assert records[0][2].startswith(f"opened {path}: ONNX Runtime")
    assert records[1][:2] == ("DEBUG", "keygraph.runtime.restorer")
    assert "restored 32 x 32 in " in records[1][2]
    assert records[2][0] == "WARNING"
    assert "went on with 1" in records[2][2]


def test_a_program_without_logging_prints_nothing(make_model: ModelFile) -> None:
    code = (
        "import logging, keygraph\n"
        f"restore = keygraph.load({str(make_model('identity'))!r}, library=None)\n"
        "logging.getLogger('keygraph.runtime.restorer').warning('unseen')\n"
        "print('root handlers', len(logging.getLogger().handlers))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("root handlers 0\n", "")


def test_errors_are_keygraphs() -> None:
    assert issubclass(CancelledError, KeygraphError)
    assert CancelledError.exit_code == 1
