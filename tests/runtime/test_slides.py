"""Slides that OpenSlide reads: the largest level, region by region, with the size of its pixels."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import keygraph
import numpy as np
import pytest
import pyvips
import tifffile
from keygraph.cli import main
from keygraph.runtime.companion_files import read_with
from keygraph.runtime.io import slides
from keygraph.runtime.restore_files import restore_file

ModelFile = Callable[..., Path]
PIXELS = np.random.default_rng(0).integers(0, 255, (1030, 600, 3)).astype(np.uint8)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A pyramid of 0.25 um to the pixel, which OpenSlide knows by its content whatever its name is."""
    image = pyvips.Image.new_from_array(PIXELS).copy(interpretation="srgb", xres=4000, yres=4000)
    image.tiffsave(str(tmp_path / "a.tif"), pyramid=True, tile=True, tile_width=256, tile_height=256)
    return (tmp_path / "a.tif").rename(tmp_path / "a.ndpi")


def test_a_slide_becomes_a_pyramid(make_model: ModelFile, slide: Path, tmp_path: Path) -> None:
    report = restore_file(keygraph.load(make_model("nearest", scale=2)), slide, tmp_path / "b.tif")
    assert report.notices == ("dropped: properties of the slide",)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert len(file.series[0].levels) == 5
        above, below = file.pages.first.tags["XResolution"].value
    assert 25400 * below / above == pytest.approx(0.125)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif")[::2, ::2], PIXELS)


def test_reading_into_a_file_gives_the_same(slide: Path, tmp_path: Path) -> None:
    whole = slides.read(slide)
    with contextlib.ExitStack() as files:
        streamed = slides.read_streaming(slide, tmp_path, files)
        assert np.array_equal(streamed.pixels[0:1030, 0:600], PIXELS)
        assert np.array_equal(whole.pixels, PIXELS)
        assert (streamed.metadata, streamed.notices) == (whole.metadata, whole.notices)


def test_a_folder_of_slides_and_inspect(
    make_model: ModelFile, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    slide = slide.rename(tmp_path / "in" / "a.ndpi")
    model = make_model("identity")
    assert main(["restore", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(model)]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.tif", "results.jsonl"}
    capsys.readouterr()
    assert main(["inspect", str(slide), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["width"], found["height"]) == ("slide (generic-tiff)", 600, 1030)
    assert found["pixel size"] == "0.25 um along x, 0.25 um along y"


def test_what_is_no_slide_is_refused(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"no slide")
    arguments = ["-o", str(tmp_path / "b.tif"), "--model", str(make_model("identity"))]
    for name, message in (("a.mrxs", "damaged, or no slide that OpenSlide reads"), ("b.scn", "does not exist")):
        assert main(["restore", str(tmp_path / name), *arguments]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "b.tif").exists()


def test_openslide_is_named_where_it_is_missing(
    make_model: ModelFile, slide: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    arguments = ["restore", str(slide), "-o", str(slide.with_name("b.tif")), "--model", str(make_model("identity"))]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "OpenSlide reads, which the imaging library (libvips) is built without here; install it with: " in said


def test_the_files_of_a_mirax_slide_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").touch()
    (tmp_path / "a").mkdir()
    assert read_with(tmp_path / "a.mrxs") == [tmp_path / "a.mrxs", tmp_path / "a"]
