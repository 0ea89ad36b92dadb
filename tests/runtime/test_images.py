from __future__ import annotations

import contextlib
import errno
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from keygraph.errors import InputError
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture, streaming
from PIL import Image

Array = np.ndarray[Any, Any]


def noise(*shape: int, dtype: Any = np.uint8) -> Array:
    rng = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def smooth(height: int, width: int) -> Array:
    """Return a smooth picture, which JPEG changes little."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 200 // height, x * 200 // width, (x + y) % 64], axis=2).astype(np.uint8)


def vips(pixels: Array) -> pyvips.Image:
    image = pyvips.Image.new_from_array(pixels)
    return image.copy(interpretation={1: "b-w", 3: "srgb"}[image.bands])


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    ("suffix", "shape", "dtype"),
    [
        *[(".png", shape, dtype) for shape in ((31, 17), (31, 17, 3)) for dtype in ("uint8", "uint16")],
        *[(".tif", shape, dtype) for shape in ((31, 17), (31, 17, 3)) for dtype in ("uint8", "uint16", "float32")],
        (".webp", (31, 17, 3), "uint8"),
    ],
)
def test_lossless_formats_give_back_every_value(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: str, alpha: bool
) -> None:
    picture = Picture(noise(*shape, dtype=dtype), noise(*shape[:2], dtype=dtype) if alpha else None)
    path = tmp_path / f"a[1]{suffix}"  # a name that libvips would take for one with options
    assert images.write(path, picture) == []
    back = images.read(path)
    assert back.pixels.dtype == picture.pixels.dtype
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    if picture.alpha is None:
        assert back.alpha is None
    else:
        np.testing.assert_array_equal(back.alpha, picture.alpha)
    header = images.read_header(path)
    assert (header.height, header.width, header.alpha, header.bits) == (31, 17, alpha, 8 * picture.pixels.itemsize)
    assert header.channels == (1 if len(shape) == 2 else shape[2])


def test_tiff_holds_any_number_of_channels(tmp_path: Path) -> None:
    pixels = noise(9, 8, 31, dtype="uint16")
    images.write(tmp_path / "a.tif", Picture(pixels))
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").pixels, pixels)
    with pytest.raises(InputError, match=r"not 31; write a \.tif"):
        images.write(tmp_path / "a.png", Picture(pixels))


@pytest.mark.parametrize(
    ("suffix", "picture", "notice"),
    [
        (".jpg", Picture(np.full((8, 8, 3), 51 * 257, np.uint16)), "16-bit reduced to 8"),
        (".webp", Picture(np.full((8, 8, 3), 51 * 257, np.uint16)), "16-bit reduced to 8"),
        (".jpg", Picture(np.full((8, 8, 3), 0.2, np.float32)), "floating point reduced to 8"),
        (".jpg", Picture(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 204, np.uint8)), "flattened onto white"),
        (".webp", Picture(np.full((8, 8), 51, np.uint8)), "gray stored as colour"),
    ],
)
def test_what_a_format_cannot_hold_is_said(tmp_path: Path, suffix: str, picture: Picture, notice: str) -> None:
    path = tmp_path / f"a{suffix}"
    notices = images.write(path, picture)
    assert any(notice in line for line in notices)
    back = images.read(path)
    assert back.alpha is None
    assert back.pixels.dtype == np.uint8
    assert np.ptp(back.pixels) <= 1
    assert abs(int(back.pixels.flat[0]) - 51) <= 1


def test_floats_go_into_png_as_16_bits(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        images.write(tmp_path / "a.png", Picture(np.array([[-1, 0, 0.5, 1, 2]], dtype)))
        assert images.read(tmp_path / "a.png").pixels.tolist() == [[0, 0, 32768, 65535, 65535]]


@pytest.mark.filterwarnings("error")
def test_floats_that_whole_numbers_cannot_hold_are_said(tmp_path: Path) -> None:
    pixels, alpha = np.full((600, 8, 3), 0.5, np.float32), np.full((600, 8), 0.5, np.float32)
    pixels[0, 0, 0], pixels[1, 0, 0] = 1 + 1e-6, -1e-6  # They round to white and black.
    assert images.write(tmp_path / "a.png", Picture(pixels, alpha)) == [
        "floating point reduced to 16 bits: PNG has no more here"
    ]
    pixels[0, 0, 0], alpha[0, 0] = 1.5, np.nan
    said = ["values outside 0 to 1 clipped", "NaN stored as 0"]
    assert images.write(tmp_path / "a.png", Picture(pixels, alpha))[1:] == said
    assert images.read(tmp_path / "a.png").pixels[0, 0, 0] == 65535
    images.write(tmp_path / "a.tif", Picture(pixels, alpha))
    with contextlib.ExitStack() as files:
        picture = streaming.read(tmp_path / "a.tif", tmp_path, files)
        assert streaming.write(tmp_path / "b.png", picture, tmp_path)[1:] == said
    np.testing.assert_array_equal(images.read(tmp_path / "b.png").alpha, images.read(tmp_path / "a.png").alpha)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_and_reset(tmp_path: Path, orientation: int) -> None:
    pixels = smooth(24, 40)
    image = vips(pixels)
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    image.write_to_file(str(tmp_path / "a.png"))
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    picture = images.read(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, upright)
    header = images.read_header(tmp_path / "a.png")
    assert (header.height, header.width) == upright.shape[:2]
    images.write(tmp_path / "b.png", picture)
    np.testing.assert_array_equal(images.read(tmp_path / "b.png").pixels, upright)


def with_metadata() -> pyvips.Image:
    image = vips(smooth(24, 40)).icc_transform("p3", input_profile="srgb")
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Make", "A Camera")
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd2-FNumber", "28/10")
    image.set_type(pyvips.GValue.blob_type, "xmp-data", b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    return image.copy(xres=11.8, yres=11.8)


@pytest.mark.parametrize("source", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".webp", ".tif"])
def test_profile_and_metadata_are_kept_or_said_to_be_dropped(tmp_path: Path, source: str, target: str) -> None:
    with_metadata().write_to_file(str(tmp_path / f"a{source}"))
    before = pyvips.Image.new_from_file(str(tmp_path / f"a{source}"))
    notices = images.write(tmp_path / f"b{target}", images.read(tmp_path / f"a{source}"))
    after = pyvips.Image.new_from_file(str(tmp_path / f"b{target}"))
    assert after.get("icc-profile-data") == before.get("icc-profile-data")
    assert after.get("xmp-data") == before.get("xmp-data")
    assert after.get("orientation") == 1
    assert notices == []
    with Image.open(tmp_path / f"b{target}") as opened:
        values = opened.getexif()
        assert values[0x10F] == "A Camera"
        assert values.get_ifd(0x8769)[0x829D] == 2.8
        assert values.get_ifd(0x8769)[0xA002] == 24


def test_a_stale_thumbnail_is_dropped_and_said(tmp_path: Path) -> None:
    thumbnail = vips(smooth(8, 8)).write_to_buffer(".jpg", keep="none")
    first = struct.pack("<HHHIHHI", 1, 0x112, 3, 1, 1, 0, 26)
    second = struct.pack("<H", 3) + struct.pack("<HHIHH", 0x103, 3, 1, 6, 0)
    second += struct.pack("<HHIIHHIII", 0x201, 4, 1, 68, 0x202, 4, 1, len(thumbnail), 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + second + thumbnail
    plain = vips(smooth(24, 40)).write_to_buffer(".jpg", keep="none")
    path = tmp_path / "a.jpg"
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    picture = images.read(path)
    assert picture.notices == ("dropped: EXIF thumbnail",)
    for suffix in (".jpg", ".png", ".webp", ".tif"):
        images.write(tmp_path / f"b{suffix}", picture)
        assert thumbnail[20:60] not in (tmp_path / f"b{suffix}").read_bytes()
        assert "jpeg-thumbnail-data" not in pyvips.Image.new_from_file(str(tmp_path / f"b{suffix}")).get_fields()


def test_the_profile_goes_when_the_channels_change(tmp_path: Path) -> None:
    with_metadata().write_to_file(str(tmp_path / "a.png"))
    changed = images.with_pixels(images.read(tmp_path / "a.png"), noise(40, 24))
    assert changed.metadata.icc is None
    assert "ICC profile" in changed.notices[-1]


def test_alpha_is_kept_or_resampled(tmp_path: Path) -> None:
    alpha = np.zeros((10, 10), np.uint16)
    alpha[:, 5:] = 65535
    picture = Picture(noise(10, 10, 3, dtype="uint16"), alpha)
    same = images.with_pixels(picture, noise(10, 10, 3, dtype="uint16"))
    assert same.alpha is alpha
    larger = images.with_pixels(picture, noise(30, 30, 3, dtype="uint16"))
    assert larger.alpha is not None
    assert (larger.alpha.shape, larger.alpha.dtype) == ((30, 30), np.dtype(np.uint16))
    assert (larger.alpha[:, :12] == 0).all()
    assert (larger.alpha[:, -12:] == 65535).all()
    assert larger.notices == ("alpha resampled (bicubic), not restored",)
    assert images.with_pixels(picture, noise(10, 10, 31, dtype="uint16")).alpha is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 5), (5, 1)])
def test_pictures_of_one_row_or_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """libvips's array of one gray pixel has no axes."""
    pixels = noise(*shape)
    images.write(tmp_path / "small.png", Picture(pixels))
    assert (images.read(tmp_path / "small.png").pixels == pixels).all()
    assert images.read(tmp_path / "small.png").pixels.shape == shape


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_animations_are_counted(tmp_path: Path, kind: str) -> None:
    frames = [Image.fromarray(noise(8, 8 + number, 3)).resize((8, 8)) for number in range(3)]
    for count in (1, 3):
        frames[0].save(tmp_path / "a", kind, save_all=count > 1, append_images=frames[1:count])
        assert images.open_file(tmp_path / "a").contents.frames == count


