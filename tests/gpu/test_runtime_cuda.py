"""The runtime on a GPU: ONNX Runtime's CUDA provider, PyTorch, overlapped transfers, engines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
import torch
from concurrency import at_the_same_time
from keygraph.cli import main
from keygraph.errors import MissingDependencyError
from keygraph.export import export
from keygraph.manifest import ExtraInput
from keygraph.models import load_checkpoint
from keygraph.runtime.backends import engine_metadata
from keygraph.runtime.backends.base import run_batches
from keygraph.runtime.backends.tensorrt_bindings import load_backend
from keygraph.runtime.device.spec import Device
from keygraph.runtime.device.transfer_pipeline import TransferPipeline
from keygraph.runtime.device.transfer_slot import Batch
from keygraph.runtime.restorer import Restorer

CHECKPOINT = Path(__file__).parents[2] / "examples" / "kgt-denoise-tiny.ckpt"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "kgt.onnx"
    export(load_checkpoint(CHECKPOINT), path, verification=False)
    return path


@pytest.fixture(scope="module")
def photo() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((200, 300, 3), np.float32)


def close(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any], decibels: float) -> None:
    error = float(np.mean((ours.astype(np.float64) - theirs) ** 2))
    assert -10 * np.log10(max(error, 1e-30)) > decibels


def cuda_restorer(model: Path, **options: Any) -> Restorer:
    try:
        return keygraph.load(model, device="cuda", **options)
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("library", ["auto", None])
@pytest.mark.parametrize("k", [32, 200])
def test_onnx_runtime_on_the_gpu_gives_what_the_cpu_gives(
    model: Path, photo: np.ndarray[Any, Any], library: str | None, k: int
) -> None:
    restorer = cuda_restorer(model, library=library)
    assert "CUDAExecutionProvider" in restorer.description
    assert "cuda:0" in restorer.description
    expected = keygraph.load(model, library=None)(photo, k, tile=128, overlap=32, batch=2)
    close(restorer(photo, k, tile=128, overlap=32, batch=2), expected, 50)


def test_a_checkpoint_on_the_gpu(photo: np.ndarray[Any, Any]) -> None:
    close(keygraph.load(CHECKPOINT, device="cuda")(photo, tile=128), keygraph.load(CHECKPOINT)(photo, tile=128), 50)


def test_a_gpu_that_is_not_there(model: Path) -> None:
    with pytest.raises(keygraph.errors.InputError, match="give one of cuda:0"):
        keygraph.load(CHECKPOINT, device="cuda:99")


def restore_in_threads(restorer: Restorer, photo: np.ndarray[Any, Any]) -> None:
    """Restore different images in four threads at the same time, and compare with one after the other."""
    images = [np.ascontiguousarray(np.roll(photo, 40 * number, 1)) for number in range(4)]
    expected = [restorer(image, tile=128) for image in images]

    def restore(number: int) -> None:
        np.testing.assert_array_equal(restorer(images[number], tile=128), expected[number])

    at_the_same_time(4, restore, rounds=4)


def test_threads_share_a_model_on_the_gpu(model: Path, photo: np.ndarray[Any, Any]) -> None:
    restore_in_threads(cuda_restorer(model), photo)
    restore_in_threads(keygraph.load(CHECKPOINT, device="cuda"), photo)


@pytest.fixture
def cuda() -> Iterator[Any]:
    pytest.importorskip("cuda.bindings.runtime")
    from keygraph.runtime.device.cuda_runtime import Cuda

    gpu = Cuda(Device("cuda"))
    yield gpu
    gpu.close()


def copying(gpu: Any, graphs: dict[Batch, Any] | None) -> Callable[[Batch, int], None]:
    """Return a launch that copies the images to the results, as a CUDA graph from the second time on."""
    from cuda.bindings import runtime

    def copy(batch: Batch, stream: int) -> None:
        size = int(np.prod(batch.shapes[0])) * 4
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        (status,) = runtime.cudaMemcpyAsync(batch.restored, batch.inputs[0], size, kind, stream)
        assert status == runtime.cudaError_t.cudaSuccess

    def launch(batch: Batch, stream: int) -> None:
        if graphs is None:
            copy(batch, stream)
        elif batch in graphs:
            gpu.launch(graphs[batch], stream)
        else:
            copy(batch, stream)
            graphs[batch] = gpu.capture(stream, lambda: copy(batch, stream))
            assert graphs[batch] is not None

    return launch


@pytest.mark.parametrize("graphs", [None, {}])
def test_copies_beside_a_computation_keep_every_batch_apart(cuda: Any, graphs: dict[Batch, Any] | None) -> None:
    pipeline = TransferPipeline(cuda, copying(cuda, graphs))
    for size in (16, 512, 64):
        batches = ((np.full((2, 3, size, size), i, np.float32),) for i in range(1, 12))
        results = pipeline.run(batches, lambda shape: shape[0], lambda shape: tuple(shape), np.dtype(np.float32))
        for number, result in zip(itertools.count(1), results, strict=False):
            assert (result == number).all()
    pipeline.release()


def test_what_goes_with_an_image_reaches_the_gpu(make_model: Callable[..., Path], photo: np.ndarray[Any, Any]) -> None:
    restorer = cuda_restorer(make_model("masked", extra_inputs=(ExtraInput("mask", 1),)), library=None)
    mask = np.random.default_rng(1).random(photo.shape[:2], np.float32)
    for options in ({"tile": "none"}, {"tile": 64, "overlap": 0, "batch": 3}):
        restored = restorer.restore(photo, inputs={"mask": mask}, **options).image
        close(restored, photo * mask[:, :, None], 100)


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def engine(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an engine for this GPU with an installed backend."""
    pytest.importorskip("cuda.bindings.runtime")
    try:
        load_backend(request.param)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp(request.param)
    major, minor = torch.cuda.get_device_capability()
    words = ["build", model, "--target", f"sm_{major}{minor}", "--backend", request.param, "--tile", "64:128:128"]
    status = main([*map(str, words), "--batch", "1:2:4", "-o", str(folder)])
    if status == 2:
        pytest.skip(f"{request.param} does not build for sm_{major}{minor}")
    assert status == 0
    (path,) = folder.glob("*.plan")
    return path


