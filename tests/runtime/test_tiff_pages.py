"""Which picture of a file is restored: camera raw, pages, reduced copies, bands that are no alpha, codecs."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import picture_files as made
import pytest
import pyvips
import tifffile
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.runtime.io import cubes, images, input_files
from keygraph.runtime.io.cubes import Cube
from keygraph.runtime.io.images import Picture
from keygraph.runtime.io.input_files import InputFile
from keygraph.runtime.restore_files import restore_file
from PIL import Image

ModelFile = Callable[..., Path]
SENSOR = np.random.default_rng(0).integers(0, 4000, (400, 560)).astype(np.uint16)
THUMBNAIL = np.full((40, 56, 3), 90, np.uint8)


def raw(path: Path, *, photometric: int = 32803, dng: bool = True, make: str = "") -> None:
    """Write a camera raw file as cameras do: a preview, and the sensor data in a directory below it."""
    tags: list[tuple[Any, ...]] = [(50706, 1, 4, b"\1\4\0\0", True)] if dng else []
    tags += [(271, 2, len(make) + 1, make, True)] if make else []
    with tifffile.TiffWriter(path) as file:
        file.write(THUMBNAIL, photometric="rgb", subfiletype=1, subifds=1, metadata=None, extratags=tags)
        samples = SENSOR if photometric != 34892 else np.dstack([SENSOR] * 3)
        file.write(samples, photometric=photometric, metadata=None)


@pytest.mark.parametrize("suffix", [".dng", ".nef", ".tif", ".TIFF"])
def test_camera_raw_is_refused_by_any_name(tmp_path: Path, suffix: str) -> None:
    raw(tmp_path / f"photo{suffix}")
    for read in (images.read, images.read_header):
        with pytest.raises(InputError, match=r"camera raw file \(sensor data, 560 x 400 pixels\).*develop it first"):
            read(tmp_path / f"photo{suffix}")


def test_camera_raw_without_a_dng_tag(tmp_path: Path) -> None:
    raw(tmp_path / "nef.tif", dng=False)
    raw(tmp_path / "linear.tif", dng=False, photometric=34892)
    raw(tmp_path / "arw.tif", dng=False, photometric=1, make="A Maker")
    images.write(tmp_path / "plain.tif", Picture(made.PIXELS))
    os.link(tmp_path / "plain.tif", tmp_path / "photo.arw")
    (tmp_path / "cr2.tif").write_bytes(b"II*\0\x10\0\0\0CR\2\0" + (tmp_path / "plain.tif").read_bytes()[12:])
    (tmp_path / "a.raf").write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(100))
    (tmp_path / "a.cr3").write_bytes(b"\0\0\0\x18ftypcrx " + bytes(100))
    (tmp_path / "a.rw2").write_bytes(b"IIU\0" + bytes(100))
    for name in ("nef.tif", "linear.tif", "arw.tif", "photo.arw", "cr2.tif", "a.raf", "a.cr3", "a.rw2"):
        with pytest.raises(InputError, match="is a camera raw file"):
            images.read(tmp_path / name)
    images.read(tmp_path / "plain.tif")


def test_a_picture_with_reduced_copies_is_no_camera_raw(tmp_path: Path) -> None:
    """As a camera's program, GDAL and OME write them: smaller ones behind it, before it and below it."""
    small = np.ascontiguousarray(made.PIXELS[::2, ::2])
    made.write_pages(tmp_path / "behind.tif", [made.PIXELS, small], [0, 1])
    made.write_pages(tmp_path / "before.tif", [small, made.PIXELS], [1, 0])
    for name, pages in (("below.tif", (made.PIXELS, small)), ("above.tif", (small, made.PIXELS))):
        with tifffile.TiffWriter(tmp_path / name) as file:
            for index, page in enumerate(pages):
                reduced = int(page is small)
                file.write(page, photometric="rgb", subfiletype=reduced, subifds=1 - index, metadata=None)
    for name in ("behind.tif", "before.tif", "below.tif", "above.tif"):
        picture = images.read(tmp_path / name)
        np.testing.assert_array_equal(picture.pixels, made.PIXELS)
        assert any("reduced copies" in line for line in picture.notices), name
        assert not any("page" in line for line in picture.notices)


