"""Zarr stores: OME-Zarr 0.4 and 0.5 and plain arrays, chunk by chunk, complete or absent."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
import tifffile
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.runtime.companion_files import check_outputs
from keygraph.runtime.io import images, zarr_stores
from keygraph.runtime.io.cubes import Cube
from keygraph.runtime.io.cubes import write as write_cube
from keygraph.runtime.io.encoding import Encoding
from keygraph.runtime.io.images import Picture
from keygraph.runtime.io.scratch_file import ScratchFile
from keygraph.runtime.io.zarr_stores import opening
from keygraph.runtime.restore_files import restore_file

zarr: Any = pytest.importorskip("zarr", reason="zarr needs Python 3.11")

ModelFile = Callable[..., Path]
Array = np.ndarray[Any, Any]
HEIGHT, WIDTH = 601, 700
PIXELS = np.random.default_rng(0).integers(0, 65535, (3, HEIGHT, WIDTH)).astype(np.uint16)
SMALL = PIXELS[:, :90, :100]
AXES = [
    {"name": "t", "type": "time", "unit": "second"},
    {"name": "c", "type": "channel"},
    *({"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"),
]
WINDOW = {"start": 0, "end": 4000, "min": 0, "max": 65535}
OMERO = {"channels": [{"label": label, "color": "00FFFF", "window": WINDOW} for label in ("DAPI", "GFP", "Cy5")]}


def write_ome(path: Path, version: str = "0.5", values: Array = PIXELS[None, :, None], **image: Any) -> None:
    """Write an OME-Zarr of axes t, c, z, y, x with two levels, without the code under test."""
    old = version == "0.4"
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if old else 3)
    datasets = []
    for level in range(2):
        part = values[..., :: 2**level, :: 2**level]
        named = {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if old else {"dimension_names": list("tczyx")}
        group.create_array(str(level), shape=part.shape, dtype=part.dtype, chunks=(1, 1, 1, 256, 128), **named)[:] = (
            part
        )
        steps = [
            {"type": "scale", "scale": [1, 1, 3, 0.5 * 2**level, 0.25 * 2**level]},
            {"type": "translation", "translation": [0, 0, 7, 10, 20]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    described = {"axes": AXES, "datasets": datasets, "name": "cells", **image}
    if old:
        group.attrs.update({"multiscales": [{"version": version, **described}], "omero": OMERO})
    else:
        group.attrs.update({"ome": {"version": version, "multiscales": [described], "omero": OMERO}})


def described(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return version, the first of the multiscales, and omero."""
    file = "zarr.json" if (path / "zarr.json").exists() else ".zattrs"
    attributes = json.loads((path / file).read_text())
    ome = attributes["attributes"]["ome"] if file == "zarr.json" else attributes
    image = ome["multiscales"][0]
    return ome.get("version", image.get("version")), image, ome.get("omero", {})


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_store_keeps_version_axes_scale_channels_and_levels(
    make_model: ModelFile, tmp_path: Path, version: str
) -> None:
    write_ome(tmp_path / "a.ome.zarr", version)
    target = tmp_path / "b.ome.zarr"
    report = restore_file(keygraph.load(make_model("nearest", scale=2)), tmp_path / "a.ome.zarr", target)
    assert (report.notices, report.height, report.width) == ((), 2 * HEIGHT, 2 * WIDTH)
    found, image, omero = described(target)
    assert (found, image["axes"], image["name"], omero) == (version, AXES, "cells", OMERO)
    assert [level["path"] for level in image["datasets"]] == ["0", "1", "2"]
    for index, level in enumerate(image["datasets"]):
        scale, translation = level["coordinateTransformations"]
        # Half a pixel's size for twice the pixels, and twice for every level.
        assert scale["scale"] == [1, 1, 3, 0.25 * 2**index, 0.125 * 2**index]
        assert translation["translation"] == [0, 0, 7, 10, 20]
    group = zarr.open_group(str(target), mode="r")
    assert group.metadata.zarr_format == {"0.4": 2, "0.5": 3}[version]
    assert np.array_equal(group["0"][0, :, 0], PIXELS.repeat(2, 1).repeat(2, 2))
    assert np.array_equal(group["1"][0, :, 0], PIXELS)
    half = PIXELS[:, : HEIGHT // 2 * 2].reshape(3, HEIGHT // 2, 2, WIDTH // 2, 2).mean((2, 4))
    assert np.array_equal(group["2"][0, :, 0], np.rint(half))


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float32])
def test_every_type_is_read_and_written(make_model: ModelFile, tmp_path: Path, dtype: Any) -> None:
    values = (SMALL / 65535).astype(dtype) if dtype == np.float32 else (SMALL >> 8).astype(dtype)
    write_ome(tmp_path / "a.ome.zarr", "0.4", values[None, :, None])
    restorer = keygraph.load(make_model("identity"))
    for name in ("b.ome.zarr", "b.tif"):
        restore_file(restorer, tmp_path / "a.ome.zarr", tmp_path / name)
    array = zarr.open_array(str(tmp_path / "b.ome.zarr" / "0"), mode="r")
    assert array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(array[0, :, 0], values)
    np.testing.assert_array_equal(images.read(tmp_path / "b.tif").pixels, values.transpose(1, 2, 0))