def test_an_engine_restores_what_onnx_runtime_restores(engine: Path, model: Path, photo: np.ndarray[Any, Any]) -> None:
    restorer, reference = keygraph.load(engine), keygraph.load(model, library=None)
    for k in (32, 128):
        for options in ({"tile": 128, "overlap": 32, "batch": 2}, {"tile": 64, "overlap": 32, "batch": 3}):
            close(restorer(photo, k, **options), reference(photo, k, **options), 45)  # type: ignore[arg-type]


def test_overlapped_batches_are_those_of_single_runs(engine: Path) -> None:
    session = keygraph.load(engine).session
    images = [np.random.default_rng(i).random((2, 3, 128, 128), np.float32) for i in range(6)]
    alone = [session.run(batch, 64) for batch in images]
    for one, streamed in zip(alone, run_batches(session, ((batch,) for batch in images), 64), strict=True):
        np.testing.assert_array_equal(one, streamed)


def test_threads_share_an_engine(engine: Path, photo: np.ndarray[Any, Any]) -> None:
    restore_in_threads(keygraph.load(engine), photo)


def test_two_sessions_and_a_closed_one(engine: Path, photo: np.ndarray[Any, Any]) -> None:
    first, second = keygraph.load(engine), keygraph.load(engine)
    expected = first(photo, tile=128)
    np.testing.assert_array_equal(second(photo, tile=128), expected)
    first.close()
    np.testing.assert_array_equal(second(photo, tile=128), expected)


def test_an_engine_for_another_gpu_is_refused_before_it_is_loaded(engine: Path, tmp_path: Path) -> None:
    import dataclasses

    copy = tmp_path / engine.name
    copy.write_bytes(engine.read_bytes())
    metadata = dataclasses.replace(engine_metadata.read(engine), capability=(7, 0), target="sm_70", compatible="none")
    engine_metadata.metadata_path(copy).write_text(metadata.to_json())
    with pytest.raises(keygraph.errors.InputError, match="for sm_70; here it is"):
        keygraph.load(copy)
