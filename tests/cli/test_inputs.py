"""Inputs beside the image on the command line: masks, second views, cubes; and results that are spectra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keygraph.cli import main
from keygraph.manifest import ExtraInput
from keygraph.runtime.io import cubes, images
from keygraph.runtime.io.cubes import Cube
from keygraph.runtime.io.images import Picture
from PIL import Image

ModelFile = Callable[..., Path]
Array = np.ndarray[Any, Any]
MASK = (ExtraInput("mask", 1),)
GRAY = {"in_channels": 1, "out_channels": 1, "extra_inputs": MASK}
WAVELENGTHS = tuple(400.0 + 50 * band for band in range(6))
SPECTRAL = {"out_channels": 6, "wavelengths": WAVELENGTHS, "normalisation": "range"}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def noise(*shape: int, dtype: Any = np.uint8) -> Array:
    return np.random.default_rng(sum(shape)).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def picture(path: Path, *shape: int, dtype: Any = np.uint8) -> Array:
    pixels = noise(*shape, dtype=dtype)
    images.write(path, Picture(pixels))
    return pixels


@pytest.fixture
def mask(tmp_path: Path) -> Array:
    """Return a mask, which is also in the file mask.npz beside another array."""
    values = (np.random.default_rng(5).random((20, 30)) > 0.5).astype(np.float64)
    np.savez(tmp_path / "mask.npz", mask=values, other=np.ones((3, 4)))
    return values


def test_a_mask_goes_with_an_image(make_model: ModelFile, tmp_path: Path, mask: Array) -> None:
    model, pixels = make_model("masked", **GRAY), picture(tmp_path / "a.png", 20, 30)
    given = f"mask={tmp_path / 'mask.npz'}:mask"
    assert run("restore", tmp_path / "a.png", "--input", given, "-o", tmp_path / "b.png", "--model", model) == 0
    np.testing.assert_array_equal(images.read(tmp_path / "b.png").pixels, pixels * mask)


def test_folders_of_both(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model("masked", **GRAY)
    for folder in ("in", "masks"):
        (tmp_path / folder).mkdir()
    expected = {}
    for name, height in (("a.png", 20), ("b.png", 24)):
        pixels, mask = picture(tmp_path / "in" / name, height, 30), noise(height, 30) // 128 * np.uint8(255)
        images.write(tmp_path / "masks" / name, Picture(mask))
        expected[name] = pixels * (mask > 0)
    arguments = ["restore", tmp_path / "in", "--input", f"mask={tmp_path / 'masks'}", "--model", model]
    assert run(*arguments, "-o", tmp_path / "out") == 0
    for name, pixels in expected.items():
        np.testing.assert_array_equal(images.read(tmp_path / "out" / name).pixels, pixels)
    assert "mask: integers up to 255 divided by 255" in capsys.readouterr().out
    (tmp_path / "masks" / "b.png").unlink()
    assert run(*arguments, "-o", tmp_path / "new") == 1
    assert "holds no b.png, which" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "results.jsonl"]


def test_what_cannot_be_is_one_line_before_any_work(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], mask: Array
) -> None:
    picture(tmp_path / "a.png", 20, 30)
    picture(tmp_path / "rgb.png", 20, 30, 3)
    np.save(tmp_path / "small.npy", mask[1:])
    np.save(tmp_path / "nan.npy", np.where(np.arange(30) == 7, np.nan, mask))
    np.save(tmp_path / "cube.npy", np.ones((20, 30, 4)))
    model, image, good = make_model("masked", **GRAY), tmp_path / "a.png", f"mask={tmp_path / 'mask.npz'}:mask"
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        ([image], "takes mask beside the image, and mask is missing; give --input mask=FILE"),
        ([image, "--input", good, "--input", good], "--input mask is given twice"),
        ([image, "--input", good, "--input", f"left={image}"], "has no input left; it takes mask beside the image"),
        ([image, "--input", "mask"], "--input is 'mask'; give NAME=FILE, for instance mask=mask.mat"),
        ([image, "--input", "mask=none.npy"], "none.npy does not exist"),
        ([image, "--input", f"mask={tmp_path / 'mask.npz'}"], "holds 2 arrays that can be cubes; choose one with"),
        ([image, "--input", f"mask={tmp_path / 'mask.npz'}:flow"], "has no variable 'flow'; it holds mask (20 x 30"),
        (
            [image, "--input", f"mask={tmp_path / 'small.npy'}"],
            "the mask is 19 x 30 (height x width) with 1 channel",
        ),
        ([image, "--input", f"mask={tmp_path / 'cube.npy'}"], "the mask is 20 x 30 (height x width) with 4 channels"),
        ([image, "--input", f"mask={tmp_path / 'nan.npy'}"], "nan.npy has 20 samples that are NaN"),
        ([tmp_path / "rgb.png", "--input", good], "3 channels (alpha apart), but the model takes 1"),
        ([tmp_path / "cube.npy", "--input", good], "4 channels (alpha apart), but the model takes 1"),
        ([image, "--input", good, "--preview", tmp_path / "p.png"], "a preview is for spectra, and this model makes p"),
    ):
        assert run("restore", *arguments, "-o", tmp_path / "b.png", "--model", model) == 2, message
        said = capsys.readouterr().err
        assert message in said
        assert len([line for line in said.splitlines() if line.startswith("error: ")]) == 1
    assert run("restore", image, "--input", f"mask={image}", "-o", tmp_path / "mask.npz", "--model", model) == 0
    assert run(
        "restore", image, "--input", f"mask={tmp_path / 'mask.npz'}", "-o", tmp_path / "mask.npz", "--model", model
    )
    assert "is the input itself" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_two_views_of_16_bits(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model("bands", in_channels=6, views=("left", "right"), clamp=(0.0, 1.0))
    left, right = (
        picture(tmp_path / f"{name}.png", size, 30, 3, dtype=np.uint16) for name, size in (("l", 20), ("r", 20))
    )
    picture(tmp_path / "tall.png", 24, 30, 3, dtype=np.uint16)
    arguments = ["restore", tmp_path / "l.png", "-o", tmp_path / "out.png", "--model", model, "--input"]
    assert run(*arguments, f"right={tmp_path / 'r.png'}") == 0
    restored = images.read(tmp_path / "out.png").pixels
    assert restored.dtype == np.uint16
    mean = np.concatenate([left, right], axis=2).mean(axis=2, keepdims=True)
    np.testing.assert_allclose(restored, np.clip(mean * [1, 2, 3], 0, 65535), atol=1)
    assert run(*arguments, f"right={tmp_path / 'tall.png'}") == 2
    assert "the right view is 24 x 30 (height x width) with 3 channels, but the image (left) is 20 x 30" in (
        capsys.readouterr().err
    )


def test_a_picture_becomes_a_cube(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, pixels = make_model("bands", **SPECTRAL), picture(tmp_path / "a.png", 20, 30, 3).astype(np.float64)
    low, high = pixels.min(), pixels.max()
    expected = ((pixels - low) / (high - low)).mean(axis=2, keepdims=True) * np.arange(1, 7)
    files = [tmp_path / name for name in ("cube.npz", "cube.mat", "cube.tif")]
    for file in files:
        assert run("restore", tmp_path / "a.png", "-o", file, "--model", model, "--preview", tmp_path / "p.png") == 0
        cube = cubes.read(file)
        np.testing.assert_allclose(cube.pixels, expected, atol=1e-5)
        assert cube.wavelengths == WAVELENGTHS
        assert images.read(tmp_path / "p.png").pixels.ndim == 3
        (tmp_path / "p.png").unlink()
    assert run("restore", tmp_path / "a.png", "-o", tmp_path / "folder", "--model", model) == 0
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["a.mat"]
    images.write(tmp_path / "a.tif", Picture(noise(20, 30, 3)))
    images.write(tmp_path / "a.webp", Picture(noise(20, 30, 3)))
    capsys.readouterr()
    for arguments, message in (
        ([tmp_path / "a.png", "-o", tmp_path / "b.png"], "names no format of spectral cubes; choose one of .mat"),
        ([tmp_path / "a.png", tmp_path / "a.webp", "-o", tmp_path / "new"], "a.webp, would become a.mat"),
        (
            [tmp_path / "a.png", tmp_path / "a.tif", "-o", tmp_path / "new", "--preview", "p.png"],
            "--preview is for one",
        ),
        ([tmp_path / "a.png", "-o", tmp_path / "b.mat", "--preview", tmp_path / "a.png"], "is the input itself"),
        ([tmp_path / "a.png", "-o", tmp_path / "b.tif", "--preview", tmp_path / "b.tif"], "is named for two outputs"),
    ):
        assert run("restore", *arguments, "--model", model) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("b.*"))
    assert not (tmp_path / "new").exists()


def test_a_cube_in_a_folder_and_one_that_becomes_a_picture(make_model: ModelFile, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    cubes.write(tmp_path / "in" / "a.npy", Cube(values))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    model = make_model("identity")
    assert run("restore", tmp_path / "in", "-o", tmp_path / "out", "--model", model) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy"), values)
    assert run("restore", tmp_path / "in" / "a.npy", "-o", tmp_path / "a.tif", "--model", model) == 0
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").pixels, values)
    # Beside pictures, arrays are taken as masks.
    pixels = picture(tmp_path / "in" / "b.png", 20, 30, 3)
    assert run("restore", tmp_path / "in", "-o", tmp_path / "pictures", "--model", model) == 0
    assert sorted(file.name for file in (tmp_path / "pictures").iterdir()) == ["b.png", "results.jsonl"]
    np.testing.assert_array_equal(images.read(tmp_path / "pictures" / "b.png").pixels, pixels)


def test_what_a_cube_has_no_place_for_is_said(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = noise(20, 30, 3)
    exif = Image.Exif()
    exif[0x10F] = "A Camera"
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    images.write(tmp_path / "a.png", Picture(pixels, pixels[:, :, 0].copy()))
    assert run("restore", tmp_path / "a.png", "-o", tmp_path / "a.npz", "--model", make_model("bands", **SPECTRAL)) == 0
    assert "alpha dropped" in capsys.readouterr().out
    assert run("restore", tmp_path / "a.png", "-o", tmp_path / "a.npy", "--model", make_model("identity")) == 0
    assert "alpha dropped: a cube has none" in capsys.readouterr().out
    assert run("restore", tmp_path / "a.jpg", "-o", tmp_path / "a.npy", "--model", make_model("identity")) == 0
    assert "EXIF" in capsys.readouterr().out


def test_compare_takes_what_goes_with_images(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], mask: Array
) -> None:
    model = make_model("masked", **GRAY)
    wrong = make_model("bright_nan", tmp_path / "wrong.onnx", in_channels=1, out_channels=1)
    picture(tmp_path / "a.png", 20, 30)
    with_mask = ["--inputs", tmp_path / "a.png", "--input", f"mask={tmp_path / 'mask.npz'}:mask"]
    assert run("compare", model, model, *with_mask) == 0
    assert "a.png" in capsys.readouterr().out
    assert run("compare", model, model) == 0  # on a generated picture and a generated mask
    for arguments, message in (
        ([model, *with_mask[:2]], "mask is missing; give --input mask=FILE"),
        ([model, *with_mask[2:]], "--input goes with images, and there are none; give them with --inputs"),
        ([wrong], "are different networks: extra inputs is"),
    ):
        assert run("compare", model, *arguments) == 2
        assert message in capsys.readouterr().err


def test_inspect_says_what_a_model_takes(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imager = {"margin": (0, 54), "extra_inputs": (ExtraInput("mask", 1), ExtraInput("flow", 2, (1, 2)))}
    for changes, said in (
        (SPECTRAL | {"clamp": (0.0, 1.0)}, ["6, 400 to 650 nm in steps of 50", "cut to 0 to 1", "least sample to its"]),
        (
            imager | {"normalisation": "none", "wavelengths": (400.0, 410.0, 500.5), "global_statistics": True},
            [
                "the image is 54 columns larger than the result",
                "mask: 1 channel, as large as the result",
                "flow: 2 channels, 1 rows and 2 columns larger than the result",
                "none, samples as they are",
                "3, at 400, 410, 500.5 nm",
                "over the whole image: tiles change the result",
            ],
        ),
        ({"views": ("left", "right"), "in_channels": 6}, ["left and right, 3 channels each", "white level"]),
        (
            {"normalisation": "peak", "gain": 0.8},
            ["negative samples to 0, the whole image over its", "times 0.8"],
        ),
    ):
        kind = "bands" if changes.get("in_channels", 3) != changes.get("out_channels", 3) else "identity"
        assert run("inspect", make_model(kind, tmp_path / "model.onnx", **changes)) == 0
        words = capsys.readouterr().out
        for part in said:
            assert part in words
