"""Export measures the cost of statistics over the whole image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from keygraph.export.calibrate import calibrate, calibrate_tiling, statistics_images
from keygraph.export.calibration_data import CalibrationImage
from keygraph.instrumentation.metrics import EQUAL_DB, psnr
from keygraph.instrumentation.synthetic import synthetic_image
from keygraph.manifest import METADATA_KEY, Manifest, from_json
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.io import images
from keygraph.runtime.restorer import Restorer

onnx = pytest.importorskip("onnx")

MakeManifest = Callable[..., Manifest]


def write_model(path: Path, manifest: Manifest, subtracted: str, radius: int = 0) -> None:
    """Write a network that subtracts its mean from the image, that of some pixels, or the running sums of its columns.

    `radius` is how far away the pixels of the ``"local"`` mean are.
    """
    helper, float_ = onnx.helper, onnx.TensorProto.FLOAT
    node = {
        "mean": helper.make_node("GlobalAveragePool", ["image"], ["mean"], "mean"),
        "local": helper.make_node(
            "AveragePool",
            ["image"],
            ["local"],
            kernel_shape=[2 * radius + 1] * 2,
            pads=[radius] * 4,
            count_include_pad=0,
        ),
        "running": helper.make_node("CumSum", ["image", "axis"], ["running"], "running"),
    }[subtracted]
    graph = helper.make_graph(
        [node, helper.make_node("Sub", ["image", subtracted], ["restored"], "restored")],
        "test",
        [helper.make_tensor_value_info("image", float_, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("restored", float_, ["batch", 3, None, None])],
        [onnx.numpy_helper.from_array(np.int64(2), "axis")] if subtracted == "running" else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    path.write_bytes(model.SerializeToString())


def test_tiles_are_measured_and_exact_ones_proven(tmp_path: Path, make_manifest: MakeManifest) -> None:
    manifest = make_manifest(global_statistics=True)
    said: list[str] = []
    write_model(tmp_path / "mean.onnx", manifest, "mean")
    pictures = statistics_images(manifest, None, {})
    measured = calibrate(tmp_path / "mean.onnx", manifest, pictures, said.append)
    assert from_json(measured.to_json(), "test") == measured
    statistics = measured.statistics
    assert statistics is not None
    assert [tiling.tile for tiling in statistics.tilings] == [64, 128, 256]
    assert all(10 < tiling.psnr < 60 for tiling in statistics.tilings)
    assert measured.tiling == statistics.tilings[-1]
    assert statistics.exact is not None
    assert statistics.exact.psnr > 100
    assert (statistics.exact.sweeps, statistics.exact.disk) == (2, 0.0)
    if Path("/proc/self/clear_refs").exists():
        assert statistics.memory is not None  # The amount is not checked: memory freed earlier may be used again.


def darker(size: tuple[int, int], *, down: bool) -> np.ndarray:
    """An image that gets darker to the right, and down or up: along one of its diagonals."""
    rows, columns = (np.linspace(0.5, 0, side, dtype=np.float32) for side in size)
    image: np.ndarray = np.broadcast_to((rows if down else rows[::-1])[:, None] + columns, (1, 3, *size)).copy()
    return image


@pytest.mark.parametrize(
    "image",
    [
        *(synthetic_image((1, 3, *size), (0.0, 1.0)) for size in ((320, 320), (200, 320), (320, 90))),
        *(darker((320, 320), down=down) for down in (True, False)),
    ],
    ids=["square", "wide", "narrow", "darker down", "darker up"],
)
def test_what_tiles_change_is_about_what_all_tiles_of_the_image_change(
    tmp_path: Path, make_manifest: MakeManifest, image: np.ndarray
) -> None:
    manifest = make_manifest(global_statistics=True, clamp=None)
    path = tmp_path / "mean.onnx"
    write_model(path, manifest, "mean")
    picture = CalibrationImage("picture", (image,))
    measured = calibrate(path, manifest, [picture], lambda _line: None)
    assert measured.statistics is not None
    restorer = Restorer(OnnxRuntimeSession(path))
    pixels = np.moveaxis(image[0], 0, 2)
    whole = restorer.restore(pixels, tile="none").image
    for tiling in measured.statistics.tilings:
        tiled = restorer.restore(pixels, tile=tiling.tile, overlap=tiling.overlap, global_statistics="tile").image
        assert abs(tiling.psnr - min(psnr(tiled, whole, (0.0, 1.0)), EQUAL_DB)) < 3


def test_a_network_without_exact_tiles_is_marked(tmp_path: Path, make_manifest: MakeManifest) -> None:
    manifest = make_manifest(global_statistics=True)
    said: list[str] = []
    write_model(tmp_path / "running.onnx", manifest, "running")
    measured = calibrate(tmp_path / "running.onnx", manifest, statistics_images(manifest, None, {}), said.append)
    assert measured.statistics is not None
    assert measured.statistics.exact is None
    assert any("no exact tiles" in line and "CumSum" in line for line in said)


def test_of_several_pictures_the_one_that_tiles_change_most_counts(tmp_path: Path, make_manifest: MakeManifest) -> None:
    """Tiles change an image with a black and a white half completely, and a gray image not at all."""
    gray = np.full((350, 350, 3), 128, np.uint8)
    halves = gray.copy()
    halves[:175], halves[175:] = 0, 255
    folder = tmp_path / "pictures"
    folder.mkdir()
    images.write(folder / "a.png", images.Picture(gray))
    manifest = make_manifest(global_statistics=True)
    write_model(tmp_path / "mean.onnx", manifest, "mean")

    def least() -> float:
        pictures = statistics_images(manifest, folder, {})
        measured = calibrate(tmp_path / "mean.onnx", manifest, pictures, lambda _line: None)
        assert measured.statistics is not None
        return measured.statistics.tilings[0].psnr

    assert least() > 100
    images.write(folder / "b.png", images.Picture(halves))
    assert least() < 10


def test_models_without_statistics_have_an_overlap_measured(tmp_path: Path, make_manifest: MakeManifest) -> None:
    manifest = make_manifest()
    assert statistics_images(manifest, None, {}) == []
    write_model(tmp_path / "mean.onnx", manifest, "mean")
    measured = calibrate(tmp_path / "mean.onnx", manifest, [], lambda _line: None)
    assert measured.statistics is None
    assert measured.tiling is not None
    # What the mean of all pixels changes is not near the border, so that no larger overlap is tried.
    assert measured.tiling.overlap == 32


@pytest.mark.parametrize(("radius", "overlap"), [(7, 32), (60, 128)])
def test_an_overlap_is_as_large_as_the_network_reaches_and_as_good_as_said(
    tmp_path: Path, make_manifest: MakeManifest, radius: int, overlap: int
) -> None:
    manifest = make_manifest(clamp=None)
    path = tmp_path / "local.onnx"
    write_model(path, manifest, "local", radius)
    tiling = calibrate_tiling(path, manifest)
    assert tiling is not None
    restorer = Restorer(OnnxRuntimeSession(path))
    planes = synthetic_image((1, 3, tiling.tile, 2 * tiling.tile - tiling.overlap), (0.0, 1.0))[0]
    image = np.moveaxis(planes, 0, 2)
    whole = restorer.restore(image, tile="none").image
    tiled = restorer.restore(image, tile=tiling.tile, overlap=tiling.overlap).image
    assert tiling.overlap == overlap
    assert abs(tiling.psnr - psnr(tiled, whole, (0.0, 1.0))) < 3