def test_a_picture_becomes_an_image_of_three_channels(make_model: ModelFile, tmp_path: Path) -> None:
    pixels = SMALL.transpose(1, 2, 0).astype(np.uint8)
    alpha = pixels[:, :, 0].copy()
    images.write(tmp_path / "a.tif", Picture(pixels, alpha, images.Metadata(resolution=(4000.0, 2000.0))))
    report = restore_file(keygraph.load(make_model("identity")), tmp_path / "a.tif", tmp_path / "b.ome.zarr")
    assert report.notices == ("alpha dropped: not kept in OME-Zarr",)
    version, image, omero = described(tmp_path / "b.ome.zarr")
    assert (version, [axis["name"] for axis in image["axes"]]) == ("0.5", ["c", "y", "x"])
    assert image["axes"][1]["unit"] == "micrometer"
    (scale,) = image["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == pytest.approx([1, 0.5, 0.25])
    assert [channel["color"] for channel in omero["channels"]] == ["FF0000", "00FF00", "0000FF"]
    assert np.array_equal(zarr.open_array(str(tmp_path / "b.ome.zarr" / "0"), mode="r")[:], pixels.transpose(2, 0, 1))


def test_the_size_of_pixels_goes_with_an_image_through_a_tiff(make_model: ModelFile, tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.zarr", values=PIXELS[None, :, None, :300, :350])
    double = keygraph.load(make_model("nearest", scale=2))
    report = restore_file(double, tmp_path / "a.ome.zarr", tmp_path / "b.tif", compression="lzw")
    assert report.notices == ("OME-Zarr metadata (axes, channels) dropped: not kept in TIFF",)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert len(file.pages) == 3  # It was a pyramid.
        dots = [file.pages.first.tags[name].value for name in ("XResolution", "YResolution")]
    assert [25400 * below / above for above, below in dots] == pytest.approx([0.125, 0.25])
    # A TIFF may come from a camera: its resolution is not changed with the number of pixels.
    restore_file(keygraph.load(make_model("identity")), tmp_path / "b.tif", tmp_path / "c.ome.zarr")
    (scale,) = described(tmp_path / "c.ome.zarr")[1]["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == pytest.approx([1, 0.25, 0.125])
    report = restore_file(double, tmp_path / "a.ome.zarr", tmp_path / "b.png")
    assert report.notices == ("levels of the pyramid, OME-Zarr metadata (axes, channels) dropped: not kept in PNG",)


@pytest.mark.parametrize(
    ("order", "names", "said"),
    [
        ("yxc", None, "axes of 90 x 100 x 3 taken as y, x, c"),
        ("cyx", None, "axes of 3 x 90 x 100 taken as c, y, x"),
        ("ycx", "ycx", "axes of 90 x 3 x 100 taken as y, c, x"),
    ],
)
def test_plain_arrays(make_model: ModelFile, tmp_path: Path, order: str, names: str | None, said: str) -> None:
    values = SMALL.transpose(["cyx".index(axis) for axis in order])
    zarr.create_array(str(tmp_path / "a.zarr"), data=values, dimension_names=names and list(names))
    report = restore_file(keygraph.load(make_model("identity")), tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert report.notices == (said,)
    array = zarr.open_array(str(tmp_path / "b.zarr"), mode="r")
    assert array.metadata.dimension_names == tuple(order)
    assert np.array_equal(array[:], values)


def test_gray_arrays_have_two_axes(make_model: ModelFile, tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=SMALL[0])
    restorer = keygraph.load(make_model("identity", in_channels=1, out_channels=1))
    report = restore_file(restorer, tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert report.notices == ()
    assert np.array_equal(zarr.open_array(str(tmp_path / "b.zarr"), mode="r")[:], SMALL[0])
    restore_file(restorer, tmp_path / "a.zarr", tmp_path / "b.ome.zarr")
    assert zarr.open_array(str(tmp_path / "b.ome.zarr" / "0"), mode="r").shape == (1, 90, 100)


def test_channels_that_the_model_takes_are_found(make_model: ModelFile, tmp_path: Path) -> None:
    """Bands of a cube are more than four; without a model nobody can tell them from rows."""
    values = np.random.default_rng(1).random((40, 50, 31)).astype(np.float32)
    zarr.create_array(str(tmp_path / "a.zarr"), data=values)
    model = make_model("identity", in_channels=31, out_channels=31)
    restore_file(keygraph.load(model), tmp_path / "a.zarr", tmp_path / "b.zarr")
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "b.zarr"), mode="r")[:], values)
    with pytest.raises(InputError, match="40 x 50 x 31, and neither its first nor its last axis is short"):
        zarr_stores.read(tmp_path / "a.zarr")
    write_cube(tmp_path / "c.mat", Cube(values, tuple(400.0 + 10 * band for band in range(31))))
    report = restore_file(keygraph.load(model), tmp_path / "c.mat", tmp_path / "d.zarr")
    assert "wavelengths dropped: not kept in Zarr" in report.notices
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "d.zarr"), mode="r")[:], values)


