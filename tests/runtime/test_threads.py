"""Every session serves several threads at a time, each with its own results, until it is closed."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keygraph
import numpy as np
import pytest
from concurrency import at_the_same_time
from keygraph.errors import InputError
from keygraph.manifest import ExtraInput, Manifest, Neighbours
from keygraph.runtime.backends.io_binding import BoundBuffers
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.device.spec import Device
from keygraph.runtime.errors import ClosedError
from keygraph.runtime.restorer import Restorer
from keygraph.runtime.tiling.exact import model as exact_model

if TYPE_CHECKING:
    from exported import ExportStore
    from tiny_kgt import Tiny

ModelFile = Callable[..., Path]
Array = np.ndarray[Any, Any]
K = Neighbours(64, 256)


def noise(number: int, height: int = 64, width: int = 64) -> Array:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def through_buffers(path: Path, **options: Any) -> Restorer:
    """Return a restorer that runs through I/O binding, as on a GPU, with its buffers on the CPU."""
    session = OnnxRuntimeSession(path, **options)
    assert session._session is not None
    session._buffers = BoundBuffers(session._session, Device())
    return Restorer(session)


def restore_in_threads(restorer: Restorer, threads: int = 4, rounds: int = 6, **options: Any) -> None:
    """Restore different images, some of another size, in several threads, and compare with one after the other."""
    images = [noise(number, 64 + 32 * (number % 2)) for number in range(threads)]
    expected = [restorer(image, **options) for image in images]

    def restore(number: int) -> None:
        np.testing.assert_array_equal(restorer(images[number], **options), expected[number])

    at_the_same_time(threads, restore, rounds)


@pytest.mark.parametrize("opened", [keygraph.load, through_buffers])
def test_a_network_in_onnx_runtime(tiny: Tiny, opened: Callable[..., Restorer]) -> None:
    restore_in_threads(opened(tiny.onnx, threads=1))


def test_buffers_of_several_threads_and_sizes(make_model: ModelFile) -> None:
    """Thread switches between copying the inputs, running and copying the result are very frequent here."""
    restorer = through_buffers(make_model("add_k", neighbours=K), library=None)
    images = [np.full((16 + 8 * (number % 2), 16, 3), 20 * number, np.uint8) for number in range(6)]

    def restore(number: int) -> None:
        added = np.float32(255 * (10 + number) / 1000)
        np.testing.assert_array_equal(restorer(images[number], 10 + number), np.rint(images[number] + added))

    at_the_same_time(6, restore, rounds=60)


def test_results_of_buffers_are_the_callers(make_model: ModelFile) -> None:
    restorer = through_buffers(make_model("identity"), library=None)
    ones, zeros = np.ones((1, 3, 8, 8), np.float32), np.zeros((1, 3, 8, 8), np.float32)
    first = restorer.session.run(ones, None)
    restorer.session.run(zeros, None)
    assert first.min() == 1


def test_a_run_that_fails_takes_no_buffers_from_another(make_model: ModelFile) -> None:
    session = through_buffers(make_model("masked", extra_inputs=(ExtraInput("mask", 3),)), library=None).session
    image, wrong = np.ones((1, 3, 16, 16), np.float32), np.ones((1, 3, 16, 5), np.float32)

    def run(number: int) -> None:
        if number % 2:
            with pytest.raises(keygraph.KeygraphError, match="failed on an image tensor"):
                session.run(image, None, wrong)
        else:
            mask = np.full((1, 3, 16, 16), number, np.float32)
            np.testing.assert_array_equal(session.run(image, None, mask), mask)

    at_the_same_time(4, run, rounds=30)


def test_pytorch(tiny: Tiny) -> None:
    pytest.importorskip("torch")
    restore_in_threads(keygraph.load(tiny.checkpoint), rounds=3)


def test_exact_tiles(exports: ExportStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from tiny_channel_attention import CSA

    analyses: list[int] = []
    analyse = exact_model.ExactModel._make_plan

    def counted(model: exact_model.ExactModel) -> Any:
        analyses.append(1)
        return analyse(model)

    monkeypatch.setattr(exact_model.ExactModel, "_make_plan", counted)
    path = exports.get(CSA, "restormer").onnx
    images = [noise(number, 96 + 8 * number, 130) for number in range(2)]
    expected = [keygraph.load(path, threads=1)(image, tile=64) for image in images]
    restorer, begun = keygraph.load(path, threads=1), threading.Barrier(2)
    analyses.clear()

    def restore(number: int) -> None:
        begun.wait()
        restored = restorer.restore(images[number], tile=64)
        assert restored.sweeps > 0
        np.testing.assert_array_equal(restored.image, expected[number])

    at_the_same_time(2, restore)
    assert analyses == [1]  # of the network, for all threads


@pytest.mark.parametrize("kind", ["onnxruntime", "buffers", "pytorch"])
def test_a_closed_model_says_so(
    make_model: ModelFile, make_manifest: Callable[..., Manifest], kind: str, tiny: Tiny
) -> None:
    if kind == "pytorch":
        pytest.importorskip("torch")
    path = tiny.checkpoint if kind == "pytorch" else make_model("identity")
    opened = through_buffers if kind == "buffers" else keygraph.load
    with opened(path, library=None) as restorer:
        expected = restorer(noise(0))
    for _ in range(2):
        with pytest.raises(ClosedError, match="this model has been closed; load it again"):
            restorer(noise(0))
        with pytest.raises(ClosedError):
            restorer.session.run(np.zeros((1, 3, 16, 16), np.float32), None)
        restorer.close()
    assert restorer.manifest.in_channels == 3
    np.testing.assert_array_equal(opened(path, library=None)(noise(0)), expected)


@pytest.mark.parametrize("opened", [keygraph.load, through_buffers])
def test_closing_while_other_threads_restore(make_model: ModelFile, opened: Callable[..., Restorer]) -> None:
    restorer, begun = opened(make_model("blur"), library=None, threads=1), threading.Barrier(4)
    expected = restorer(noise(0))

    def work(number: int) -> None:
        begun.wait()
        if number == 0:
            restorer.close()
            return
        with contextlib.suppress(ClosedError):
            while True:
                np.testing.assert_array_equal(restorer(noise(0)), expected)

    at_the_same_time(4, work)
    with pytest.raises(ClosedError):
        restorer(noise(0))


def test_a_closed_session_is_not_divided(make_model: ModelFile) -> None:
    session = OnnxRuntimeSession(make_model("identity"), library=None)
    session.close()
    with pytest.raises(ClosedError):
        session.exact()
    with OnnxRuntimeSession(make_model("identity"), library=None) as again:
        assert again.run(np.zeros((1, 3, 8, 8), np.float32), None).max() == 0
    assert not issubclass(ClosedError, InputError)  # not of what the user gave: exit code 1
    assert str(pickle.loads(pickle.dumps(ClosedError()))) == str(ClosedError())  # as process pools do
