"""Damaged containers and metadata: an error or a picture, never a traceback or an endless loop; and streaming."""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import picture_files as made
import pytest
import pyvips
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keygraph.errors import InputError
from keygraph.runtime.io import images
from keygraph.runtime.io.images import streaming
from keygraph.runtime.io.images.metadata import exif, iptc, xmp
from keygraph.runtime.io.images.metadata.ifd import StructureError
from PIL import Image
from test_files_table import ROWS, SUFFIXES

SOURCES = [(what, source) for what, row in ROWS.items() for source in row.makers]


def rich(path: Path) -> None:
    """Write a file with much metadata."""
    block = made.exif_block(6, made.thumbnail())
    if path.suffix == ".png":
        made.write_png(path, (b"eXIf", block), (b"gAMA", bytes(4)), (b"acTL", bytes(8)), pnginfo=made.png_text())
    elif path.suffix == ".jpg":
        mpf = b"MPF\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0xB001, 4, 1, 2) + bytes(4)
        segments = ((0xE1, b"Exif\0\0" + block), (0xED, made.photoshop((0x0404, made.IPTC))), (0xE2, mpf))
        made.write_jpeg(path, *segments, after=b"more", comment=b"a comment")
    elif path.suffix == ".webp":
        made.write_webp(path, exif=b"Exif\0\0" + block, xmp=made.XMP)
    else:
        made.write_tiff_with_exif(path, 6, made.XMP)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(sorted(SUFFIXES.values())),
    changes=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), min_size=1, max_size=4),
    end=st.floats(0.05, 1),
    head=st.booleans(),
)
def test_damage_is_an_error_or_a_picture(
    tmp_path: Path, suffix: str, changes: list[tuple[float, int]], end: float, head: bool
) -> None:
    whole = tmp_path / f"whole{suffix}"
    if not whole.exists():
        rich(whole)
    data = bytearray(whole.read_bytes())
    for place, value in changes:
        data[int(place * (min(len(data), 700) - 1 if head else len(data) - 1))] = value
    file = tmp_path / f"damaged{suffix}"
    file.write_bytes(data[: max(1, int(end * len(data)))] if end < 0.9 else data)
    began = time.monotonic()
    try:
        picture = images.read(file)
        for target in SUFFIXES.values():
            images.write(tmp_path / f"out{target}", picture)
    except InputError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
    assert time.monotonic() - began < 30


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), prefix=st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_bytes_as_exif_iptc_and_xmp(data: bytes, prefix: bytes) -> None:
    with contextlib.suppress(StructureError):
        block, _ = exif.updated(prefix + data, 40, 56)
        assert len(block) <= len(prefix + data)
        exif.for_tiff(block, "<")
    records, _ = iptc.unwrapped(b"Photoshop 3.0\0" + data)
    assert records is None or len(records) <= len(data)
    packet, removed = xmp.updated(data, 40, 56, True)
    assert packet is not None or removed


def test_directories_in_a_circle(tmp_path: Path) -> None:
    loop = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 34665, 4, 1, 8) + struct.pack("<I", 8)
    with pytest.raises(StructureError):  # The "thumbnail" is the first directory: nothing is left of it.
        exif.updated(loop[:-4] + struct.pack("<I", 9), 1, 1)
    values, others = exif.for_tiff(loop, "<")
    assert ([value.tag for value in values], others) == ([34665], frozenset())
    (tmp_path / "loop.tif").write_bytes(loop)
    with pytest.raises(InputError):
        images.read(tmp_path / "loop.tif")


def test_exif_stays_byte_for_byte_but_for_what_changed() -> None:
    thumbnail = made.thumbnail()
    block = made.exif_block(6, thumbnail)
    updated, had_thumbnail = exif.updated(block, made.WIDTH, made.HEIGHT)
    assert had_thumbnail
    assert len(block) - len(updated) == len(thumbnail)
    changed = np.flatnonzero(np.frombuffer(block[: len(updated)], np.uint8) != np.frombuffer(updated, np.uint8))
    assert 3 <= len(changed) <= 6  # Orientation, width, height, and where the thumbnail's directory was.