def write_plate(path: Path) -> None:
    zarr.open_group(str(path), mode="w").attrs.update({"ome": {"version": "0.5", "plate": {}}})


def write_two(path: Path) -> None:
    zarr.open_group(str(path), mode="w", zarr_format=2).attrs.update({"bioformats2raw.layout": 3})
    for name in "01":
        write_ome(path / name, "0.4", PIXELS[None, :, None, :64, :64])


def write_damaged(path: Path) -> None:
    write_ome(path)
    (path / "zarr.json").write_text("{")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: write_ome(path, values=np.zeros((1, 3, 5, 64, 64), np.uint8)), "is a stack: 5 planes along z"),
        (lambda path: write_ome(path, values=np.zeros((2, 3, 1, 64, 64), np.uint8)), "is a stack: 2 planes along t"),
        (lambda path: write_ome(path, values=np.zeros((1, 3, 1, 64, 64), np.int16)), "samples of type int16; convert"),
        (lambda path: write_ome(path, "0.3"), "is OME-Zarr of version 0.3, and versions 0.4 and 0.5 are read"),
        (lambda path: write_ome(path, axes=AXES[1:]), "damaged metadata"),
        (
            lambda path: write_ome(path, axes=[{"name": n} for n in "abcde"]),
            "axes a, b, c, d, e; one must be y and one",
        ),
        (write_plate, "is a plate of many images; give one of them, such as "),
        (write_two, "a.zarr holds several images; give one of them: "),
        (write_damaged, "is damaged, or no Zarr store"),
        (Path.mkdir, "holds no zarr.json, .zgroup or .zarray, so it is no Zarr store"),
        (lambda path: zarr.open_group(str(path), mode="w"), "holds no image"),
        (
            lambda path: zarr.create_array(str(path), data=np.zeros((3, 50, 4), np.uint8)),
            "both its first and its last axis may be channels",
        ),
        (lambda path: zarr.create_array(str(path), data=np.zeros((2, 3, 50, 40))), "has 4 dimensions"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Any, message: str
) -> None:
    write(tmp_path / "a.zarr")
    model = make_model("identity")
    assert run("restore", tmp_path / "a.zarr", "-o", tmp_path / "b.ome.zarr", "--model", model) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "identity.onnx"]


def test_one_image_in_a_group_is_taken(make_model: ModelFile, tmp_path: Path) -> None:
    """As bioformats2raw writes it."""
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2).attrs.update({"bioformats2raw.layout": 3})
    write_ome(tmp_path / "a.zarr" / "0", "0.4", SMALL[None, :, None])
    restorer = keygraph.load(make_model("identity"))
    for source in (tmp_path / "a.zarr", tmp_path / "a.zarr" / "0"):
        restore_file(restorer, source, tmp_path / "b.ome.zarr")
        assert np.array_equal(zarr.open_array(str(tmp_path / "b.ome.zarr" / "0"), mode="r")[0, :, 0], SMALL)