@pytest.mark.parametrize("below", [made.PIXELS, made.PIXELS[::2, ::2], made.PIXELS[::4, ::4]])
def test_the_larger_picture_below_an_unmarked_page_is_taken(tmp_path: Path, below: Any) -> None:
    small, below = (np.ascontiguousarray(page) for page in (made.PIXELS[::2, ::2], below))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(small, photometric="rgb", subifds=1, metadata=None)
        file.write(below, photometric="rgb", metadata=None)
    picture = images.read(tmp_path / "a.tif")
    taken = below if below.size > small.size else small
    np.testing.assert_array_equal(picture.pixels, taken)
    said = "the page itself is smaller" if taken is below else "dropped: pictures below the page (SubIFD)"
    assert len(picture.notices) == 1
    assert picture.notices[0].startswith(said)


def gray_pages(path: Path, count: int, **options: Any) -> list[Any]:
    pages = [np.ascontiguousarray(np.roll(made.PIXELS[:, :, 1], 3 * index)) for index in range(count)]
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others, **options)
    return pages


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("codec", [None, "tiff_lzw"])
def test_gray_pages_are_not_merged_into_a_picture(
    make_model: ModelFile, tmp_path: Path, count: int, codec: str | None
) -> None:
    pages = gray_pages(tmp_path / "scan.tif", count, **({"compression": codec} if codec else {}))
    restorer = keygraph.load(make_model("identity"))
    report = restore_file(restorer, tmp_path / "scan.tif", tmp_path / "first.tif")
    assert any(f"only the first of {count} pages" in line for line in report.notices)
    np.testing.assert_array_equal(images.read(tmp_path / "first.tif").pixels, pages[0])
    report = restore_file(restorer, f"{tmp_path / 'scan.tif'}:2", tmp_path / "second.tif")
    assert any(f"only page 2 of {count} pages" in line for line in report.notices)
    np.testing.assert_array_equal(images.read(tmp_path / "second.tif").pixels, pages[1])


def test_gray_pages_are_bands_where_something_says_so(make_model: ModelFile, tmp_path: Path) -> None:
    pages = np.dstack(gray_pages(tmp_path / "four.tif", 4))
    gray_pages(tmp_path / "three.tif", 3)
    cubes.write(tmp_path / "ours.tif", Cube(np.ascontiguousarray(pages[:, :, :3])))
    bands = input_files.read(InputFile(tmp_path / "four.tif"), 4)  # The model takes as many.
    assert isinstance(bands, Cube)
    np.testing.assert_array_equal(bands.pixels, pages)
    for name in ("ours.tif", "three.tif:bands"):  # The file, or the user.
        file = InputFile.parse(str(tmp_path / name))
        assert input_files.read_header(file, 3).size == (made.HEIGHT, made.WIDTH, 3)
        np.testing.assert_array_equal(input_files.read(file, 3).pixels, pages[:, :, :3])
    # Bands that no one asked for as pages are refused, not cut down to the first.
    with pytest.raises(InputError, match="4 channels"):
        restore_file(keygraph.load(make_model("identity")), f"{tmp_path / 'four.tif'}:bands", tmp_path / "out.tif")


def test_pages_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gray_pages(tmp_path / "scan.tif", 2)
    made.write_pages(tmp_path / "mixed.tif", [made.PIXELS, made.PIXELS[:, :, 1].copy()], [0, 0])
    with pytest.raises(InputError, match=r"not gray pages of one size; give .*mixed\.tif alone, or .*mixed\.tif:2"):
        input_files.read_header(InputFile.parse(str(tmp_path / "mixed.tif:bands")), 3)
    for name, message in (("scan.tif:3", "has no page 3; it has 2"), ("scan.tif:last", "names no page of a picture")):
        with pytest.raises(InputError, match=message):
            input_files.read_header(InputFile.parse(str(tmp_path / name)), 3)
    assert main(["inspect", f"{tmp_path / 'scan.tif'}:2", "--json"]) == 0
    assert '"pages": 2' in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("kind", [[0], []])