def test_exif_ending_in_zeros_keeps_them() -> None:
    note = bytes(100)
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 34665, 4, 1, 26) + bytes(4)
    block += struct.pack("<H", 1) + struct.pack("<HHII", 0x927C, 7, len(note), 44) + bytes(4) + note
    assert exif.updated(block, 1, 1) == (block, False)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"<d xmlns:t='http://ns.adobe.com/tiff/1.0/' t:Orientation=\"6\"/>", b't:Orientation="1"'),
        (b"<d xmlns:t='http://ns.adobe.com/tiff/1.0/'><t:Orientation>8</t:Orientation></d>", b"<t:Orientation>1</t:O"),
    ],
)
def test_orientation_in_xmp_is_set_only_if_it_was_applied(packet: bytes, expected: bytes) -> None:
    turned, _ = xmp.updated(packet, 10, 10, True)
    assert turned is not None
    assert expected in turned
    assert xmp.updated(packet, 10, 10, False) == (packet, [])


def test_thumbnails_and_extensions_leave_xmp() -> None:
    packet = (
        b"<d xmlns:xmp='http://ns.adobe.com/xap/1.0/' xmlns:n='http://ns.adobe.com/xmp/note/' n:HasExtendedXMP='AB'>"
        b"<xmp:Thumbnails><rdf:Alt><rdf:li>old</rdf:li></rdf:Alt></xmp:Thumbnails><xmp:Rating>5</xmp:Rating></d>"
    )
    cleaned, removed = xmp.updated(packet, 10, 10, False)
    assert cleaned is not None
    assert b"old" not in cleaned
    assert b"HasExtendedXMP" not in cleaned
    assert b"<xmp:Rating>5</xmp:Rating>" in cleaned
    assert removed == ["extended XMP", "XMP thumbnail"]


@pytest.mark.parametrize(("what", "source"), SOURCES)
def test_streaming_keeps_and_says_the_same(tmp_path: Path, what: str, source: str) -> None:
    file = tmp_path / f"source{SUFFIXES[source]}"
    ROWS[what].makers[source](file)
    whole = images.read(file)
    for suffix in SUFFIXES.values():
        with contextlib.ExitStack() as files:
            streamed = streaming.read(file, tmp_path, files)
            assert (streamed.metadata, streamed.notices) == (whole.metadata, whole.notices)
            assert streamed.alpha_is_band == whole.alpha_is_band
            said = streaming.write(tmp_path / f"streamed{suffix}", streamed, tmp_path)
        assert said == images.write(tmp_path / f"whole{suffix}", whole)
        first, second = (images.read(tmp_path / f"{name}{suffix}") for name in ("whole", "streamed"))
        assert (first.metadata, first.alpha_is_band) == (second.metadata, second.alpha_is_band)
        assert np.abs(first.pixels.astype(float) - second.pixels).max() <= (0 if suffix != ".jpg" else 8)


def test_what_is_too_long_for_jpeg_is_said(tmp_path: Path) -> None:
    picture = images.Picture(made.PIXELS, metadata=images.Metadata(xmp=b"x" * 70_000))
    assert images.write(tmp_path / "a.jpg", picture) == ["XMP of 70,029 bytes dropped: not kept in JPEG"]
    assert images.write(tmp_path / "a.png", picture) == []


def test_a_larger_result_loses_positions_and_gets_its_size(tmp_path: Path) -> None:
    made.write_tiff(tmp_path / "a.tif", extratags=made.GEO_TAGS)
    larger = images.with_pixels(images.read(tmp_path / "a.tif"), np.zeros((80, 112, 3), np.uint8))
    assert larger.notices == ("GeoTIFF tags dropped: they are for another size",)
    made.write_jpeg(tmp_path / "a.jpg", (0xE1, b"Exif\0\0" + made.exif_block()))
    larger = images.with_pixels(images.read(tmp_path / "a.jpg"), np.zeros((80, 112, 3), np.uint8))
    images.write(tmp_path / "b.jpg", larger)
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.getexif().get_ifd(0x8769)[0xA002] == 112


