"""TIFF in tiles and pyramids: levels kept or asked for, compression, resolution, and reading tile by tile."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
import pyvips
import tifffile
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.runtime.io import images
from keygraph.runtime.io.encoding import COMPRESSIONS, Encoding
from keygraph.runtime.io.images import Picture, streaming, tiff_layout
from keygraph.runtime.io.scratch_file import ScratchFile
from keygraph.runtime.restore_files import restore_file

ModelFile = Callable[..., Path]
PIXELS = np.random.default_rng(0).integers(0, 255, (700, 900, 3)).astype(np.uint8)


def write_pyramid(path: Path, **options: Any) -> None:
    """Write a pyramid of 256, whose tiles are not ours."""
    image = pyvips.Image.new_from_array(PIXELS).copy(interpretation="srgb", xres=4000, yres=4000)
    image.tiffsave(str(path), pyramid=True, tile=True, tile_width=128, tile_height=128, **options)


def levels(path: Path) -> list[tuple[int, ...]]:
    """Return the sizes that a viewer finds; every page but the first is marked as reduced, and all are tiled."""
    with tifffile.TiffFile(path) as file:
        assert [page.is_reduced for page in file.pages] == [False] + [True] * (len(file.pages) - 1)
        assert all(page.is_tiled for page in file.pages)
        return [level.shape[:2] for level in file.series[0].levels]


def one_tile(path: Path) -> Any:
    """Return the tile in the second row and third column, decoded alone."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        index = 1 * -(-page.imagewidth // page.tilewidth) + 2
        handle = file.filehandle
        handle.seek(page.dataoffsets[index])
        data = handle.read(page.databytecounts[index])
        tile, _, _ = page.decode(data, index)
        assert tile is not None
        return tile[0]


@pytest.mark.parametrize("subifd", [False, True])
def test_a_pyramid_becomes_a_pyramid(make_model: ModelFile, tmp_path: Path, subifd: bool) -> None:
    write_pyramid(tmp_path / "a.tif", subifd=subifd)
    report = restore_file(keygraph.load(make_model("identity")), tmp_path / "a.tif", tmp_path / "b.tif")
    assert report.notices == ()
    assert levels(tmp_path / "b.tif") == [(700, 900), (350, 450), (175, 225)]
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), PIXELS)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        dots = [page.tags["XResolution"].value for page in file.pages]
    assert [above / below for above, below in dots] == [101600, 50800, 25400]  # An inch; the levels have larger pixels.
    half = tifffile.imread(tmp_path / "b.tif", level=1)
    mean = PIXELS.reshape(350, 2, 450, 2, 3).mean((1, 3))
    assert np.abs(half - mean).max() <= 1


def test_a_pyramid_with_64_bit_offsets_has_its_levels_and_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_layout, "_LARGEST_CLASSIC", 0)
    profile = pyvips.Image.black(1, 1).copy(interpretation="srgb").icc_export(output_profile="srgb")
    icc = profile.get("icc-profile-data")
    picture = Picture(PIXELS, None, images.Metadata(icc=icc, resolution=(4000.0, 4000.0)))
    assert images.write(tmp_path / "a.tif", picture, Encoding(pyramid=True)) == []
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        above, below = file.pages[2].tags["XResolution"].value
        assert above / below == 25400
    assert levels(tmp_path / "a.tif") == [(700, 900), (350, 450), (175, 225)]
    back = images.read(tmp_path / "a.tif")
    assert (back.metadata.icc, back.metadata.layout, back.notices) == (icc, "pyramid", ())
    assert np.array_equal(back.pixels, PIXELS)