def test_infrared_is_no_alpha(make_model: ModelFile, tmp_path: Path, dtype: Any, kind: list[int]) -> None:
    values = np.random.default_rng(0).random((made.HEIGHT, made.WIDTH, 4))
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    bands = (values * white).astype(dtype)
    made.write_tiff(tmp_path / "scene.tif", bands, extrasamples=[0])
    if not kind:  # Written without the tag.
        data = (tmp_path / "scene.tif").read_bytes()
        (tmp_path / "scene.tif").write_bytes(
            data.replace(struct.pack("<HHII", 338, 3, 1, 0), struct.pack("<HHII", 337, 3, 1, 0))
        )
    three, four = (
        keygraph.load(make_model("identity", tmp_path / f"{n}.onnx", in_channels=n, out_channels=n)) for n in (3, 4)
    )
    report = restore_file(three, tmp_path / "scene.tif", tmp_path / "three.tif")
    assert any("band 4 is not restored" in line for line in report.notices)
    report = restore_file(four, tmp_path / "scene.tif", tmp_path / "four.tif")
    assert any("band 4 is restored as a channel" in line for line in report.notices)
    for name in ("three.tif", "four.tif"):
        restored = pyvips.Image.new_from_file(str(tmp_path / name)).numpy()
        np.testing.assert_array_equal(restored, bands)
        with tifffile.TiffFile(tmp_path / name) as file:
            assert tuple(file.pages.first.extrasamples) == (0,)
    restore_file(three, tmp_path / "scene.tif", tmp_path / "out.png")
    assert images.read(tmp_path / "out.png").alpha is None


def test_real_alpha_is_alpha_for_every_model(tmp_path: Path) -> None:
    made.write_tiff(tmp_path / "a.tif", np.dstack([made.PIXELS] * 2)[:, :, :4], extrasamples=[2])
    for channels in (None, 3, 4):
        picture = images.read(tmp_path / "a.tif", channels)
        assert picture.has_alpha
        assert picture.pixels.shape[2] == 3


def test_a_result_of_four_channels_is_not_written_as_alpha(tmp_path: Path) -> None:
    for channels in (2, 4, 5, 31):
        images.write(tmp_path / "a.tif", Picture(np.zeros((8, 9, channels), np.uint8)))
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            assert set(file.pages.first.extrasamples) == {0}


def test_white_may_be_zero_in_every_type(tmp_path: Path) -> None:
    values = made.PIXELS[:, :, 0]
    types: tuple[Any, ...] = (np.uint8, np.uint16, np.float32, np.float64)
    for dtype in types:
        white = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
        samples = (values / 255).astype(dtype) if white == 1 else values.astype(dtype)
        made.write_tiff(tmp_path / "a.tif", samples, photometric="miniswhite")
        np.testing.assert_array_equal(images.read(tmp_path / "a.tif").pixels, white - samples)