def test_metadata_that_libvips_rejects_is_said(tmp_path: Path) -> None:
    """A profile for colours in a gray picture, and EXIF that is none."""
    made.write_png(tmp_path / "gray.png", pixels=made.PIXELS[:, :, 0], icc_profile=made.PROFILE)
    assert images.read(tmp_path / "gray.png").notices == ("dropped: ICC profile (damaged, or for other colours)",)
    made.write_jpeg(tmp_path / "a.jpg", (0xE1, b"Exif\0\0no structure"))
    assert images.read(tmp_path / "a.jpg").notices == ("dropped: EXIF (damaged)",)


GRAY_PROFILE = made.PROFILE[:16] + b"GRAY" + made.PROFILE[20:]


@pytest.mark.parametrize(
    ("mode", "profile", "why"),
    [
        ("L", made.PROFILE, "it is for RGB, and the picture is gray"),
        ("RGB", GRAY_PROFILE, "it is for gray, and the picture is RGB"),
        ("CMYK", made.PROFILE, "it is for RGB, and the picture is CMYK"),
        ("L", b"junk" * 50, "damaged"),
        ("RGB", made.PROFILE[:100], "damaged"),
        ("CMYK", b"junk" * 50, "damaged"),
    ],
    ids=["RGB for gray", "gray for RGB", "RGB for CMYK", "junk for gray", "cut for RGB", "junk for CMYK"],
)
def test_a_profile_that_does_not_fit_is_said(tmp_path: Path, mode: str, profile: bytes, why: str) -> None:
    for suffix in (".jpg", ".tif", *([".webp"] if mode == "RGB" else [])):
        Image.fromarray(made.PIXELS).convert(mode).save(tmp_path / f"a{suffix}", icc_profile=profile)
        picture = images.read(tmp_path / f"a{suffix}")
        assert f"dropped: ICC profile ({why})" in picture.notices
        assert mode == "CMYK" or picture.metadata.icc is None
        Image.fromarray(made.PIXELS).save(tmp_path / f"b{suffix}", icc_profile=made.PROFILE)
        assert images.read(tmp_path / f"b{suffix}").metadata.icc == made.PROFILE


def test_exif_tags_that_are_none_of_tiff_are_said(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x010F], block[50341], block[0x0213] = "A Camera", b"PrintIM\x000300", 1
    made.write_jpeg(tmp_path / "a.jpg", (0xE1, block.tobytes()))
    picture = images.read(tmp_path / "a.jpg")
    assert images.write(tmp_path / "b.tif", picture) == ["EXIF tag 50341 dropped: not kept in TIFF"]
    assert images.write(tmp_path / "b.jpg", picture) == []


def test_damage_behind_it_does_not_hide_camera_raw_or_the_full_page(tmp_path: Path) -> None:
    small = np.ascontiguousarray(made.PIXELS[::2, ::2])
    far_away = (65000, 4, 1, 10**9, True)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(small, photometric="rgb", subfiletype=1, metadata=None)
        file.write(made.PIXELS, photometric="rgb", metadata=None, extratags=[far_away])
    renamed(tmp_path / "a.tif", 34665)
    picture = images.read(tmp_path / "a.tif")
    assert picture.pixels.shape == made.PIXELS.shape
    assert "EXIF (damaged)" in picture.notices[0]
    dng = (50706, 1, 4, b"\1\4\0\0", True)
    tifffile.imwrite(tmp_path / "raw.tif", small, photometric="rgb", metadata=None, extratags=[dng, far_away])
    renamed(tmp_path / "raw.tif", 330)
    with pytest.raises(InputError, match="camera raw"):
        images.read(tmp_path / "raw.tif")


def renamed(path: Path, tag: int) -> None:
    """Give another number to tag 65000 of a TIFF."""
    data = path.read_bytes()
    entry = struct.pack("<HHII", 65000, 4, 1, 10**9)
    assert data.count(entry) == 1
    path.write_bytes(data.replace(entry, struct.pack("<H", tag) + entry[2:]))


def test_a_text_under_a_latin_name_is_kept(tmp_path: Path) -> None:
    made.write_png(tmp_path / "a.png", (b"tEXt", b"A\xf1o\x001998"))
    images.write(tmp_path / "b.png", images.read(tmp_path / "a.png"))
    assert made.png_chunk(b"tEXt", b"A\xf1o\x001998") in (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("per_metre", [1, 2**31 - 1])
def test_a_resolution_that_is_none_is_dropped_and_said(tmp_path: Path, per_metre: int) -> None:
    made.write_png(tmp_path / "a.png", (b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1)))
    picture = images.read(tmp_path / "a.png")
    assert picture.notices == ("dropped: resolution (implausible)",)
    for suffix in SUFFIXES.values():
        assert images.write(tmp_path / f"b{suffix}", picture) == []


