"""The table of docs/reference/files.md against reality: what is kept, converted and dropped, and that it is said."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keygraph
import numpy as np
import picture_files as made
import pytest
import pyvips
import tifffile
from keygraph.runtime.reports import Report
from keygraph.runtime.restore_files import restore_file
from PIL import Image

ModelFile = Callable[..., Path]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "files.md"
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WebP": ".webp"}
OUTCOMES = ("kept", "converted", "dropped", "applied")


class Result(NamedTuple):
    """A restored file, its source, and what was said."""

    source: Path
    target: Path
    report: Report

    @property
    def said(self) -> str:
        return "; ".join(self.report.notices)

    @property
    def format(self) -> str:
        return next(name for name, suffix in SUFFIXES.items() if suffix == self.target.suffix)


class Row(NamedTuple):
    """How a row is tested.

    Attributes
    ----------
    makers
        Format -> writes a file that has it.
    outcome
        What became of it, judged from the files.
    word
        What the notices must name if it was not kept.
    """

    makers: dict[str, Callable[[Path], None]]
    outcome: Callable[[Result], str]
    word: str


def kept_if(holds: Callable[[Path], bool]) -> Callable[[Result], str]:
    """Return an outcome: a property, which the source must have, is kept or dropped."""

    def outcome(result: Result) -> str:
        assert holds(result.source), "the source lacks what it should have"
        return "kept" if holds(result.target) else "dropped"

    return outcome


def info(path: Path, key: str) -> Any:
    with Image.open(path) as image:
        image.load()
        return image.info.get(key)


def icc(path: Path) -> bool:
    return bool(info(path, "icc_profile") == made.PROFILE)


def exif(path: Path) -> Image.Exif:
    with Image.open(path) as image:
        found: Image.Exif = image.getexif()
    return found


def inner(path: Path, tag: int) -> dict[int, Any]:
    """Return a directory of EXIF, to which a tag points."""
    with Image.open(path) as image:
        return dict(image.getexif().get_ifd(tag))


def xmp(path: Path) -> bytes:
    with Image.open(path) as image:
        if isinstance(image, Image.Image) and image.format == "TIFF":
            return bytes(image.tag_v2.get(700, b""))  # type: ignore[attr-defined]
        return bytes(image.info.get("xmp") or b"")


def has_maker_note(path: Path) -> bool:
    return bool(inner(path, 0x8769).get(0x927C) == made.MAKER_NOTE)


def has_position(path: Path) -> bool:
    return bool(inner(path, 0x8825).get(1) == "N")


def thumbnail(result: Result) -> str:
    start = made.thumbnail()[20:80]
    assert start in result.source.read_bytes()
    return "kept" if start in result.target.read_bytes() else "dropped"


def oriented(path: Path, orientation: int = 6) -> None:
    """Write a picture with an orientation in EXIF and XMP."""
    with_exif(path, orientation, xmp=made.XMP)


def orientation(result: Result) -> str:
    assert exif(result.source)[0x0112] == 6
    upright = np.rot90(made.PIXELS, -1).astype(int)
    with Image.open(result.target) as image:
        assert image.size == (made.HEIGHT, made.WIDTH)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - upright).mean() < 6
    assert exif(result.target).get(0x0112, 1) == 1
    assert inner(result.target, 0x8769).get(0xA002, made.HEIGHT) == made.HEIGHT
    assert b"tiff:Orientation='1'" in xmp(result.target)
    return "applied"


def with_exif(path: Path, orientation: int = 1, thumbnail: bytes = b"", xmp: bytes = b"") -> None:
    block = made.exif_block(orientation, thumbnail)
    if path.suffix == ".png":
        text = [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)] if xmp else []
        made.write_png(path, (b"eXIf", block), *text)
    elif path.suffix == ".jpg":
        packet = [(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)] if xmp else []
        made.write_jpeg(path, (0xE1, b"Exif\0\0" + block), *packet)
    elif path.suffix == ".webp":
        made.write_webp(path, exif=b"Exif\0\0" + block, xmp=xmp)
    else:
        made.write_tiff_with_exif(path, orientation, xmp)


def with_icc(path: Path) -> None:
    Image.fromarray(made.PIXELS).save(path, icc_profile=made.PROFILE)


def with_resolution(path: Path) -> None:
    options: dict[str, Any] = {"dpi": (300, 300)}
    if path.suffix == ".webp":
        block = Image.Exif()
        block[282], block[283], block[296] = 300.0, 300.0, 2
        options = {"exif": block.tobytes()}
    Image.fromarray(made.PIXELS).save(path, **options)


def resolution(path: Path) -> float | None:
    if path.suffix == ".webp":
        value = exif(path).get(282)
        return None if value is None else float(value)
    if path.suffix == ".tif":
        with Image.open(path) as image:
            has_unit = image.tag_v2.get(296, 2) != 1 and 282 in image.tag_v2
            return float(image.tag_v2[282]) if has_unit else None
    if path.suffix == ".jpg":
        return {0: None, 1: float(info(path, "jfif_density")[0])}[info(path, "jfif_unit")]
    value = info(path, "dpi")
    return None if value is None else float(round(value[0], 1))


def with_aspect(path: Path) -> None:
    """Write a picture with 3 pixels along x in the length of 2 along y."""
    if path.suffix == ".tif":
        made.write_tiff(path, resolution=(3, 2), resolutionunit=1)
    elif path.suffix == ".jpg":
        made.write_jpeg(path)
        data = bytearray(path.read_bytes())
        struct.pack_into(">BHH", data, 13, 0, 3, 2)
        path.write_bytes(data)
    else:
        made.write_png(path, (b"pHYs", struct.pack(">IIB", 3, 2, 0)))


def has_aspect(path: Path) -> bool:
    if path.suffix == ".tif":
        with Image.open(path) as image:
            return [image.tag_v2.get(tag) for tag in (282, 283, 296)] == [3, 2, 1]
    if path.suffix == ".jpg":
        return (info(path, "jfif_unit"), info(path, "jfif_density")) == (0, (3, 2))
    return b"pHYs" + struct.pack(">IIB", 3, 2, 0) in path.read_bytes()


def with_data_behind(path: Path) -> None:
    made.write_png(path)
    path.write_bytes(path.read_bytes() + b"private 7")


def without_resolution(path: Path) -> None:
    if path.suffix == ".tif":
        made.write_tiff(path, resolutionunit=1)
    else:
        Image.fromarray(made.PIXELS).save(path)


ALPHA = np.arange(made.HEIGHT * made.WIDTH).reshape(made.HEIGHT, made.WIDTH).astype(np.uint8)


def with_alpha(path: Path) -> None:
    options: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(np.dstack([made.PIXELS, ALPHA])).save(path, **options)


def alpha(result: Result) -> str:
    with Image.open(result.target) as image:
        if image.mode == "RGBA":
            return "kept" if np.array_equal(np.asarray(image)[:, :, 3], ALPHA) else "changed"
        white = np.asarray(image)[0, 0].min()
    return "converted" if white > 250 else "wrong"


def fourth(path: Path, kind: int, dtype: Any = np.uint8) -> None:
    made.write_tiff(path, np.dstack([made.PIXELS, ALPHA]).astype(dtype), extrasamples=[kind])


def premultiplied(result: Result) -> str:
    if result.format == "JPEG":
        return "converted"
    with Image.open(result.target) as image:
        pixel = np.asarray(image)[20, 20]
    share = ALPHA[20, 20] / 255
    assert np.abs(pixel[:3] - np.minimum(made.PIXELS[20, 20] / share, 255)).max() <= 1
    return "converted"


def extra_band(result: Result) -> str:
    with Image.open(result.target) as image:
        colours = np.asarray(image)[:, :, :3].astype(int)
        mode = image.mode
    assert np.abs(colours - made.PIXELS).mean() < 3  # No transparency was applied to them.
    if result.format != "TIFF":
        assert mode == "RGB"
        return "dropped"
    with tifffile.TiffFile(result.target) as file:
        page = file.pages.first
        assert tuple(page.extrasamples) == (0,)
        return "kept" if np.array_equal(page.asarray()[:, :, 3], ALPHA) else "changed"


def samples(result: Result) -> Any:
    return pyvips.Image.new_from_file(str(result.target)).numpy()


def deep(dtype: Any) -> Any:
    values = np.random.default_rng(0).random((made.HEIGHT, made.WIDTH, 3))
    return (values * 65535).astype(dtype) if np.dtype(dtype).kind == "u" else values.astype(dtype)


def write_deep(path: Path, dtype: Any) -> None:
    if path.suffix == ".png":
        pyvips.Image.new_from_array(deep(dtype)).copy(interpretation="rgb16").pngsave(str(path))
    else:
        made.write_tiff(path, deep(dtype))


def depth(dtype: Any) -> Callable[[Result], str]:
    def outcome(result: Result) -> str:
        values = samples(result)
        if np.array_equal(values, deep(dtype)) and values.dtype == dtype:
            return "kept"
        scale = (
            1 if np.dtype(dtype).kind == "f" else 65535,
            np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1,
        )
        limit = 0.1 if result.format == "JPEG" else 0.01
        assert np.abs(values / scale[1] - deep(dtype) / scale[0]).mean() < limit
        return "converted"

    return outcome


def gray(result: Result) -> str:
    return "kept" if samples(result).ndim == 2 or samples(result).shape[2] == 1 else "converted"


def expanded(source_mode: str, tolerance: float = 6) -> Callable[[Result], str]:
    """Return an outcome: the picture has other samples than its source and looks the same."""

    def outcome(result: Result) -> str:
        with Image.open(result.source) as before, Image.open(result.target) as after:
            assert before.mode == source_mode
            assert after.mode != source_mode
            difference = np.asarray(before.convert("RGB")).astype(int) - np.asarray(after.convert("RGB"))
        assert np.abs(difference).mean() < tolerance
        return "converted"

    return outcome


def deep_cmyk(result: Result) -> str:
    bits = 16 if result.format in ("PNG", "TIFF") else 8
    values = samples(result)
    assert (values.dtype, values.shape[2]) == (np.dtype(f"uint{bits}"), 3)
    return "converted"


def text(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return getattr(image, "text", {}) == {
            "parameters": "夜の東京, ünï",
            "Author": "José Müller",
            "Source": "compressed",
        }


def with_comment(path: Path) -> None:
    if path.suffix == ".png":
        made.write_png(path, (b"tEXt", b"Comment\0scanner 7, M\xfcller"))
    else:
        made.write_jpeg(path, (0xFE, "scanner 7, Müller".encode()))


def comment(path: Path) -> bool:
    value = info(path, "comment" if path.suffix == ".jpg" else "Comment")
    return (value.decode() if isinstance(value, bytes) else value) == "scanner 7, Müller"


COLOUR_CHUNKS = (
    (b"cICP", bytes([9, 16, 0, 1])),
    (b"mDCV", bytes(24)),
    (b"cLLI", bytes(8)),
    (b"sRGB", b"\0"),
    (b"gAMA", struct.pack(">I", 45455)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
)


def colour_chunks(path: Path) -> bool:
    head = path.read_bytes().partition(b"IDAT")[0]
    return all(kind + data in head for kind, data in COLOUR_CHUNKS)


def tags(*wanted: int) -> Callable[[Path], bool]:
    """Return whether a TIFF has tags, with the same values as the source that lies beside it."""

    def holds(path: Path) -> bool:
        if path.suffix != ".tif":
            return False
        with tifffile.TiffFile(path) as file, tifffile.TiffFile(path.parent / "source.tif") as source:
            return all(
                tag in file.pages.first.tags and file.pages.first.tags[tag].value == source.pages.first.tags[tag].value
                for tag in wanted
            )

    return holds


DESCRIPTIVE = {270: "Scene 42", 271: "A Camera", 272: "Model 1", 306: "2026:11:28 09:00:00", 315: "Jo", 33432: "CC0"}


def with_description(path: Path) -> None:
    block = Image.Exif()
    for tag, value in DESCRIPTIVE.items():
        block[tag] = value
    Image.fromarray(made.PIXELS).save(path, exif=block)


def descriptions(path: Path) -> bool:
    return all(exif(path).get(tag) == value for tag, value in DESCRIPTIVE.items())


def with_tags(*extra: tuple[Any, ...]) -> Callable[[Path], None]:
    return lambda path: made.write_tiff(path, extratags=extra)


def ascii_tag(tag: int, value: str) -> tuple[Any, ...]:
    return (tag, 2, len(value) + 1, value, True)


def absent(*marks: bytes) -> Callable[[Result], str]:
    """Return an outcome: marks that the source has are not in the result."""

    def outcome(result: Result) -> str:
        source, target = result.source.read_bytes(), result.target.read_bytes()
        assert any(mark in source for mark in marks), "the source lacks what it should have"
        return "kept" if any(mark in target for mark in marks) else "dropped"

    return outcome


def first_picture(result: Result) -> str:
    """Return the outcome of further pictures: the result has one, the first."""
    with Image.open(result.target) as image:
        assert getattr(image, "n_frames", 1) == 1
        first = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(first - made.PIXELS).mean() < 6
    return "dropped"


def gain_map(path: Path) -> None:
    light = made.PIXELS.astype(np.float32) / 64
    pyvips.Image.new_from_array(light).copy(interpretation="scrgb").uhdrsave(str(path))


def base_picture(result: Result) -> str:
    with Image.open(result.source) as before, Image.open(result.target) as after:
        difference = np.asarray(before.convert("RGB")).astype(int) - np.asarray(after.convert("RGB"))
    assert np.abs(difference).mean() < 3
    return absent(b"hdrgm:", b"hdr-gain-map", b"MPF\0", b"urn:iso:std:iso:ts:21496")(result)


def mpo(path: Path) -> None:
    first, *others = made.frames(2)
    first.save(path, "MPO", save_all=True, append_images=others, quality=98)


def copies_and_mask(path: Path) -> None:
    small = np.ascontiguousarray(made.PIXELS[::2, ::2])
    mask = np.zeros((made.HEIGHT, made.WIDTH), bool)
    made.write_pages(path, [small, made.PIXELS, mask], subfiletypes=[1, 0, 4])


def write_pyramid(path: Path) -> None:
    image = pyvips.Image.new_from_array(np.tile(made.PIXELS, (8, 8, 1))).copy(interpretation="srgb")
    image.tiffsave(str(path), pyramid=True, tile=True, tile_width=64, tile_height=64)


def pyramid(result: Result) -> str:
    if result.format != "TIFF":
        return "dropped"
    with tifffile.TiffFile(result.target) as file:
        return "kept" if [level.shape for level in file.series[0].levels][1:] == [(160, 224, 3)] else "dropped"


def every(*names: str) -> Callable[[Callable[[Path], None]], dict[str, Callable[[Path], None]]]:
    return lambda maker: dict.fromkeys(names, maker)


ALL = every("PNG", "JPEG", "TIFF", "WebP")
OTHER = {
    "PNG": lambda path: made.write_png(path, (b"prVt", b"private 7")),
    "JPEG": lambda path: made.write_jpeg(path, (0xE5, b"private 7")),
    "TIFF": with_tags(ascii_tag(65000, "private 7")),
    "WebP": lambda path: write_webp_chunk(path),
}


def write_webp_chunk(path: Path) -> None:
    made.write_webp(path, exif=made.exif_block())
    data = path.read_bytes() + b"prVt" + struct.pack("<I", 10) + b"private 7\0"
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])


PSIR = made.photoshop((0x03F2, b"private 7"))
ROWS = {
    "ICC profile": Row(ALL(with_icc), kept_if(icc), "ICC profile"),
    "EXIF": Row(ALL(with_exif), kept_if(lambda path: exif(path).get(0x010F) == "A Camera"), "EXIF"),
    "EXIF: position (GPS)": Row(ALL(with_exif), kept_if(has_position), "EXIF"),
    "EXIF: maker note": Row(ALL(with_exif), kept_if(has_maker_note), "EXIF"),
    "EXIF: thumbnail": Row(
        every("PNG", "JPEG", "WebP")(lambda path: with_exif(path, 1, made.thumbnail())), thumbnail, "EXIF thumbnail"
    ),
    "orientation": Row(ALL(oriented), orientation, ""),
    "XMP": Row(
        ALL(lambda path: with_exif(path, xmp=made.XMP)),
        kept_if(lambda path: b"dc:source='archive 7'" in xmp(path)),
        "XMP",
    ),
    "IPTC": Row(
        {
            "JPEG": lambda path: made.write_jpeg(path, (0xED, made.photoshop((0x0404, made.IPTC)))),
            "TIFF": with_tags((33723, 7, len(made.IPTC), made.IPTC, True)),
        },
        lambda result: "kept" if iptc(result.target) == "A caption" == iptc(result.source) else "dropped",
        "IPTC",
    ),
    "resolution": Row(ALL(with_resolution), kept_if(lambda path: resolution(path) == 300), "resolution"),
    "pixel aspect ratio": Row(every("PNG", "JPEG", "TIFF")(with_aspect), kept_if(has_aspect), "pixel aspect ratio"),
    "no resolution": Row(ALL(without_resolution), kept_if(lambda path: resolution(path) is None), "resolution"),
    "alpha": Row(every("PNG", "TIFF", "WebP")(with_alpha), alpha, "alpha flattened onto white"),
    "premultiplied alpha": Row({"TIFF": lambda path: fourth(path, 1)}, premultiplied, "premultiplied alpha"),
    "band of unknown meaning": Row({"TIFF": lambda path: fourth(path, 0)}, extra_band, "band"),
    "16 bits": Row(every("PNG", "TIFF")(lambda path: write_deep(path, np.uint16)), depth(np.uint16), "16-bit reduced"),
    "floats": Row({"TIFF": lambda path: write_deep(path, np.float32)}, depth(np.float32), "floating point reduced"),
    "64-bit floats": Row(
        {"TIFF": lambda path: write_deep(path, np.float64)}, depth(np.float64), "floating point reduced"
    ),
    "gray": Row(
        every("PNG", "JPEG", "TIFF")(lambda path: Image.fromarray(made.PIXELS[:, :, 0].copy()).save(path)),
        gray,
        "gray stored as colour",
    ),
    "palette": Row(
        every("PNG", "TIFF")(lambda path: Image.fromarray(made.PIXELS).quantize(64).save(path)),
        expanded("P"),
        "palette",
    ),
    "1 bit": Row(
        every("PNG", "TIFF")(lambda path: Image.fromarray(made.PIXELS).convert("1").save(path)), expanded("1"), "1-bit"
    ),
    "CMYK": Row(
        every("JPEG", "TIFF")(lambda path: Image.fromarray(made.PIXELS).convert("CMYK").save(path)),
        expanded("CMYK", 60),
        "CMYK converted to sRGB",
    ),
    "16-bit CMYK": Row(
        {
            "TIFF": lambda path: made.write_tiff(
                path, np.dstack([deep(np.uint16), ALPHA * 99]).astype(np.uint16), photometric="separated"
            )
        },
        deep_cmyk,
        "CMYK converted to sRGB",
    ),
    "text": Row({"PNG": lambda path: made.write_png(path, pnginfo=made.png_text())}, kept_if(text), "PNG text"),
    "comment": Row(every("PNG", "JPEG")(with_comment), kept_if(comment), "dropped"),
    "colour space chunks (cICP, gAMA, cHRM, sRGB, mDCV, cLLI)": Row(
        {"PNG": lambda path: made.write_png(path, *COLOUR_CHUNKS)}, kept_if(colour_chunks), "colour space (cICP)"
    ),
    "description, artist, copyright, camera, date": Row({"TIFF": with_description}, kept_if(descriptions), "EXIF"),
    "document name, page name": Row(
        {"TIFF": with_tags(ascii_tag(269, "Plan"), ascii_tag(285, "Page 1"))}, kept_if(tags(269, 285)), "page name"
    ),
    "colour space tags": Row(
        {"TIFF": with_tags((318, 5, 2, (3127, 10000, 3290, 10000), True))}, kept_if(tags(318)), "colour space"
    ),
    "GeoTIFF tags": Row({"TIFF": with_tags(*made.GEO_TAGS)}, kept_if(tags(33550, 33922, 34735)), "GeoTIFF tags"),
    "GDAL metadata, no-data value": Row(
        {"TIFF": with_tags(ascii_tag(42112, "<GDALMetadata/>"), ascii_tag(42113, "-9999"))},
        kept_if(tags(42112, 42113)),
        "GDAL metadata",
    ),
    "description of the file's layout (ImageJ, OME, tifffile)": Row(
        {"TIFF": lambda path: made.write_tiff(path, metadata={"axes": "YXS"})}, absent(b'{"shape": '), "layout"
    ),
    "other tags, chunks, segments": Row(OTHER, absent(b"private 7"), "dropped: "),
    "further pages": Row(
        {"TIFF": lambda path: made.write_pages(path, [np.asarray(one) for one in made.frames()])},
        first_picture,
        "only the first of 3 pages",
    ),
    "frames of an animation": Row(every("PNG", "WebP")(lambda path: save_frames(path)), first_picture, " of "),
    "further pictures (MPO)": Row({"JPEG": mpo}, first_picture, "only the first of 2 pictures"),
    "gain map (Ultra HDR)": Row({"JPEG": gain_map}, base_picture, "gain map"),
    "motion photo, other data after the picture": Row(
        {
            "PNG": lambda path: with_data_behind(path),
            "JPEG": lambda path: made.write_jpeg(path, after=b"\0\0\0\x18ftypmp42 private 7"),
        },
        absent(b"private 7"),
        "bytes after the picture",
    ),
    "levels of a pyramid": Row({"TIFF": write_pyramid}, pyramid, "levels of the pyramid"),
    "other reduced copies, masks": Row({"TIFF": copies_and_mask}, first_picture, "reduced copies of the picture, mask"),
    "JFIF thumbnail": Row(
        {"JPEG": lambda path: made.write_jpeg(path, (0xE0, b"JFXX\0\x10" + made.thumbnail()))},
        thumbnail,
        "JFIF thumbnail",
    ),
    "Photoshop resources": Row(
        {
            "JPEG": lambda path: made.write_jpeg(path, (0xED, PSIR)),
            "TIFF": with_tags((34377, 7, len(PSIR), PSIR, True)),
        },
        absent(b"private 7"),
        "Photoshop resources",
    ),
    "content credentials (C2PA)": Row(
        {
            "PNG": lambda path: made.write_png(path, (b"caBX", b"private 7")),
            "JPEG": lambda path: made.write_jpeg(path, (0xEB, b"JP\0\1\0\0\0\1 private 7")),
        },
        absent(b"private 7"),
        "content credentials",
    ),
    "background, significant bits, time of change": Row(
        {"PNG": lambda path: made.write_png(path, (b"sBIT", b"\5\6\5"), (b"bKGD", bytes(6)), (b"tIME", bytes(7)))},
        absent(b"sBIT", b"bKGD", b"tIME"),
        "significant bits (sBIT), background colour, time of the last change (tIME)",
    ),
}


def save_frames(path: Path) -> None:
    first, *others = made.frames()
    first.save(path, save_all=True, append_images=others, duration=100, lossless=True)


def iptc(path: Path) -> str | None:
    """Return the caption, read by Pillow."""
    from PIL import IptcImagePlugin

    with Image.open(path) as image:
        found = IptcImagePlugin.getiptcinfo(image)
    value = (found or {}).get((2, 120))
    return value.decode() if isinstance(value, bytes) else None


def table() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return the rows of the page: what -> formats that may hold it, and format of the result -> cell."""
    section = PAGE.read_text(encoding="utf-8").partition("## Kept, converted, dropped")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    header, _, *body = rows
    return {row[0]: (row[1].split(", "), dict(zip(header[2:], row[2:], strict=True))) for row in body}


def test_the_table_and_the_tests_have_the_same_rows() -> None:
    assert {what: sorted(formats) for what, (formats, _) in table().items()} == {
        what: sorted(row.makers) for what, row in ROWS.items()
    }
    cells = {cell for _, row in table().values() for cell in row.values()}
    assert cells <= set(OUTCOMES)


@pytest.mark.parametrize(("what", "source"), [(what, source) for what, row in ROWS.items() for source in row.makers])
def test_every_cell_is_true_and_what_is_not_kept_is_said(
    make_model: ModelFile, tmp_path: Path, what: str, source: str
) -> None:
    row = ROWS[what]
    file = tmp_path / f"source{SUFFIXES[source]}"
    row.makers[source](file)
    restorer = keygraph.load(make_model("identity"))
    observed = {}
    for name, suffix in SUFFIXES.items():
        target = tmp_path / f"result{suffix}"
        result = Result(file, target, restore_file(restorer, file, target))
        observed[name] = row.outcome(result)
        if observed[name] in ("converted", "dropped"):
            assert row.word in result.said, (name, result.said)
    assert observed == table()[what][1]
