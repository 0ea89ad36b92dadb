"""``keygraph restore`` from pictures to spectra: cubes in every format, and their preview."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from keygraph.cli import main
from keygraph.manifest import IMAGE_INPUT, IMAGE_OUTPUT, METADATA_KEY, Manifest
from keygraph.runtime.io import cubes, images, spectral_preview
from onnx import TensorProto, helper, numpy_helper

WAVELENGTHS = tuple(float(value) for value in range(400, 701, 10))


@pytest.fixture
def model(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> Path:
    """Each band is a mix of red, green and blue: weights that are triangles around 620, 540 and 450 nm."""
    centres = np.array([620, 540, 450])
    weights = np.clip(1 - np.abs(np.array(WAVELENGTHS)[:, None] - centres) / 80, 0, None)
    nodes = [helper.make_node("Conv", [IMAGE_INPUT, "weights"], [IMAGE_OUTPUT])]
    sizes: tuple[Any, ...] = ("height", "width")
    graph = helper.make_graph(
        nodes,
        "spectra",
        [helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.FLOAT, ("batch", 3, *sizes))],
        [helper.make_tensor_value_info(IMAGE_OUTPUT, TensorProto.FLOAT, ("batch", 31, *sizes))],
        [numpy_helper.from_array(weights[:, :, None, None].astype(np.float32), "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    manifest = make_manifest(out_channels=31, wavelengths=WAVELENGTHS, clamp=(0.0, 1.0))
    helper.set_model_props(made, {METADATA_KEY: manifest.to_json()})
    onnx.save(made, tmp_path / "spectra.onnx")
    return tmp_path / "spectra.onnx"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Red, green and blue stripes."""
    pixels = np.repeat(255 * np.eye(3, dtype=np.uint8)[None], 16, axis=1).repeat(30, axis=0)
    images.write(tmp_path / "scene.png", images.Picture(pixels))
    return tmp_path / "scene.png"


@pytest.mark.parametrize("suffix", [".mat", ".npy", ".npz", ".tif", ".hdr"])
def test_a_cube_and_its_preview(
    tmp_path: Path, model: Path, scene: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target, preview = tmp_path / f"cube{suffix}", tmp_path / "bands.png"
    assert main(["restore", str(scene), "--model", str(model), "-o", str(target), "--preview", str(preview)]) == 0
    cube = cubes.read(target)
    assert cube.pixels.shape == (30, 48, 31)
    assert cube.pixels.dtype == np.float32
    assert cube.wavelengths == (() if suffix == ".npy" else WAVELENGTHS)
    for column, wavelength in ((8, 620.0), (24, 540.0), (40, 450.0)):
        assert WAVELENGTHS[int(np.argmax(cube.pixels[15, column]))] == wavelength
    # The preview has the model's wavelengths, even where the file cannot hold them.
    sheet = images.read(preview).pixels
    grid = spectral_preview.layout(30, 48, 31, True)
    assert sheet.shape == (*grid.size, 3)
    stripes = [
        sheet[spectral_preview.GAP + grid.large[0] // 2, spectral_preview.GAP + (2 * i + 1) * grid.large[1] // 6]
        for i in range(3)
    ]
    assert [int(np.argmax(stripe)) for stripe in stripes] == [0, 1, 2]
    assert ("wavelengths dropped" in capsys.readouterr().out) == (suffix == ".npy")


@pytest.mark.parametrize(
    ("out", "preview", "message"),
    [
        ("cube.png", "bands.png", "names no format of spectral cubes"),
        ("cube.mat", "bands.mat", "names no image format"),
        ("cube.mat", "absent/bands.png", "does not exist; create it first"),
        ("cube.tif", "cube.tif", "is named for two outputs"),
        ("cube.mat", "scene.png", "is the input itself"),
    ],
)
def test_nothing_is_written_of_what_is_refused(
    tmp_path: Path,
    model: Path,
    scene: Path,
    out: str,
    preview: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = ["-o", str(tmp_path / out), "--preview", str(tmp_path / preview)]
    assert main(["restore", str(scene), "--model", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pictures_have_no_preview(
    tmp_path: Path, make_model: Callable[..., Path], scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-o", str(tmp_path / "out.png"), "--preview", str(tmp_path / "bands.png")]
    assert main(["restore", str(scene), "--model", str(make_model("identity")), *arguments]) == 2
    assert "a preview is for spectra" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()