def test_labels_and_attributes_are_named(make_model: ModelFile, tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.zarr", values=SMALL[None, :, None])
    group = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="a")
    group.create_group("labels")
    group.attrs["microscope"] = "7"
    report = restore_file(keygraph.load(make_model("identity")), tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr")
    assert report.notices == ("dropped: labels, attribute microscope",)


def test_a_region_needs_its_own_chunks_only(tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.zarr")
    for chunk in (tmp_path / "a.ome.zarr" / "0" / "c").rglob("*"):
        if chunk.is_file() and chunk.parent.name != "0":  # All but those of the first rows.
            chunk.write_bytes(b"damaged")
    stored = opening.open_image(tmp_path / "a.ome.zarr")
    assert np.array_equal(stored.read(10, 20, 100, 300), PIXELS[:, 10:110, 20:320].transpose(1, 2, 0))
    with pytest.raises(InputError, match=r"a\.ome\.zarr is damaged, or no Zarr store"):
        zarr_stores.read(tmp_path / "a.ome.zarr")


def test_reading_and_writing_by_chunks_gives_the_same(tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.zarr")
    whole = zarr_stores.read(tmp_path / "a.ome.zarr")
    zarr_stores.write(tmp_path / "whole.ome.zarr", whole, Encoding())
    with contextlib.ExitStack() as files:
        streamed = zarr_stores.read_streaming(tmp_path / "a.ome.zarr", tmp_path, files)
        assert streamed.metadata == whole.metadata
        assert np.array_equal(streamed.pixels[0:HEIGHT, 0:WIDTH], whole.pixels)
        zarr_stores.write(tmp_path / "streamed.ome.zarr", streamed, Encoding())
    for file in (tmp_path / "whole.ome.zarr").rglob("*"):
        if file.is_file():
            assert (
                file.read_bytes()
                == (tmp_path / "streamed.ome.zarr" / file.relative_to(tmp_path / "whole.ome.zarr")).read_bytes()
            )


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_compressions(tmp_path: Path, version: str) -> None:
    write_ome(tmp_path / "a.ome.zarr", version)
    picture = zarr_stores.read(tmp_path / "a.ome.zarr")
    found = {}
    for name in ("none", "deflate", "zstd", None):
        zarr_stores.write(tmp_path / "b.ome.zarr", picture, Encoding(name))
        array = zarr.open_array(str(tmp_path / "b.ome.zarr" / "0"), mode="r")
        assert np.array_equal(array[0, :, 0], PIXELS)
        found[name] = [type(codec).__name__ for codec in array.compressors]
    deflate = {"0.4": "Zlib", "0.5": "GzipCodec"}[version]
    assert (found["none"], found["deflate"], found["zstd"]) == ([], [deflate], found[None])
    assert "Zstd" in found["zstd"][0]


def test_a_store_is_complete_or_absent(tmp_path: Path) -> None:
    with contextlib.closing(ScratchFile(tmp_path, 700, 600, 3, np.dtype(np.uint8))) as half:
        half.write(0, 0, np.ones((520, 600, 3), np.uint8))
        for earlier in (False, True):
            if earlier:
                zarr_stores.write(tmp_path / "a.ome.zarr", Picture(PIXELS[0]), Encoding())
            with pytest.raises(EOFError):
                zarr_stores.write(tmp_path / "a.ome.zarr", Picture(half), Encoding())  # type: ignore[arg-type]
            assert [path.name for path in tmp_path.iterdir()] == ["a.ome.zarr"] * earlier
    assert np.array_equal(zarr_stores.read(tmp_path / "a.ome.zarr").pixels, PIXELS[0])
    zarr_stores.write(tmp_path / "a.ome.zarr", Picture(PIXELS[0, :50, :40]), Encoding())
    assert zarr_stores.read(tmp_path / "a.ome.zarr").pixels.shape == (50, 40)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_nothing_that_is_read_is_replaced(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.ome.zarr"
    write_ome(source)
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "notes.txt").write_text("mine")
    (tmp_path / "file.zarr").write_text("mine")
    model = make_model("identity")
    before = sorted(source.rglob("*"))
    for image, target, message in (
        (source, source, "is the input itself"),
        (source / "0", source, "would be replaced, and holds the input"),
        (source, source / "b.png", "lies inside the Zarr store"),
        (source, source / "new.zarr", "lies inside the Zarr store"),
        (source, source / "0", "is a Zarr store, and no folder for several results"),
        (source, tmp_path / "folder.zarr", "folder.zarr exists and is no Zarr store"),
        (source, tmp_path / "file.zarr", "file.zarr exists and is no Zarr store"),
        (source, tmp_path / "no" / "b.zarr", "does not exist; create it first"),
    ):
        assert run("restore", image, "-o", target, "--model", model) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(source.rglob("*")) == before
    with pytest.raises(InputError, match="lies inside the Zarr store"):
        check_outputs([source / "1"], [])


def test_a_store_is_one_image_and_no_folder_of_images(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_ome(folder / "a.ome.zarr", values=PIXELS[None, :, None, :64, :64])
    write_ome(folder / "unnamed", values=PIXELS[None, :, None, :64, :64])
    images.write(folder / "b.png", Picture(PIXELS[:, :64, :64].transpose(1, 2, 0)))
    (folder / "more").mkdir()
    assert run("restore", folder, "-o", tmp_path / "out", "--model", make_model("identity")) == 0
    said = capsys.readouterr()
    assert "1 subfolder" in said.err
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.ome.zarr", "b.png", "results.jsonl", "unnamed.zarr"]
    assert run("restore", folder, "-o", tmp_path / "out.zarr", "--model", make_model("identity")) == 2
    assert "out.zarr is a Zarr store, and no folder for several results" in capsys.readouterr().err
    assert not (tmp_path / "out.zarr").exists()
    assert run("restore", folder / "unnamed", "-o", tmp_path / "c.png", "--model", make_model("identity")) == 0
    assert np.array_equal(images.read(tmp_path / "c.png").pixels, PIXELS[:, :64, :64].transpose(1, 2, 0))


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ome(tmp_path / "a.ome.zarr")
    assert run("inspect", tmp_path / "a.ome.zarr", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["format"], found["type"]) == ("image", "OME-Zarr 0.5", "uint16")
    assert (found["height"], found["width"], found["channels"]) == (HEIGHT, WIDTH, 3)
    assert found["levels"] == ["700 x 601", "350 x 301"]
    assert found["pixel size"] == "0.25 um along x, 0.5 um along y"


def test_the_package_is_named_where_it_is_missing(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ome(tmp_path / "a.ome.zarr", values=SMALL[None, :, None])
    images.write(tmp_path / "b.png", Picture(PIXELS[:, :64, :64].transpose(1, 2, 0)))
    monkeypatch.setitem(sys.modules, "zarr", None)
    for image, target in (("a.ome.zarr", "c.png"), ("b.png", "c.zarr")):
        assert run("restore", tmp_path / image, "-o", tmp_path / target, "--model", make_model("identity")) == 2
        assert "needs zarr; install it with: " in capsys.readouterr().err
        assert not (tmp_path / target).exists()


def test_a_large_store_streams_and_gives_what_a_picture_gives(make_model: ModelFile, tmp_path: Path) -> None:
    """2048 x 2048 pixels and more go through files; see `journal.space`."""
    values = np.tile(np.random.default_rng(2).integers(0, 255, (64, 64)).astype(np.uint8), (33, 32))
    restorer = keygraph.load(make_model("blur", in_channels=1, out_channels=1))
    zarr.create_array(str(tmp_path / "a.zarr"), data=values, chunks=(500, 300))
    images.write(tmp_path / "a.png", Picture(values))
    for name in ("a.zarr", "a.png"):
        restore_file(restorer, tmp_path / name, tmp_path / f"{name}.ome.zarr", tile=512)
    first, second = (
        zarr.open_array(str(tmp_path / f"{name}.ome.zarr" / "1"), mode="r")[:] for name in ("a.zarr", "a.png")
    )
    assert first.shape == (1, 1056, 1024)
    assert np.array_equal(first, second)
    assert not list(tmp_path.glob(".keygraph*"))


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """Four times the pixels: less than a quarter of the samples more, read and written with levels."""
    program = """
import contextlib, resource, sys, numpy as np
from pathlib import Path
from keygraph.runtime.io import zarr_stores
from keygraph.runtime.io.encoding import Encoding
from keygraph.runtime.io.images import Picture
from keygraph.runtime.io.scratch_file import ScratchFile
side, folder = int(sys.argv[1]), Path(sys.argv[2])
with contextlib.closing(ScratchFile(folder, side, 2048, 3, np.dtype(np.uint8))) as pixels:
    rows = np.arange(64 * 2048 * 3, dtype=np.uint32).reshape(64, 2048, 3).astype(np.uint8)
    for top in range(0, side, 64):
        pixels.write(top, 0, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    zarr_stores.write(folder / "a.ome.zarr", Picture(pixels), Encoding())
    with contextlib.ExitStack() as files:
        zarr_stores.read_streaming(folder / "a.ome.zarr", folder, files)
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""
    grown = []
    for side in (1024, 5120):
        command = [sys.executable, "-c", program, str(side), str(tmp_path)]
        grown.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert grown[1] - grown[0] < (5120 - 1024) * 2048 * 3 / 4, grown