def test_luma_and_chroma_are_not_taken_for_colours(tmp_path: Path) -> None:
    Image.fromarray(made.PIXELS).convert("YCbCr").save(tmp_path / "pillow.tif")
    made.write_tiff(tmp_path / "deflate.tif", photometric="ycbcr", compression="zlib")
    for name in ("pillow.tif", "deflate.tif"):
        for read in (images.read, images.read_header):
            with pytest.raises(InputError, match=r"YCbCr without JPEG.*; convert it to RGB"):
                read(tmp_path / name)
    Image.fromarray(made.PIXELS).save(tmp_path / "jpeg.tif", compression="jpeg", quality=95)
    images.read(tmp_path / "jpeg.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_of_which_zero_is_white_are_refused(tmp_path: Path, dtype: Any) -> None:
    """Of them libvips inverts the first alone."""
    bands = np.dstack([made.PIXELS] * 2).astype(dtype)
    for count in (2, 3, 4):
        samples = np.ascontiguousarray(bands[:, :, :count])
        made.write_tiff(tmp_path / "a.tif", samples, photometric="miniswhite", planarconfig="contig")
        with pytest.raises(InputError, match=f"{count} channels of which 0 is white"):
            images.read(tmp_path / "a.tif")
    with_alpha = np.ascontiguousarray(bands[:, :, :2])
    options = {"photometric": "miniswhite", "planarconfig": "contig", "extrasamples": [2]}
    made.write_tiff(tmp_path / "a.tif", with_alpha, **options)
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").alpha, with_alpha[:, :, 1])


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits"])
@pytest.mark.parametrize("predictor", ["none", "horizontal", "float"])
def test_cubes_in_codecs_that_tifffile_lacks(tmp_path: Path, compression: str, predictor: str) -> None:
    cube = np.random.default_rng(0).random((40, 56, 31)).astype(np.float32)
    options = {"compression": compression, "predictor": predictor}
    pyvips.Image.new_from_array(cube).tiffsave(str(tmp_path / "a.tif"), **options)
    np.testing.assert_array_equal(cubes.read(tmp_path / "a.tif").pixels, cube)


def renamed_codec(path: Path, code: int) -> None:
    """Say in a TIFF that it is compressed otherwise than it is."""
    data = path.read_bytes()
    found = [struct.pack("<HHII", 259, 3, 1, known) for known in (8, 32946, 32773)]
    (entry,) = (entry for entry in found if entry in data)
    path.write_bytes(data.replace(entry, struct.pack("<HHII", 259, 3, 1, code)))


def test_a_codec_that_is_missing_is_named_with_its_cure(tmp_path: Path) -> None:
    image = pyvips.Image.new_from_array(made.PIXELS)
    image.tiffsave(str(tmp_path / "photo.tif"), compression="deflate")
    image.bandjoin([image]).tiffsave(str(tmp_path / "cube.tif"), compression="deflate")
    for name in ("photo.tif", "cube.tif"):
        renamed_codec(tmp_path / name, 34887)
    with pytest.raises(InputError, match=r"is compressed with LERC.*store it with deflate"):
        images.read(tmp_path / "photo.tif")
    with pytest.raises(InputError, match=r"is compressed with LERC.*pip install imagecodecs"):
        cubes.read(tmp_path / "cube.tif")


def tiff_of_depth(path: Path, bits: int, channels: int) -> None:
    """Write an uncompressed TIFF of 16 x 8 pixels, which tifffile does without imagecodecs in 8 and 16 bits alone."""
    kind = 2 if channels == 3 else 1
    start = 8 + 2 + 12 * 9 + 4
    depths = (258, 3, 3, start) if channels == 3 else (258, 3, 1, bits)
    place = start + 6
    strips = ((273, 4, 1, place), (277, 3, 1, channels), (278, 4, 1, 8), (279, 4, 1, 16 * 8 * channels * bits // 8))
    entries = ((256, 4, 1, 16), (257, 4, 1, 8), depths, (259, 3, 1, 1), (262, 3, 1, kind), *strips)
    fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + fields + bytes(4)
    path.write_bytes(head + struct.pack("<3H", bits, bits, bits) + bytes(2000))


def test_good_files_that_are_not_supported_are_not_called_damaged(tmp_path: Path) -> None:
    for bits, channels in ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)):  # As files.md says.
        tiff_of_depth(tmp_path / "a.tif", bits, channels)
        assert images.read(tmp_path / "a.tif").pixels.shape[:2] == (8, 16)
    for bits, channels, message in (
        *((bits, 1, f"has {bits}-bit samples") for bits in (6, 10, 12, 14)),
        *((bits, 3, f"has several {bits}-bit samples") for bits in (4, 12)),
    ):
        tiff_of_depth(tmp_path / "a.tif", bits, channels)
        with pytest.raises(InputError, match=f"{message}.*convert it to 8 or 16 bits"):
            images.read(tmp_path / "a.tif")
    planes = np.ascontiguousarray(np.moveaxis(made.PIXELS, 2, 0))
    made.write_tiff(tmp_path / "planes.tif", planes, planarconfig="separate", tile=(32, 32))
    made.write_tiff(tmp_path / "lab.tif", photometric="cielab")
    made.write_tiff(tmp_path / "icclab.tif", photometric="icclab")
    made.write_tiff(tmp_path / "complex.tif", made.PIXELS[:, :, 0].astype(np.complex64), photometric="minisblack")
    for name, message in (
        ("planes", "separate tiles"),
        ("lab", r"colour space L\*a\*b\*"),
        ("icclab", r"colour space L\*a\*b\*"),
        ("complex", "complex numbers"),
    ):
        with pytest.raises(InputError, match=message):
            images.read(tmp_path / f"{name}.tif")
