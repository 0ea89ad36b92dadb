"""Repositories in a double of the Triton Inference Server give what `keygraph restore` gives."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
import tiny_channel_attention
from exported import ExportStore
from keygraph.manifest import ExtraInput
from keygraph.runtime.io import images
from keygraph.runtime.restore_files import restore_file
from keygraph.serving.triton.repository import write_repository
from keygraph.serving.triton.settings import Settings
from numpy.typing import NDArray
from tiny_kgt import Tiny
from triton_server_double import OnnxModel, Server, ServerError

ModelFile = Callable[..., Path]


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """Write a repository of a model, and load it: ``with serve(model, batch=4) as server``."""

    @contextmanager
    def served(model: Path, **settings: Any) -> Iterator[Server]:
        repository = tmp_path / "repository"
        write_repository(model, repository, Settings("served", mounted_at=str(repository), **settings))
        with Server(repository) as server:
            yield server

    return served


def picture(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).random(shape)
    return (values * 255).astype(dtype) if dtype == np.uint8 else (values * 65535).astype(dtype)


def restored(model: Path, image: NDArray[Any], k: int | None = None, **inputs: NDArray[Any]) -> NDArray[Any]:
    with keygraph.load(model, threads=1) as restorer:
        return restorer.restore(image, k, inputs=inputs, batch=1).image


def test_a_kgt_in_tiles(tiny: Tiny, serve: Callable[..., Any]) -> None:
    """An odd size, padded and in nine tiles, of which the server joins several."""
    image = picture(513, 515, 3)
    with serve(tiny.onnx, batch=4) as server:
        answer = server.infer(image_uint8=image)
        batches = server.core.batches
    np.testing.assert_array_equal(answer["restored_uint8"], restored(tiny.onnx, image))
    assert sum(batches) == 9
    assert max(batches) > 1


def test_a_fixed_k(tiny: Tiny, serve: Callable[..., Any]) -> None:
    image = picture(37, 50, 3)
    with serve(tiny.onnx, k=8) as server:
        np.testing.assert_array_equal(server.infer(image_uint8=image)["restored_uint8"], restored(tiny.onnx, image, 8))
        with pytest.raises(ServerError, match="unexpected inference input 'k'"):
            server.infer(image_uint8=image, k=np.array([8]))


def test_the_functions_in_the_file(tiny: Tiny, serve: Callable[..., Any]) -> None:
    """Without a library, k goes into standard operators."""
    image = picture(16, 24, 3)
    with serve(tiny.onnx, library=None) as server:
        answer = server.infer(image_fp32=image / np.float32(255), k=np.array([32]))["restored_fp32"]
    with keygraph.load(tiny.onnx, library=None, threads=1) as restorer:
        np.testing.assert_array_equal(answer, restorer(image / np.float32(255), 32))


@pytest.mark.parametrize(("kind", "dtype"), [("uint8", np.uint8), ("uint16", np.uint16), ("fp32", np.float32)])
def test_every_type_of_image(tiny: Tiny, serve: Callable[..., Any], kind: str, dtype: Any) -> None:
    image = picture(37, 50, 3, dtype=np.uint16) / 65535
    image = image.astype(np.float32) if kind == "fp32" else (image * np.iinfo(dtype).max).astype(dtype)
    with serve(tiny.onnx) as server:
        (answer,) = server.infer(**{f"image_{kind}": image}).items()
    assert answer[0] == f"restored_{kind}"
    np.testing.assert_array_equal(answer[1], restored(tiny.onnx, image))


def test_requests_of_equal_k_run_together(tiny: Tiny, serve: Callable[..., Any]) -> None:
    """Six images of one size with two values of k, all waiting for the core: no batch has both."""
    asked = [(seed, k) for seed, k in enumerate((8, 8, 8, 32, 32, None))]
    with serve(tiny.onnx, batch=8) as server, ThreadPoolExecutor(6) as pool, server.core.held_until(6):

        def ask(seed: int, k: int | None) -> NDArray[Any]:
            given = {} if k is None else {"k": np.array([k])}
            answer: NDArray[Any] = server.infer(image_uint8=picture(40, 40, 3, seed=seed), **given)["restored_uint8"]
            return answer

        answers = list(pool.map(lambda one: ask(*one), asked))
        shapes = server.core.shapes
    for (seed, k), answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer, restored(tiny.onnx, picture(40, 40, 3, seed=seed), k))
    lengths = [one["k_length"] for one in shapes]
    assert sum(batch for batch, _ in lengths) == 6
    assert {k for _, k in lengths} == {8, 16, 32}
    assert len(lengths) < 6


def test_requests_of_equal_size_run_together(tiny: Tiny, serve: Callable[..., Any]) -> None:
    """Images of 33 and 40 pixels are both padded to 40; that of 24 is not joined with them."""
    sizes = (33, 40, 36, 24)
    with serve(tiny.onnx, k=16, batch=8) as server, ThreadPoolExecutor(4) as pool, server.core.held_until(4):
        given = [picture(size, 40, 3, seed=size) for size in sizes]
        answers = list(pool.map(lambda image: server.infer(image_uint8=image)["restored_uint8"], given))
        batches = sorted(server.core.batches)
    assert batches in ([1, 3], [1, 1, 2])  # Together, unless the small one came between them.
    for image, answer in zip(given, answers, strict=True):
        np.testing.assert_array_equal(answer, restored(tiny.onnx, image))


def test_a_restormer(exports: ExportStore, serve: Callable[..., Any]) -> None:
    """Statistics over the whole image: it is not tiled."""
    model = exports.get(tiny_channel_attention.CSA, "restormer").onnx
    image = picture(45, 70, 3)
    with serve(model, batch=4) as server:
        answer = server.infer(image_uint8=image)
        assert server.core.shapes == [{"image": (1, 3, 48, 72)}]
    np.testing.assert_array_equal(answer["restored_uint8"], restored(model, image))


def test_an_mst_with_its_mask(exports: ExportStore, serve: Callable[..., Any]) -> None:
    """fp16 with float32 inputs; a measurement that is wider than the cube, and a mask that belongs to it."""
    found = tiny_channel_attention.exported("mst", exports)
    assert found.manifest.extra_inputs == (ExtraInput("mask", 1),)
    wide = found.manifest.margin[1]
    measurement, mask = (picture(27, 30 + more, 1, dtype=np.uint16) / np.float32(65535) for more in (wide, 0))
    values = {"image_fp32": measurement.astype(np.float32), "mask": mask.astype(np.float32)}
    with serve(found.onnx) as server:
        (answer,) = server.infer(**values).values()
        with pytest.raises(ServerError, match="input 'mask' is missing"):
            server.infer(image_fp32=values["image_fp32"])
        with pytest.raises(ServerError, match="mask") as refused:
            server.infer(image_fp32=values["image_fp32"], mask=values["mask"][:9])
        assert refused.value.code == "INVALID_ARG"
    assert answer.shape == (27, 30, found.manifest.out_channels)
    np.testing.assert_array_equal(answer, restored(found.onnx, values["image_fp32"], mask=values["mask"]))


def test_views(make_model: ModelFile, serve: Callable[..., Any]) -> None:
    model = make_model("bands", in_channels=6, views=("left", "right"))
    left, right = picture(20, 30, 3), picture(20, 30, 3, seed=1)
    with serve(model) as server:
        answer = server.infer(image_uint8=left, right_uint8=right)["restored_uint8"]
        with pytest.raises(ServerError, match="takes right beside the image, and it is missing; give right_uint8"):
            server.infer(image_uint8=left, right_uint16=right.astype(np.uint16))
    np.testing.assert_array_equal(answer, restored(model, left, right=right))


def test_colours_for_a_model_of_gray(make_model: ModelFile, serve: Callable[..., Any]) -> None:
    """Three images for each tile, where the core takes one at a time."""
    model = make_model("blur", in_channels=1, out_channels=1)
    image = picture(20, 30, 3)
    with serve(model) as server:
        answer = server.infer(image_uint8=image)["restored_uint8"]
        assert server.core.batches == [1, 1, 1]
    np.testing.assert_array_equal(answer, restored(model, image))


def test_a_fixed_shape_runs_in_its_own_batches(make_model: ModelFile, serve: Callable[..., Any]) -> None:
    model = make_model("blur", shape=(2, 32, 32), size_multiple=8)
    image = picture(70, 50, 3)
    with serve(model) as server:
        assert server.core.config.max_batch_size == 0
        answer = server.infer(image_uint8=image)["restored_uint8"]
        assert {one["image"] for one in server.core.shapes} == {(2, 3, 32, 32)}
    with keygraph.load(model, threads=1) as restorer:
        np.testing.assert_array_equal(answer, restorer(image))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_image_files(tmp_path: Path, tiny: Tiny, serve: Callable[..., Any], suffix: str) -> None:
    """The file that is sent back is the one that `keygraph restore` writes, alpha and depth included."""
    deep = suffix in (".png", ".tif")
    pixels = picture(37, 50, 3, dtype=np.uint16 if deep else np.uint8)
    source, target = tmp_path / f"given{suffix}", tmp_path / f"target{suffix}"
    images.write(source, images.Picture(pixels, alpha=pixels[:, :, 0] if deep else None))
    with serve(tiny.onnx) as server:
        (answer,) = server.infer(image_file=np.array([source.read_bytes()], np.object_), k=np.array([8])).values()
    with keygraph.load(tiny.onnx, threads=1) as restorer:
        restore_file(restorer, source, target, 8, batch=1)
    assert answer[0] == target.read_bytes()


def files(*contents: bytes) -> NDArray[Any]:
    return np.array(contents, np.object_)


IMAGE = picture(16, 16, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "the request has no image; give one of image_uint8, image_uint16, image_fp32, image_file"),
        (
            {"image_uint8": IMAGE, "image_fp32": IMAGE.astype(np.float32)},
            "the request has image_uint8 and image_fp32; give one of",
        ),
        ({"image_uint8": IMAGE, "k": np.array([0])}, "k is 0; it must be a whole number from 1 to 64"),
        ({"image_uint8": IMAGE, "k": np.array([65])}, "k is 65; it must be a whole number from 1 to 64"),
        ({"image_uint8": IMAGE[:, :, :2]}, "2 channels"),
        ({"image_uint8": IMAGE[:0]}, "0"),
        ({"image_fp32": np.full((16, 16, 3), np.nan, np.float32)}, "NaN"),
        ({"image_file": files(b"<html>")}, "image_file is no image file that can be read; give PNG, JPEG, TIFF"),
        ({"image_file": files(b"\x89PNG\r\n\x1a\n....")}, r"^image\.png is damaged"),
        ({"image_file": files(b"")}, "image_file is no image file"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_bad_requests(tiny: Tiny, serve: Callable[..., Any], inputs: dict[str, Any], message: str) -> None:
    with serve(tiny.onnx) as server:
        with pytest.raises(ServerError, match=message) as refused:
            server.infer(**inputs)
        assert refused.value.code == "INVALID_ARG"
        assert "\n" not in str(refused.value)
        assert server.infer(image_uint8=IMAGE)["restored_uint8"].shape == (16, 16, 3)


def test_a_bad_request_does_not_affect_the_others(tiny: Tiny, serve: Callable[..., Any]) -> None:
    """All in one call of `execute`."""
    good = [picture(24, 24, 3, seed=seed) for seed in range(4)]
    with serve(tiny.onnx, batch=4) as server:
        requests = [server.images.request({"image_uint8": image}) for image in good]
        requests.insert(1, server.images.request({"image_uint8": IMAGE, "k": np.array([999])}))
        requests.insert(3, server.images.request({}))
        answers = server.images.execute(requests)
    errors = [str(answer) for answer in answers if isinstance(answer, ServerError)]
    assert [type(answer) for answer in answers].index(ServerError) == 1
    assert [error.partition(";")[0] for error in errors] == ["k is 999", "the request has no image"]
    for image, answer in zip(good, [one for one in answers if isinstance(one, dict)], strict=True):
        np.testing.assert_array_equal(answer["restored_uint8"], restored(tiny.onnx, image))


def test_results_that_are_not_finite(make_model: ModelFile, serve: Callable[..., Any]) -> None:
    with serve(make_model("bright_nan")) as server:
        with pytest.raises(ServerError, match="the model gave NaN or infinity") as failed:
            server.infer(image_uint8=np.full((16, 16, 3), 255, np.uint8))
        assert failed.value.code == "INTERNAL"
        dark = np.full((16, 16, 3), 9, np.uint8)
        np.testing.assert_array_equal(server.infer(image_uint8=dark)["restored_uint8"], dark)


def test_a_result_that_was_not_asked_for(tiny: Tiny, serve: Callable[..., Any]) -> None:
    with serve(tiny.onnx) as server:
        with pytest.raises(ServerError, match="the result of this request is restored_uint8, not restored_fp32; ask"):
            server.infer(["restored_fp32"], image_uint8=IMAGE)
        assert [*server.infer(["restored_uint8"], image_uint8=IMAGE)] == ["restored_uint8"]


def test_a_core_that_fails(tiny: Tiny, serve: Callable[..., Any]) -> None:
    with serve(tiny.onnx) as server:
        core = server.models.pop("served_core")
        with pytest.raises(ServerError, match=r"the model served_core failed: .*not ready") as failed:
            server.infer(image_uint8=IMAGE)
        assert failed.value.code == "INTERNAL"
        server.models["served_core"] = core


def test_a_cancelled_request(tiny: Tiny, serve: Callable[..., Any]) -> None:
    with serve(tiny.onnx) as server:
        request = server.images.request({"image_uint8": IMAGE})
        request.cancelled.set()
        (answer,) = server.images.execute([request])
        assert server.core.batches == []
    assert isinstance(answer, ServerError)
    assert answer.code == "CANCELLED"


def test_smaller_tiles_when_the_core_is_out_of_memory(
    make_model: ModelFile, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image = make_model("identity"), picture(300, 300, 3)
    infer: Callable[..., dict[str, NDArray[Any]]] = OnnxModel.infer

    def little_memory(self: OnnxModel, inputs: dict[str, NDArray[Any]], wanted: list[str]) -> dict[str, NDArray[Any]]:
        if inputs["image"].size > 3 * 256 * 256:
            raise ServerError("onnx runtime error 6: Failed to allocate memory for requested buffer")
        return infer(self, inputs, wanted)

    monkeypatch.setattr(OnnxModel, "infer", little_memory)
    with serve(model) as server:
        np.testing.assert_array_equal(server.infer(image_uint8=image)["restored_uint8"], image)
        assert any("ran out of memory" in line for line in server.log)


def test_many_clients(tiny: Tiny, serve: Callable[..., Any]) -> None:
    """More requests than tiles in flight, of several sizes, types and k, through two copies of the core."""
    start = threading.Barrier(4)
    with serve(tiny.onnx, batch=2, core_instances=2) as server, ThreadPoolExecutor(4) as pool:

        def client(number: int) -> None:
            start.wait()
            for step in range(3):
                image, k = picture(16 + 8 * step, 20 + number, 3, seed=number), 8 + 8 * (number % 2)
                answer = server.infer(image_uint8=image, k=np.array([k]))["restored_uint8"]
                np.testing.assert_array_equal(answer, restored(tiny.onnx, image, k))

        list(pool.map(client, range(4)))


def test_a_damaged_repository_does_not_load(tmp_path: Path, tiny: Tiny) -> None:
    repository = tmp_path / "repository"
    write_repository(tiny.onnx, repository, Settings("served", mounted_at=str(repository)))
    core = repository / "served" / "1" / "core.json"
    text = core.read_text()
    for content, message in (
        ("{}", r"core\.json is damaged; write the repository again"),
        (text.replace('"k_input"', '"other"'), r"damaged, or of another version of keygraph .*write the repository"),
        (text.replace('"format_version": ', '"format_version": 9'), "is newer than this keygraph reads"),
    ):
        core.write_text(content)
        with pytest.raises(Exception, match=message) as failed:
            Server(repository)
        assert type(failed.value).__name__ == "TritonModelException"


def test_the_server_needs_no_extra() -> None:
    """In the server, keygraph is installed without any."""
    names = ("torch", "onnx", "onnx_ir", "onnxruntime", "typer", "rich", "google.protobuf")
    code = f"import sys; sys.modules.update(dict.fromkeys({names})); import keygraph.serving.triton.image_model"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