def test_a_size_that_the_file_cannot_hold_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    made.write_tiff(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    width = data.index(struct.pack("<HHII", 256, 4, 1, made.WIDTH))
    struct.pack_into("<I", data, width + 8, 60_000_000)
    (tmp_path / "a.tif").write_bytes(data)
    made.write_png(tmp_path / "a.png")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rest = (tmp_path / "a.png").read_bytes()[33:]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + made.png_chunk(b"IHDR", header) + rest)
    for name in ("a.tif", "a.png"):
        for read in (images.read_header, images.read):
            with pytest.raises(InputError, match=r"cut off, or no image \(its samples need"):
                read(tmp_path / name)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_damaged_samples_is_an_error(tmp_path: Path, progressive: bool) -> None:
    """The decoder would fill what is missing with gray."""
    file = tmp_path / "a.jpg"
    made.write_jpeg(file, progressive=progressive)
    whole = file.read_bytes()
    images.read(file)
    two_thirds = len(whole) * 2 // 3
    for damaged in (
        whole[:two_thirds] + b"\xff\xd9",
        whole[:two_thirds] + bytes(60) + whole[two_thirds + 60 :],
    ):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            images.read(file)


def test_jpeg_in_tiff_with_damaged_samples_is_an_error_or_said(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    tall = np.concatenate([made.PIXELS] * 8)
    image = pyvips.Image.new_from_array(tall).copy(interpretation="srgb")
    image.tiffsave(str(file), compression="jpeg")
    assert images.read(file).notices == ()
    with tifffile.TiffFile(file) as tiff:
        places = list(zip(tiff.pages.first.dataoffsets, tiff.pages.first.databytecounts, strict=True))
    whole = file.read_bytes()
    start, size = places[-1]
    middle = start + size * 2 // 3
    for damage in (bytes(start + size - 2 - middle), b"\xff\xd9"):
        file.write_bytes(whole[:middle] + damage + whole[middle + len(damage) :])
        with pytest.raises(InputError, match="is damaged"):
            images.read(file)
    # libtiff warns of damage in the first samples as it does of a text that does not end in NUL.
    start, size = places[0]
    file.write_bytes(whole[: start + size // 2] + b"\xff\xd9" + whole[start + size // 2 + 2 :])
    assert images.read(file).notices[0].startswith("decoded with warnings")
    Image.fromarray(made.PIXELS).save(file, compression="jpeg", tiffinfo={305: "a program"})
    assert images.read(file).notices == ()
    file.write_bytes(file.read_bytes().replace(b"a program\0", b"a program!"))
    assert images.read(file).notices[0].startswith("decoded with warnings")


def test_a_damaged_chain_of_pages_is_an_error(tmp_path: Path) -> None:
    """Else the first page, which may be a reduced copy, would be taken."""
    small = np.ascontiguousarray(made.PIXELS[::2, ::2])
    made.write_pages(tmp_path / "a.tif", [small, made.PIXELS, made.PIXELS], [1, 0, 0])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        last = file.pages[2].offset
    data = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into("<I", data, data.index(struct.pack("<I", last)), 10**9)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match="damaged, cut off"):
        images.read(tmp_path / "a.tif")


def test_a_chain_of_pages_in_a_circle_does_not_change_what_samples_mean(tmp_path: Path) -> None:
    bands = np.ascontiguousarray(np.dstack([made.PIXELS] * 2)[:, :, :4])
    gray = (made.PIXELS[:, :, 0] / 255).astype(np.float32)
    made.write_tiff(tmp_path / "bands.tif", bands, extrasamples=[0])
    made.write_tiff(tmp_path / "white.tif", gray, photometric="miniswhite")
    for name in ("bands.tif", "white.tif"):
        data = bytearray((tmp_path / name).read_bytes())
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        struct.pack_into("<I", data, start + 2 + 12 * count, start)
        (tmp_path / name).write_bytes(data)
        assert "damaged behind page 1: further pages are lost" in images.read(tmp_path / name).notices
    assert images.read(tmp_path / "bands.tif").alpha_is_band
    np.testing.assert_array_equal(images.read(tmp_path / "white.tif").pixels, 1 - gray)


@pytest.mark.parametrize("packed", [False, True])
def test_png_may_have_exif_and_xmp_behind_its_samples(tmp_path: Path, packed: bool) -> None:
    made.write_png(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    text = b"\1\0\0\0" + zlib.compress(made.XMP) if packed else bytes(4) + made.XMP
    late = made.png_chunk(b"eXIf", made.exif_block(6)) + made.png_chunk(b"iTXt", b"XML:com.adobe.xmp\0" + text)
    (tmp_path / "a.png").write_bytes(data[:-12] + late + data[-12:])
    assert images.read_header(tmp_path / "a.png").height == made.WIDTH
    picture = images.read(tmp_path / "a.png")
    assert picture.notices == ()
    np.testing.assert_array_equal(picture.pixels, np.rot90(made.PIXELS, -1))
    with contextlib.ExitStack() as files:
        streamed = streaming.read(tmp_path / "a.png", tmp_path, files)
        assert streamed.pixels.shape == picture.pixels.shape
        assert streamed.metadata == picture.metadata
    assert images.write(tmp_path / "b.png", picture) == []
    with Image.open(tmp_path / "b.png") as image:
        assert image.getexif()[0x0112] == 1
        assert image.getexif()[0x010F] == "A Camera"
        assert image.info["xmp"] == made.XMP.replace(b"Orientation='6'", b"Orientation='1'")


@pytest.mark.parametrize(("kind", "count"), [(1, 1), (3, 2), (3, 4), (4, 1), (9, 1), (2, 2)])
def test_an_orientation_of_any_type_is_reset(kind: int, count: int) -> None:
    block = bytearray(made.exif_block(6))
    order = "<" if block[:2] == b"II" else ">"
    entry = block.index(struct.pack(order + "HHI", 274, 3, 1))
    values = {1: "B3x", 2: "2s2x", 3: "HH", 4: "I", 9: "i"}[kind]
    numbers = (b"6\0",) if kind == 2 else (6, 6) if kind == 3 else (6,)
    stored = struct.pack(order + values, *numbers)
    if count == 4:  # Beyond the entry.
        stored = struct.pack(order + "I", len(block))
        block += struct.pack(order + "4H", 6, 6, 6, 6)
    block[entry : entry + 12] = struct.pack(order + "HHI", 274, kind, count) + stored
    changed, _ = exif.updated(bytes(block), 7, 5)
    assert exif.orientation(changed) == 1
    number = struct.pack(order + ("I" if kind == 4 else "H2x"), 1)
    assert changed[entry : entry + 12] == struct.pack(order + "HHI", 274, 4 if kind == 4 else 3, 1) + number


def test_a_picture_that_is_turned_has_its_densities_turned(tmp_path: Path) -> None:
    for densities, turned in (((3, 2, 0), (2, 3, 0)), ((3000, 2000, 1), (2000, 3000, 1))):
        chunks = (b"pHYs", struct.pack(">IIB", *densities)), (b"eXIf", made.exif_block(6))
        made.write_png(tmp_path / "a.png", *chunks)
        images.write(tmp_path / "b.png", images.read(tmp_path / "a.png"))
        assert made.png_chunk(b"pHYs", struct.pack(">IIB", *turned)) in (tmp_path / "b.png").read_bytes()
    made.write_png(tmp_path / "a.png", (b"pHYs", struct.pack(">IIB", 1, 1000, 0)))
    assert images.read(tmp_path / "a.png").notices == ("dropped: pixel aspect ratio (implausible)",)


def test_a_picture_beside_an_animation_is_said(tmp_path: Path) -> None:
    made.write_png(tmp_path / "a.png", (b"acTL", struct.pack(">II", 1, 0)))
    assert images.read(tmp_path / "a.png").notices == ("only the picture beside an animation of 1 frame",)
    made.write_png(tmp_path / "b.png", (b"acTL", struct.pack(">II", 1, 0)), (b"fcTL", bytes(26)))
    assert images.read(tmp_path / "b.png").notices == ()
