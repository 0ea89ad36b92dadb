"""Overlapped transfers on a fake GPU that runs operations in random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu, Work
from keygraph.runtime.device.transfer_pipeline import TransferPipeline
from keygraph.runtime.device.transfer_slot import Batch
from keygraph.runtime.errors import SessionMemoryError

FLOAT = np.dtype(np.float32)


def doubling(gpu: FakeGpu) -> Any:
    """Return a launch whose result is twice the image plus all other inputs."""

    def launch(batch: Batch, stream: int) -> None:
        def run() -> None:
            first, *others = (gpu.read(*one, FLOAT) for one in zip(batch.inputs, batch.shapes, strict=True))
            gpu.write(batch.restored, sum(others, first * 2))

        gpu.submit("compute", stream, run)

    return launch


def same(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(shape)


def batches(*counts: int) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """Yield batches in one shared buffer, so that each is valid only until the next one is requested."""
    buffer = np.zeros((max(counts), 3, 4, 5), np.float32)
    for number, count in enumerate(counts):
        buffer[...] = number + 1
        yield (buffer[:count],)
        buffer[...] = -1


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_whatever_the_gpu_does_first_results_are_right_and_in_order(slots: int) -> None:
    for seed in range(60):
        gpu = FakeGpu(seed)
        counts = (2, 2, 2, 2, 1) if seed % 2 else (1, 3, 2)
        pipeline = TransferPipeline(gpu, doubling(gpu), slots)
        seen = []
        for number, result in enumerate(pipeline.run(batches(*counts), lambda shape: shape[0], same, FLOAT)):
            assert (result == 2 * (number + 1)).all()
            seen.append(len(result))
        assert seen == list(counts)
        pipeline.release()
        assert gpu.memory == {}


def test_every_input_goes_with_its_batch() -> None:
    def both() -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
        for number in range(5):
            yield np.full((2, 3, 4, 5), number, np.float32), np.full((2, 1, 4, 5), 100 * number, np.float32)

    for seed in range(30):
        gpu = FakeGpu(seed)
        pipeline = TransferPipeline(gpu, doubling(gpu))
        for number, result in enumerate(pipeline.run(both(), lambda shape: 3, same, FLOAT)):
            assert result.shape == (2, 3, 4, 5)
            assert (result == 102 * number).all()
        pipeline.release()
        assert gpu.memory == {}


def works(gpu: FakeGpu, kind: str) -> list[Work]:
    return [work for work in gpu.history if work.name.startswith(kind)]


def test_copies_overlap_the_computation() -> None:
    gpu = FakeGpu()
    pipeline = TransferPipeline(gpu, doubling(gpu))
    list(pipeline.run(batches(1, 1, 1, 1, 1), lambda shape: shape[0], same, FLOAT))
    uploads, computes, downloads = (works(gpu, kind) for kind in ("upload", "compute", "download"))
    for i in range(5):
        assert computes[i].needs(uploads[i])
        assert downloads[i].needs(computes[i])
        if i:
            # A copy waits only for its own stream and its own batch.
            assert not uploads[i].needs(computes[i - 1])
            assert not computes[i].needs(downloads[i - 1])
        # The host waits for a result only after the next batch has been submitted.
        if i < 4:
            assert gpu.host.index(f"download {i + 1}") < gpu.host.index(f"wait download {i}")


def test_a_batch_that_is_filled_up_copies_only_what_there_is() -> None:
    gpu = FakeGpu()
    sizes: list[int] = []

    def launch(batch: Batch, stream: int) -> None:
        sizes.append(batch.shapes[0][0])
        doubling(gpu)(batch, stream)

    pipeline = TransferPipeline(gpu, launch)
    shapes = [result.shape for result in pipeline.run(batches(4, 1), lambda shape: 4, same, FLOAT)]
    assert shapes == [(4, 3, 4, 5), (1, 3, 4, 5)]
    assert sizes == [4, 4]


def test_half_precision_is_converted_on_the_host() -> None:
    gpu = FakeGpu()

    def launch(batch: Batch, stream: int) -> None:
        def run() -> None:
            gpu.write(batch.restored, gpu.read(batch.inputs[0], batch.shapes[0], np.float16) + np.float16(1))

        gpu.submit("compute", stream, run)

    results = TransferPipeline(gpu, launch).run(batches(2), lambda shape: 2, same, np.dtype(np.float16))
    assert [(result.dtype, float(result.min())) for result in results] == [(np.dtype(np.float16), 2.0)]


def test_who_stops_in_the_middle_leaves_nothing_running() -> None:
    for seed in range(20):
        gpu = FakeGpu(seed)
        pipeline = TransferPipeline(gpu, doubling(gpu))
        results = pipeline.run(batches(1, 1, 1, 1), lambda shape: shape[0], same, FLOAT)
        next(results)
        results.close()
        assert all(work.done for work in gpu.history)
        again = pipeline.run(batches(1, 1, 1), lambda shape: shape[0], same, FLOAT)
        assert [float(result.max()) for result in again] == [2, 4, 6]


def test_an_error_of_the_batches_leaves_nothing_running() -> None:
    def broken() -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
        yield from batches(1, 1)
        raise RuntimeError("no more")

    gpu = FakeGpu()
    with pytest.raises(RuntimeError, match="no more"):
        list(TransferPipeline(gpu, doubling(gpu)).run(broken(), lambda shape: shape[0], same, FLOAT))
    assert all(work.done for work in gpu.history)


def test_memory_that_runs_out_is_given_back() -> None:
    gpu = FakeGpu(limit=1000)
    pipeline = TransferPipeline(gpu, doubling(gpu))
    with pytest.raises(SessionMemoryError):
        list(pipeline.run(batches(4, 4), lambda shape: shape[0], same, FLOAT))
    assert gpu.memory == {}
    assert [float(result.max()) for result in pipeline.run(batches(1, 1), lambda s: s[0], same, FLOAT)] == [2, 4]