def test_palette_one_bit_cmyk_and_pages(tmp_path: Path) -> None:
    colour = vips(smooth(24, 40))
    colour.write_to_file(str(tmp_path / "palette.png"), palette=True)
    (colour.colourspace("b-w") > 100).write_to_file(str(tmp_path / "bit.png"), bitdepth=1)
    colour.icc_transform("cmyk", input_profile="srgb").write_to_file(str(tmp_path / "cmyk.tif"))
    pages = pyvips.Image.arrayjoin([colour, colour.invert()], across=1).copy()
    pages.set_type(pyvips.GValue.gint_type, "page-height", 24)
    pages.write_to_file(str(tmp_path / "pages.tif"))
    pages.write_to_file(str(tmp_path / "pages.webp"))
    for name, shape, notice in (
        ("palette.png", (24, 40, 3), "palette expanded"),
        ("bit.png", (24, 40), "1-bit samples expanded to 8 bits"),
        ("cmyk.tif", (24, 40, 3), "CMYK converted to sRGB"),
        ("pages.tif", (24, 40, 3), "only the first of 2 pages (FILE:N is page N)"),
        ("pages.webp", (24, 40, 3), "only the first of 2 frames"),
    ):
        picture = images.read(tmp_path / name)
        assert (picture.pixels.shape, picture.notices) == (shape, (notice,))
    assert np.abs(images.read(tmp_path / "cmyk.tif").pixels.astype(int) - smooth(24, 40)).mean() < 20


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    vips(noise(64, 64, 3)).write_to_file(str(path))
    whole = path.read_bytes()
    for share in (0.001, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: max(1, int(len(whole) * share))])
        with pytest.raises(InputError, match="damaged, cut off, or no image") as caught:
            images.read(path)
        assert "\n" not in str(caught.value)