def test_levels_that_are_lost_are_named(make_model: ModelFile, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif")
    restorer = keygraph.load(make_model("identity"))
    for name, words in (("b.png", "not kept in PNG"), ("b.npy", "not kept in a cube")):
        report = restore_file(restorer, tmp_path / "a.tif", tmp_path / name)
        assert any("levels of the pyramid" in line and words in line for line in report.notices), report.notices


def test_tiles_stay_tiles_and_rows_stay_rows(make_model: ModelFile, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "tiles.tif", PIXELS, tile=(128, 128), photometric="rgb")
    tifffile.imwrite(tmp_path / "rows.tif", PIXELS, photometric="rgb")
    restorer = keygraph.load(make_model("identity"))
    for name, tiled in (("tiles", True), ("rows", False)):
        restore_file(restorer, tmp_path / f"{name}.tif", tmp_path / "b.tif")
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            assert (len(file.pages), file.pages.first.is_tiled) == (1, tiled)


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw"])
def test_one_tile_is_decoded_alone(make_model: ModelFile, tmp_path: Path, compression: str) -> None:
    images.write(tmp_path / "a.png", Picture(PIXELS))
    options = {"compression": compression, "pyramid": True}
    restorer = keygraph.load(make_model("identity"))
    restore_file(restorer, tmp_path / "a.png", tmp_path / "b.tif", **options)  # type: ignore[arg-type]
    if compression != "lzw":  # tifffile decodes it with imagecodecs alone.
        assert np.array_equal(one_tile(tmp_path / "b.tif"), PIXELS[256:512, 512:768])
    assert np.array_equal(images.read(tmp_path / "b.tif").pixels, PIXELS)
    assert levels(tmp_path / "b.tif")[0] == (700, 900)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        name = {"deflate": "ADOBE_DEFLATE"}.get(compression, compression.upper())
        assert {page.compression.name for page in file.pages} == {name}
        assert not file.is_bigtiff


def test_jpeg_says_that_it_is_lossy(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images.write(tmp_path / "a.png", Picture(PIXELS))
    arguments = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.tif"), "--compression", "jpeg"]
    assert main([*arguments, "--model", str(make_model("identity"))]) == 0
    assert "compressed with JPEG (quality 95), which changes samples" in capsys.readouterr().out
    difference = images.read(tmp_path / "b.tif").pixels.astype(int) - PIXELS
    assert 0 < np.abs(difference).mean() < 5


@pytest.mark.parametrize("streamed", [False, True])
def test_jpeg_has_no_alpha(tmp_path: Path, streamed: bool) -> None:
    """libvips flattens it onto black without a word."""
    pixels, alpha = np.full((300, 280, 3), 100, np.uint8), np.full((300, 280), 0, np.uint8)
    alpha[:, 140:] = 255
    encoding = Encoding("jpeg", True)
    for band, words in ((False, "alpha flattened onto white: JPEG has none"), (True, "not kept in JPEG")):
        picture = Picture(pixels, alpha, alpha_is_band=band)
        if streamed:
            with contextlib.ExitStack() as files:
                parts = [ScratchFile(tmp_path, 300, 280, count, pixels.dtype) for count in (3, 1)]
                for part, values in zip(parts, (pixels, alpha[:, :, None]), strict=True):
                    files.callback(part.close)
                    part.write(0, 0, values)
                through: Any = Picture(parts[0], parts[1], alpha_is_band=band)  # type: ignore[arg-type]
                said = streaming.write(tmp_path / "a.tif", through, tmp_path, encoding)
        else:
            said = images.write(tmp_path / "a.tif", picture, encoding)
        assert any(words in line for line in said)
        back = images.read(tmp_path / "a.tif")
        assert back.alpha is None
        assert np.abs(back.pixels[100, [20, 260], 0] - [100 if band else 255, 100]).max() <= 2


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("b.png", ["--pyramid"], "PNG has no --pyramid here; write a .tif"),
        ("b.jpg", ["--compression", "lzw", "--pyramid"], "JPEG has no --compression lzw and --pyramid here"),
        ("b.mat", ["--pyramid"], "arrays and spectral cubes are stored without compression and levels"),
        ("b.tif", ["--compression", "zip"], "compression is 'zip'; choose one of none, deflate"),
        ("b.tif", ["--compression", "jpeg"], "JPEG compresses 1 or 3 channels of 8 bits, not 3 channels of uint16"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_any_work(
    make_model: ModelFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    options: list[str],
    message: str,
) -> None:
    images.write(tmp_path / "a.png", Picture(PIXELS[:64, :64].astype(np.uint16) * 257))
    model = make_model("identity")
    assert (
        main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / target), "--model", str(model), *options]) == 2
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / target).exists()


def test_a_compression_that_this_libvips_lacks_is_refused(tmp_path: Path) -> None:
    """Which ones it has depends on how it was built: what is not refused must be readable."""
    found = []
    for name in COMPRESSIONS:
        target = tmp_path / f"{name}.tif"
        with contextlib.suppress(InputError):
            images.write(target, Picture(PIXELS), Encoding(name))
            assert np.abs(images.read(target).pixels.astype(int) - PIXELS).mean() < 5
            found.append(name)
        if not target.exists():
            with pytest.raises(InputError, match=f"built without {name}; take --compression with one of none, deflate"):
                images.write(target, Picture(PIXELS), Encoding(name))
    assert {"none", "deflate", "lzw", "jpeg"} <= set(found)


