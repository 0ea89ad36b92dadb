"""Folders of images, and folders below them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from keygraph.errors import InputError
from keygraph.runtime.io.image_folders import read_folder
from keygraph.runtime.results_file import RESULTS_FILE


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder: Path, **options: object) -> list[str]:
    """Return the images by their path below the folder, as the subfolder and name of each say it."""
    images = read_folder(folder, **options).images  # type: ignore[arg-type]
    assert [image.path for image in images] == [folder / image.subfolder / image.path.name for image in images]
    return [(image.subfolder / image.path.name).as_posix() for image in images]


def test_folders_below_are_searched_when_asked(tmp_path: Path) -> None:
    make(tmp_path, "b.png", "a.jpg", "2024/may/c.tif", "2024/a.jpg", "2023/x.webp", "2024/notes.txt", "empty/.keep")
    assert found(tmp_path) == ["a.jpg", "b.png"]
    assert read_folder(tmp_path).left_out == ("3 subfolders",)
    assert found(tmp_path, recursive=True) == ["a.jpg", "b.png", "2023/x.webp", "2024/a.jpg", "2024/may/c.tif"]
    assert read_folder(tmp_path, recursive=True).left_out == ("1 .txt", "1 hidden")


def test_what_is_never_searched(tmp_path: Path) -> None:
    """Hidden folders, links, the inside of a store, which is one image, and the results of an earlier run."""
    make(tmp_path, "a.png", ".trash/b.png", "cells.zarr/0.png", "out/a.png", f"out/{RESULTS_FILE}", "sub/c.png")
    (tmp_path / "sub" / "back").symlink_to("..")
    (tmp_path / "linked").symlink_to("out")
    (tmp_path / "results").symlink_to("out")
    for results in (tmp_path / "out", tmp_path / "results", tmp_path / "sub" / ".." / "out"):
        assert found(tmp_path, recursive=True, results=results) == ["a.png", "cells.zarr", "sub/c.png"]
        assert set(read_folder(tmp_path, recursive=True, results=results).left_out) >= {
            "1 hidden",
            "the folder of the results",
        }
    assert found(tmp_path, recursive=True) == ["a.png", "cells.zarr", "out/a.png", "sub/c.png"]  # There, images.
    assert read_folder(tmp_path, recursive=True).left_out[-1] == "3 links to folders"


def test_the_folder_itself_may_be_a_link_or_hold_the_results(tmp_path: Path) -> None:
    make(tmp_path / "in", "a.png", "sub/b.png", RESULTS_FILE)
    (tmp_path / "link").symlink_to("in")
    assert found(tmp_path / "link", recursive=True, results=tmp_path / "in") == ["a.png", "sub/b.png"]
    assert read_folder(tmp_path / "in", recursive=True).notice is None


def test_each_folder_gives_its_cubes_where_it_holds_no_picture(tmp_path: Path) -> None:
    make(tmp_path, "pictures/a.png", "pictures/mask.npy", "cubes/a.npy")
    assert found(tmp_path, recursive=True) == ["cubes/a.npy", "pictures/a.png"]


def test_a_tree_without_an_image_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "sub/notes.txt")
    with pytest.raises(InputError, match=r"holds no image \(1 \.txt\); it takes \.png"):
        read_folder(tmp_path, recursive=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(InputError, match="cannot read the folder"):
            read_folder(tmp_path, recursive=True)
    finally:
        (tmp_path / "closed").chmod(0o700)