def test_other_bad_files(tmp_path: Path) -> None:
    png = vips(noise(64, 64, 3)).write_to_buffer(".png")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    image = vips(smooth(8, 8))
    files: dict[str, tuple[bytes, str]] = {
        "empty.png": (b"", "empty"),
        "text.png": (b"hello", "no image"),
        "page.jpg": (b"<!DOCTYPE html><html></html>", "no image"),
        "flipped.png": (bytes(flipped), "damaged"),
        "gif.png": (image.write_to_buffer(".gif"), "is a GIF file"),
        "signed.tif": (image.cast("short").write_to_buffer(".tif"), "samples of type short"),
        "lab.tif": (image.colourspace("lab").write_to_buffer(".tif"), r"colour space L\*a\*b\*"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            images.read(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    for name, message in (("folder.png", "is a folder"), ("none.png", "does not exist")):
        for function in (images.read, images.read_header):
            with pytest.raises(InputError, match=message):
                function(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("BMP", b"BM"),
        ("PNM", b"P6\n8 8\n255\n"),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
        ("ICO", b"\0\0\1\0\1\0"),
        ("PCX", b"\x0a\5\1\x08"),
        ("AVIF sequence", b"\0\0\0\x2cftypavis"),
    ],
)
def test_a_file_of_another_format_is_called_by_its_bytes(tmp_path: Path, name: str, start: bytes) -> None:
    (tmp_path / "a.png").write_bytes(start + bytes(200))
    with pytest.raises(InputError, match=f"is an? {name} file, which keygraph does not read"):
        images.read(tmp_path / "a.png")


def test_a_file_of_libvips_is_called_so(tmp_path: Path) -> None:
    vips(smooth(8, 8)).write_to_file(str(tmp_path / "a.v"))
    (tmp_path / "a.v").rename(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"is a libvips \(\.v\) file"):
        images.read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("a.jpg", (65501, 10, 3), "JPEG holds at most 65500"),
        ("a.webp", (10, 16384, 3), "WebP holds at most 16383"),
        ("a.png", (10, 10, 4), "not 4"),
        ("a.bmp", (10, 10, 3), "names no image format"),
        ("a", (10, 10, 3), "names no image format"),
        ("none/a.png", (10, 10, 3), "does not exist"),
        ("folder.png", (10, 10, 3), "is a folder"),
    ],
)
def test_a_target_that_cannot_be(tmp_path: Path, name: str, size: tuple[int, int, int], message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=message):
        images.check_target(tmp_path / name, *size)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="no permission"):
            images.check_target(tmp_path / "a.png", 10, 10, 3)
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    real = Path.write_bytes

    def fill(self: Path, data: bytes) -> int:
        real(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(InputError, match="No space left on device"):
        images.write(path, Picture(noise(64, 64, 3)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_a_write_that_the_system_really_stops(tmp_path: Path) -> None:
    code = f"""
        import resource, numpy as np
        from keygraph.errors import InputError
        from keygraph.runtime.io import images
        pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        try:
            images.write({str(tmp_path / "a.png")!r}, images.Picture(pixels))
        except InputError as error:
            print(error)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "File too large" in run.stdout, run.stderr
    assert list(tmp_path.iterdir()) == []
