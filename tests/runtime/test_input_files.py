"""Files named by users: parsing, and headers that are read without decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keygraph.errors import InputError
from keygraph.runtime.io import cubes, images
from keygraph.runtime.io.cubes import Cube
from keygraph.runtime.io.images import Picture
from keygraph.runtime.io.input_files import InputFile, matching_inputs, read_header, read_headers


def test_file_and_variable_are_told_apart(tmp_path: Path) -> None:
    assert InputFile.parse("a/scene.mat:cube") == InputFile(Path("a/scene.mat"), "cube")
    assert InputFile.parse("a/scene.mat") == InputFile(Path("a/scene.mat"))
    assert InputFile.parse("a:b.png") == InputFile(Path("a:b.png"))
    odd = tmp_path / "a.mat:b"
    odd.touch()
    assert InputFile.parse(odd) == InputFile(odd)
    assert str(InputFile.parse("a/scene.mat:cube")) == "a/scene.mat:cube"


def test_headers_of_pictures_and_cubes(tmp_path: Path) -> None:
    picture = Picture(np.zeros((7, 5, 3), np.uint8), np.zeros((7, 5), np.uint8))
    images.write(tmp_path / "a.tif", picture)
    cubes.write(tmp_path / "b.tif", Cube(np.zeros((7, 5, 6), np.float32)))
    np.save(tmp_path / "bands_first.npy", np.zeros((6, 7, 5)))
    files = [InputFile(tmp_path / name) for name in ("a.tif", "b.tif", "bands_first.npy")]
    headers = [read_header(file, 6) for file in files]
    assert [(header.size, header.is_cube) for header in headers] == [
        ((7, 5, 3), False),
        ((7, 5, 6), True),
        ((7, 5, 6), True),
    ]
    for header in headers:
        assert header.read().pixels.shape == header.size


def test_inputs_in_a_folder_have_the_images_names(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    image = InputFile(tmp_path / "a.png")
    images.write(image.path, Picture(np.zeros((7, 5), np.uint8)))
    with pytest.raises(InputError, match=r"masks holds no a\.png"):
        matching_inputs(image, {"mask": InputFile(tmp_path / "masks")})
    images.write(tmp_path / "masks" / "a.png", Picture(np.zeros((6, 5), np.uint8)))
    headers = read_headers(image, {"mask": InputFile(tmp_path / "masks")}, {"image": 1, "mask": 1})
    assert {name: header.size for name, header in headers.items()} == {"image": (7, 5, 1), "mask": (6, 5, 1)}
    with pytest.raises(InputError, match="does not exist"):
        read_headers(image, {"mask": InputFile(tmp_path / "none.png")}, {"image": 1, "mask": 1})