def test_a_large_picture_is_tiled_and_a_larger_one_has_64_bit_offsets() -> None:
    metadata = images.Metadata()
    for side, tiled, big in ((8192, False, False), (8200, True, False), (30_000, True, True)):
        options = tiff_layout.save_options((side, side, 3), np.dtype(np.uint8), metadata, Encoding())
        assert ("tile" in options, options["bigtiff"]) == (tiled, big)
    # The levels count.
    assert tiff_layout.save_options((24_000, 24_000, 3), np.dtype(np.uint8), metadata, Encoding(pyramid=True))[
        "bigtiff"
    ]


def write_slide(path: Path) -> None:
    """Write what Aperio's scanners do: levels and a thumbnail that are not marked as reduced, a label that is."""
    with tifffile.TiffWriter(path) as file:
        words = "Aperio Image Library v11\r\n900x700 [0,0 900x700] (128x128)|AppMag = 40|MPP = 0.2500|Date = 1"
        tiles: dict[str, Any] = {"tile": (128, 128), "photometric": "rgb", "metadata": None}
        strips: dict[str, Any] = {"photometric": "rgb", "metadata": None, "rowsperstrip": 16}
        file.write(PIXELS, description=words, **tiles)
        file.write(PIXELS[::7, ::7], description="Aperio thumbnail", **strips)
        file.write(PIXELS[::4, ::4], description="Aperio 225x175", **tiles)
        file.write(PIXELS[:90, :80], description="Aperio label", subfiletype=1, **strips)
        file.write(PIXELS[:90, :180], description="Aperio macro", subfiletype=9, **strips)


def test_a_slide_is_restored_at_full_size_with_its_physical_size(make_model: ModelFile, tmp_path: Path) -> None:
    write_slide(tmp_path / "a.svs")
    report = restore_file(keygraph.load(make_model("nearest", scale=2)), tmp_path / "a.svs", tmp_path / "b.tif")
    assert (report.height, report.width) == (1400, 1800)
    (line,) = report.notices
    assert line == (
        "dropped: description of the file's layout (ImageDescription), thumbnail, label and overview of the slide"
    )
    assert levels(tmp_path / "b.tif") == [(1400, 1800), (700, 900), (350, 450), (175, 225)]
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        above, below = file.pages.first.tags["XResolution"].value
        # 0.125 um to the pixel of the result.
        assert above / below == pytest.approx(25400 / 0.125)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif")[::2, ::2], PIXELS)


def test_a_folder_of_slides_gives_tiff_files(make_model: ModelFile, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_slide(tmp_path / "in" / "a.svs")
    arguments = ["restore", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(make_model("identity"))]
    assert main(arguments) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.tif", "results.jsonl"}


def test_the_memory_of_a_pyramid_does_not_grow_with_the_picture(tmp_path: Path) -> None:
    """Four times the pixels: less than a quarter of the samples more, while libvips makes the levels."""
    program = """
import resource, sys, numpy as np, contextlib
from pathlib import Path
from keygraph.runtime.io.encoding import Encoding
from keygraph.runtime.io.images import Picture, streaming
from keygraph.runtime.io.scratch_file import ScratchFile
side, folder = int(sys.argv[1]), Path(sys.argv[2])
with contextlib.closing(ScratchFile(folder, side, 2048, 3, np.dtype(np.uint8))) as pixels:
    rows = np.arange(64 * 2048 * 3, dtype=np.uint32).reshape(64, 2048, 3).astype(np.uint8)
    for top in range(0, side, 64):
        pixels.write(top, 0, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    streaming.write(folder / "a.tif", Picture(pixels), folder, Encoding(pyramid=True))
    with contextlib.ExitStack() as files:
        streaming.read(folder / "a.tif", folder, files)
    print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""
    grown = []
    for side in (2048, 8192):
        command = [sys.executable, "-c", program, str(side), str(tmp_path)]
        grown.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert grown[1] - grown[0] < (8192 - 2048) * 2048 * 3 / 4, grown
