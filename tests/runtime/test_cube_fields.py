"""What a cube's file says beside its samples: applied, kept in the result's file, or said to be dropped."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import pyvips
import scipy.io
import spectral.io.envi
import tifffile
from keygraph.errors import InputError, KeygraphError
from keygraph.runtime.device import memory
from keygraph.runtime.io import cubes, images, output_files
from keygraph.runtime.io.cubes import Cube, envi_header, tiff
from keygraph.runtime.io.cubes.envi_header import DATA_TYPES, INTERLEAVES

Array = np.ndarray[Any, Any]

MAP_INFO = "{UTM, 1.000, 1.000, 500000.0, 4000000.0, 10.0, 10.0, 32, North, WGS-84, units=Meters}"
PROJECTION = '{PROJCS["UTM_Zone_32N",GEOGCS["GCS_WGS_1984",DATUM["D_WGS_1984",SPHEROID["WGS_1984",6378137.0,298.25]]]]}'


def noise(*shape: int, dtype: Any = np.float32) -> Array:
    values = np.random.default_rng(sum(shape)).random(shape) * 120
    return values.astype(dtype)


def write_envi(path: Path, pixels: Array, interleave: str = "bsq", byte_order: int = 0, **other: Any) -> Path:
    """Write an ENVI file by hand; names of other fields have underscores."""
    codes = {np.dtype(name): code for code, name in DATA_TYPES.items()}
    rows, columns, bands = pixels.shape
    fields = {
        "samples": columns,
        "lines": rows,
        "bands": bands,
        "data type": codes[pixels.dtype],
        "interleave": interleave,
        "byte order": byte_order,
        **{name.replace("_", " "): value for name, value in other.items()},
    }
    axes = [("rows", "columns", "bands").index(axis) for axis in INTERLEAVES.get(interleave, INTERLEAVES["bsq"])]
    stored = pixels.transpose(axes).astype(pixels.dtype.newbyteorder("><"[byte_order == 0]))
    path.with_suffix(".dat").write_bytes(stored.tobytes())
    path.write_text("ENVI\n" + "".join(f"{name} = {value}\n" for name, value in fields.items()), encoding="utf-8")
    return path


def listed(values: Any) -> str:
    return f"{{{', '.join(str(value) for value in values)}}}"


def restored(source: Path, target: Path, wavelengths: tuple[float, ...] = (), scale: int = 1) -> tuple[Cube, str]:
    """Write a file's cube as `restore` does, and return what was written, and the notices of reading and writing."""
    cube = cubes.read(source)
    pixels = cube.pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    notices = output_files.write(target, pixels, cube, as_cube=True, wavelengths=wavelengths)
    return cubes.read(target), "\n".join([*cube.notices, *notices])


def test_mat_files_of_h5py_are_not_transposed(tmp_path: Path) -> None:
    """Only MATLAB's own order is reversed: h5py's users write H x W x C."""
    pixels = noise(6, 9, 5)
    with h5py.File(tmp_path / "plain.mat", "w") as file:
        file["cube"] = pixels
    with h5py.File(tmp_path / "class.mat", "w") as file:  # hdf5storage without MATLAB's user block
        file.create_dataset("cube", data=pixels.T).attrs["MATLAB_class"] = np.bytes_("single")
    with h5py.File(tmp_path / "matlab.mat", "w", userblock_size=512) as file:  # MATLAB 7.3, another writer's variable
        file["cube"] = pixels.T
    with (tmp_path / "matlab.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    for name in ("plain", "class", "matlab"):
        cube, header = cubes.read(tmp_path / f"{name}.mat"), cubes.read_header(tmp_path / f"{name}.mat")
        np.testing.assert_array_equal(cube.pixels, pixels, err_msg=name)
        assert (header.height, header.width, header.bands) == (6, 9, 5)
        assert ["plain HDF5" in notice for notice in cube.notices] == ([True] if name == "plain" else [])
        assert header.notices == cube.notices


def test_a_plain_hdf5_file_with_bands_first(tmp_path: Path) -> None:
    pixels = noise(6, 9, 5)
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["cube"] = pixels.transpose(2, 0, 1)
    cube = cubes.read(tmp_path / "a.mat", bands=5)
    np.testing.assert_array_equal(cube.pixels, pixels)
    assert [notice.split(":")[0] for notice in cube.notices] == [
        "no MATLAB file but plain HDF5",
        "the first axis of 5 x 6 x 9 taken for the 5 bands",
    ]


@pytest.mark.parametrize("block", [512, 1024, 4096])
def test_user_blocks_of_every_size(tmp_path: Path, block: int) -> None:
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=block) as file:
        file["cube"] = noise(3, 4, 5)
    np.testing.assert_array_equal(cubes.read(tmp_path / "a.mat").pixels, noise(3, 4, 5))


def test_attributes_of_hdf5_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["cube"], file["factor"] = noise(5, 4, 3), np.ones((1, 1))
        file.attrs["title"] = "Scene 42"
        file["cube"].attrs.update(
            {"MATLAB_class": np.bytes_("single"), "scale_factor": 1e-4, "add_offset": 2.0, "units": "W"}
        )
        file["factor"].attrs["of_another_array"] = 1
    header = cubes.read_header(tmp_path / "a.mat")
    assert header.notices == ("the file's scale_factor and add_offset not applied",)
    _, notices = restored(tmp_path / "a.mat", tmp_path / "b.mat")
    assert notices.splitlines() == [
        *header.notices,
        "of the source's MATLAB file not kept: attribute title, attribute units, variable factor (never copied); "
        "attribute add_offset, attribute scale_factor (about the source's samples)",
    ]
    _, notices = restored(tmp_path / "a.mat", tmp_path / "b.tif")
    assert all(f"attribute {name}" in notices for name in ("title", "units", "scale_factor", "add_offset"))


def test_links_in_hdf5_that_lead_nowhere(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["cube"] = noise(3, 4, 5)
        file["soft"] = h5py.SoftLink("/absent")
        file["external"] = h5py.ExternalLink("absent.h5", "/cube")
    np.testing.assert_array_equal(cubes.read(tmp_path / "a.mat").pixels, noise(3, 4, 5))
    with pytest.raises(InputError, match="is a link to nothing"):
        cubes.read(tmp_path / "a.mat", "external")


def test_matlabs_sparse_and_empty_arrays_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_group("s").attrs["MATLAB_class"] = np.bytes_("double")
        file["s"].attrs["MATLAB_sparse"] = np.uint64(3)
        file["e"] = np.zeros(2, np.uint64)
        file["e"].attrs["MATLAB_class"], file["e"].attrs["MATLAB_empty"] = np.bytes_("double"), np.uint8(1)
    for name, kind in (("s", "sparse"), ("e", "empty")):
        with pytest.raises(InputError, match=f"is {kind}, not real numbers"):
            cubes.read(tmp_path / "a.mat", name)


def test_virtual_datasets_without_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 reads zeros in their place."""
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["cube"] = noise(3, 4, 5)
    layout = h5py.VirtualLayout((3, 4, 5), "f4")
    layout[:] = h5py.VirtualSource("part.h5", "cube", (3, 4, 5))
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_virtual_dataset("cube", layout)
    np.testing.assert_array_equal(cubes.read(tmp_path / "a.mat").pixels, noise(3, 4, 5))
    # HDF5 looks beside the file before it looks in the working folder.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    h5py.File("part.h5", "w").close()
    np.testing.assert_array_equal(cubes.read(tmp_path / "a.mat").pixels, noise(3, 4, 5))
    Path("part.h5").unlink()
    (tmp_path / "part.h5").unlink()
    with pytest.raises(InputError, match=r"put together from part\.h5, which is missing"):
        cubes.read(tmp_path / "a.mat")


def test_external_samples_that_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 reads zeros in their place, also through a virtual dataset and a dataset that its source lacks."""
    monkeypatch.chdir(tmp_path)
    noise(3, 4, 5).tofile("raw.bin")
    with h5py.File("part.mat", "w") as file:
        file.create_dataset("cube", (3, 4, 5), "f4", external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])
    for name, source in (("all.mat", "cube"), ("lacks.mat", "absent")):
        layout = h5py.VirtualLayout((3, 4, 5), "f4")
        layout[:] = h5py.VirtualSource("part.mat", source, (3, 4, 5))
        with h5py.File(name, "w") as file:
            file.create_virtual_dataset("cube", layout)
    for name in ("part.mat", "all.mat"):
        np.testing.assert_array_equal(cubes.read(name).pixels, noise(3, 4, 5))
    with pytest.raises(InputError, match=r"lacks\.mat:cube is put together from .*part\.mat:absent, which is missing"):
        cubes.read("lacks.mat")
    Path("raw.bin").write_bytes(Path("raw.bin").read_bytes()[:100])
    for name in ("part.mat", "all.mat"):
        with pytest.raises(InputError, match=r"part\.mat:cube reads 240 bytes of raw\.bin, which has 100"):
            cubes.read(name)


@pytest.mark.parametrize("planar", ["pages", "contig"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_tiffs_whose_zero_is_white(tmp_path: Path, dtype: str, planar: str) -> None:
    pixels = noise(7, 9, 5, dtype=dtype)
    inverted = np.iinfo(dtype).max - pixels
    if planar == "pages":
        tifffile.imwrite(tmp_path / "a.tif", inverted.transpose(2, 0, 1), photometric="miniswhite", metadata=None)
    else:
        tifffile.imwrite(tmp_path / "a.tif", inverted, photometric="miniswhite", planarconfig="contig", metadata=None)
    cube = cubes.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(cube.pixels, pixels)
    assert cube.notices == ("samples inverted: in this file 0 is white (PhotometricInterpretation 0)",)
    # As libvips shows a picture of one such band.
    tifffile.imwrite(tmp_path / "b.tif", inverted[:, :, 0], photometric="miniswhite")
    if dtype != "uint32":
        np.testing.assert_array_equal(images.read(tmp_path / "b.tif").pixels, pixels[:, :, 0])


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_no_black_for_a_white_of_zero(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(5, 7, 9, dtype=dtype), photometric="miniswhite", metadata=None)
    for read in (cubes.read, cubes.read_header):
        with pytest.raises(InputError, match=rf"0 is white .*and for {dtype} not what black is.*tiffset"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "deflate", "predictor": "float"},
    ],
    ids=lambda options: "-".join(options.values()),
)
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_compressed_tiffs_that_tifffile_alone_cannot_decode(tmp_path: Path, options: Any, dtype: str) -> None:
    """GDAL's usual ones. Where the package imagecodecs is missing, libvips decodes them."""
    pixels = noise(7, 9, 5, dtype=dtype)
    options = {**options, **({"predictor": "horizontal"} if dtype == "uint16" and "predictor" in options else {})}
    pyvips.Image.new_from_array(pixels).tiffsave(str(tmp_path / "chunky.tif"), **options)
    joined = pyvips.Image.new_from_array(np.concatenate(list(pixels.transpose(2, 0, 1))))
    joined.set_type(pyvips.GValue.gint_type, "page-height", 7)
    joined.tiffsave(str(tmp_path / "pages.tif"), **options)
    for name in ("chunky.tif", "pages.tif"):
        np.testing.assert_array_equal(cubes.read(tmp_path / name).pixels, pixels, err_msg=name)


def test_every_tag_of_a_cube_that_is_lost_is_named(tmp_path: Path) -> None:
    tags = [(269, 2, 0, "scan 42", True), (271, 2, 0, "Maker", True), (700, 1, 4, b"<x/>", True)]
    tags += [(33723, 7, 8, b"\x1c\2\5\0\3abc", True), (34377, 1, 4, b"8BIM", True), (65000, 2, 0, "private", True)]
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(5, 7, 9),
        photometric="minisblack",
        metadata=None,
        software="Scanner",
        resolution=(300, 300),
        extratags=tags,
    )
    tag_names = ("DocumentName", "Make", "Software", "XMP", "IPTCNAA", "ImageResources", "65000")
    names = ["resolution", *(f"tag {name}" for name in tag_names)]
    for target in ("b.tif", "b.npz"):
        _, notices = restored(tmp_path / "a.tif", tmp_path / target)
        (line,) = notices.splitlines()
        assert all(name in line for name in names), line
    # Nothing is said of what every TIFF has, and of our own results.
    _, notices = restored(tmp_path / "b.tif", tmp_path / "c.tif")
    assert notices == ""


@pytest.mark.parametrize("planar", ["pages", "contig"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_cube_is_applied(tmp_path: Path, orientation: int, planar: str) -> None:
    """As libvips does for one band."""
    pixels = noise(7, 9, 5, dtype=np.uint8)
    tags = [(274, 3, 1, orientation, True), (33550, 12, 3, (10.0, 10.0, 0.0), True)]
    given: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "extratags": tags}
    if planar == "pages":
        tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), **given)
    else:
        tifffile.imwrite(tmp_path / "a.tif", pixels, planarconfig="contig", **given)
    tifffile.imwrite(tmp_path / "b.tif", pixels[:, :, 2], **given)
    cube, header = cubes.read(tmp_path / "a.tif"), cubes.read_header(tmp_path / "a.tif")
    np.testing.assert_array_equal(cube.pixels[:, :, 2], images.read(tmp_path / "b.tif").pixels)
    assert (header.height, header.width, header.bands) == cube.pixels.shape
    expected = [f"turned upright (the file's orientation is {orientation})"] if orientation > 1 else []
    assert [*cube.notices] == [*header.notices] == expected
    back, notices = restored(tmp_path / "a.tif", tmp_path / "c.tif")
    np.testing.assert_array_equal(back.pixels, cube.pixels)
    assert ("GeoTIFF pixel scale" in notices) == (orientation > 1) != ("GeoTIFF pixel scale" in back.fields)


@pytest.mark.parametrize("values", ["abcde", ["x", "y"], 7, [True], {"a": 1}])
def test_wavelengths_in_a_tiff_that_are_none(tmp_path: Path, values: Any) -> None:
    metadata = {"axes": "CYX", "wavelengths": values}
    tifffile.imwrite(tmp_path / "a.tif", noise(5, 7, 9), photometric="minisblack", metadata=metadata)
    cube = cubes.read(tmp_path / "a.tif")
    assert cube.wavelengths == ()
    assert cube.notices == ("wavelengths in the description are no list of numbers, and not taken",)


def test_a_codec_that_is_not_here_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(7, 9, 5), photometric="minisblack", planarconfig="contig")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags[259].overwrite(34887)  # LERC
    with pytest.raises(InputError, match=r"compressed with LERC, .*pip install imagecodecs"):
        cubes.read(tmp_path / "a.tif")


def test_reduced_copies_in_a_tiff_are_left_out(tmp_path: Path) -> None:
    pixels = noise(64, 48, 5, dtype=np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels, photometric="minisblack", planarconfig="contig", metadata=None)
        file.write(pixels[::2, ::2], photometric="minisblack", planarconfig="contig", subfiletype=1, metadata=None)
    cube = cubes.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(cube.pixels, pixels)
    assert "reduced copies" in cube.notices[0]


@pytest.mark.parametrize("code", DATA_TYPES)
@pytest.mark.parametrize("interleave", INTERLEAVES)
def test_every_envi_type_interleave_and_byte_order(tmp_path: Path, interleave: str, code: int) -> None:
    pixels = noise(3, 4, 5, dtype=DATA_TYPES[code])
    for byte_order in (0, 1):
        path = write_envi(tmp_path / "a.hdr", pixels, interleave, byte_order)
        if pixels.dtype.kind == "c":
            with pytest.raises(InputError, match=r"is complex.*, not real numbers"):
                cubes.read(path)
        else:
            np.testing.assert_array_equal(cubes.read(path).pixels, pixels)
            np.testing.assert_array_equal(np.asarray(spectral.io.envi.open(str(path)).load(dtype=pixels.dtype)), pixels)


@pytest.mark.parametrize(("dtype", "result"), [("i2", "f4"), ("f4", "f4"), ("i4", "f8"), ("f8", "f8")])
def test_envi_gains_and_offsets_are_applied(tmp_path: Path, dtype: str, result: str) -> None:
    pixels, gains, offsets = noise(3, 4, 3, dtype=dtype), [0.5, 2.0, 1.0], [0.0, -1.0, 7.0]
    gain: dict[str, Any] = {"data_gain_values": listed(gains)}
    offset: dict[str, Any] = {"data_offset_values": listed(offsets)}
    for given, expected in (
        (gain, pixels * gains),
        (offset, pixels + np.array(offsets)),
        (gain | offset, pixels * gains + offsets),
    ):
        path = write_envi(tmp_path / "a.hdr", pixels, **given)
        cube = cubes.read(path)
        np.testing.assert_array_equal(cube.pixels, expected)
        assert cube.pixels.dtype == np.dtype(result) == cubes.read_header(path).dtype
        assert cube.notices == ("the header's data gain and offset values applied",)
        back, _ = restored(path, tmp_path / "b.hdr")
        np.testing.assert_array_equal(back.pixels, expected)
        assert "gain" not in (tmp_path / "b.hdr").read_text()
    path = write_envi(
        tmp_path / "a.hdr", pixels, data_gain_values=listed([1, 1, 1]), data_offset_values=listed([0, 0, 0])
    )
    assert cubes.read(path).pixels.dtype == np.dtype(dtype)
    assert cubes.read(path).notices == ()


def test_an_envi_header_is_kept_in_the_result(tmp_path: Path) -> None:
    pixels = noise(3, 4, 5)
    path = write_envi(
        tmp_path / "a.hdr",
        pixels,
        description="{Scene 42,\n  radiance in µW}",
        map_info=MAP_INFO,
        coordinate_system_string=PROJECTION,
        bbl=listed([1, 1, 0, 1, 1]),
        wavelength=listed([0.4, 0.41, 0.52, 0.57, 0.7]),
        wavelength_units="Micrometers",
        fwhm=listed([0.005, 0.005, 0.006, 0.006, 0.0075]),
        band_names=listed(f"Band {i}" for i in range(5)),
        sensor_type="Unknown",
        operators_note="morning",
        data_ignore_value=-9999,
        default_stretch="0.0 1.0 linear",
    )
    back, notices = restored(path, tmp_path / "b.hdr")
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.wavelengths == (400.0, 410.0, 520.0, 570.0, 700.0)
    texts = {name: field.value for name, field in back.fields.items()}
    assert texts == {
        "description": "{Scene 42,\n  radiance in µW}",
        "map info": MAP_INFO,
        "coordinate system string": PROJECTION,
        "bbl": "{1, 1, 0, 1, 1}",
        "fwhm": "{5, 5, 6, 6, 7.5}",
        "band names": "{Band 0, Band 1, Band 2, Band 3, Band 4}",
        "sensor type": "Unknown",
        "operators note": "morning",
    }
    assert notices.splitlines() == [
        "samples of -9999, for the header no data, are taken like any others",
        "of the source's ENVI file not kept: data ignore value, default stretch (about the source's samples)",
    ]
    # Another library reads the same.
    header = spectral.io.envi.open(str(tmp_path / "b.hdr")).metadata
    assert ", ".join(header["map info"]) == MAP_INFO.strip("{}")
    assert header["fwhm"] == ["5", "5", "6", "6", "7.5"]


def test_what_no_longer_holds_is_said(tmp_path: Path) -> None:
    wavelengths = (400.0, 410.0, 520.0)
    path = write_envi(
        tmp_path / "a.hdr",
        noise(3, 4, 3),
        map_info=MAP_INFO,
        bbl=listed([1, 1, 0]),
        note="kept",
        wavelength=listed(wavelengths),
        wavelength_units="nm",
    )
    back, notices = restored(path, tmp_path / "larger.hdr", scale=2)
    assert list(back.fields) == ["bbl", "note"]
    assert back.wavelengths == wavelengths
    assert notices == "of the source's ENVI file not kept: map info (for another size)"
    back, notices = restored(path, tmp_path / "other.hdr", wavelengths=(450.0, 550.0, 650.0))
    assert list(back.fields) == ["map info", "note"]
    assert notices.splitlines() == [
        "the source's wavelengths, 400 to 520 nm, replaced by the model's, 450 to 650 nm",
        "of the source's ENVI file not kept: bbl (for other bands)",
    ]
    _, notices = restored(path, tmp_path / "other.npz")
    assert notices == "map info, bbl, note dropped: of ENVI, not kept in NumPy archive"
    cube = cubes.read(path)
    picture = output_files.write(tmp_path / "a.png", cube.pixels, cube, as_cube=False, wavelengths=())
    assert picture[:2] == [
        "map info, bbl, note dropped: of ENVI, not kept in pictures",
        "wavelengths dropped: not kept in pictures",
    ]


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_variables_beside_the_cube_are_said(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    bands, factor = np.arange(400.0, 450, 10), np.array([[0.7]])
    arrays: dict[str, Any] = {"cube": noise(3, 4, 5), "bands": bands, "norm_factor": factor}
    scipy.io.savemat(path, arrays) if suffix == ".mat" else np.savez(path, **arrays)
    _, notices = restored(path, tmp_path / f"b{suffix}")
    assert "not kept: variable norm_factor (never copied)" in notices
    assert "bands" not in notices


def test_geotiff_tags_of_a_cube(tmp_path: Path) -> None:
    tags = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
        (34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
        (42113, 2, 0, "-9999", True),
        (315, 2, 0, "J. Doe", True),
    ]
    tifffile.imwrite(
        tmp_path / "a.tif",
        noise(6, 8, 5),
        photometric="minisblack",
        planarconfig="contig",
        extratags=tags,
        description="Scene 42",
        metadata=None,
    )
    _, notices = restored(tmp_path / "a.tif", tmp_path / "b.tif")
    assert notices.splitlines() == [
        "samples of -9999, for the file no data, are taken like any others",
        "of the source's TIFF file not kept: description (never copied); nodata (about the source's samples)",
    ]
    with tifffile.TiffFile(tmp_path / "a.tif") as before, tifffile.TiffFile(tmp_path / "b.tif") as after:
        for code in (33550, 33922, 34735, 315):
            assert after.pages[0].tags[code].value == before.pages[0].tags[code].value
            assert code not in after.pages[1].tags
    _, notices = restored(tmp_path / "a.tif", tmp_path / "c.tif", scale=2)
    assert "GeoTIFF pixel scale, GeoTIFF tie points, GeoTIFF keys (for another size)" in notices


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_gain_values": "{1, 2}"}, "it has 2 data gain values for 3 bands"),
        ({"data_gain_values": "{1, 0, 2}"}, "one of its data gain values is 0"),
        ({"data_offset_values": "{1, inf, 2}"}, "its data offset values are not finite"),
        ({"data_gain_values": "{1, x, 2}"}, "its data gain values are no numbers"),
        ({"data_gain_values": "{1, 3, 2}", "reflectance_scale_factor": 100}, "only one of them can be meant"),
        ({"reflectance_scale_factor": 0}, "its reflectance scale factor is 0"),
        ({"map_info": "{UTM, 1"}, "its field 'map info' has no closing brace"),
        ({"bands": -3}, "its bands is '-3', not a whole number of at least 1"),
        ({"lines": 10**20}, "its lines is '1000"),
        ({"header_offset": -1}, "its header offset is '-1'"),
        ({"data_type": 7}, "its data type is 7, not 1, 2, 3, 4, 5, 6, 9, 12, 13, 14, 15"),
        ({"byte_order": 2}, "its byte order is 2, not 0"),
        ({"interleave": "bsx"}, "its interleave is 'bsx', not bsq, bil, bip"),
        ({"file_type": "ENVI Spectral Library"}, "not an image"),
        ({"file_type": "TIFF"}, "is of ENVI's file type 'TIFF'"),
        ({"major_frame_offsets": "{0, 8}"}, "has frame offsets"),
        ({"lines": 4}, "the header speaks of 192"),
        ({"Lines": 4}, "its field 'lines' is there twice"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_envi_headers_that_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = write_envi(tmp_path / "a.hdr", noise(3, 4, 3), **fields)
    for read in (cubes.read, cubes.read_header):
        with pytest.raises(InputError) as caught:
            read(path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_envi_headers_that_are_odd(tmp_path: Path) -> None:
    pixels = noise(3, 4, 5, dtype=np.uint8)
    lines = [
        "ENVI ",
        "; a comment = {",
        "Samples=4",
        "LINES  = 3",
        "bands = 5",
        "header  offset = 0",
        "data type = 1",  # no byte order: a byte has none
        "interleave = BIP",
        "description = {Temp 20 \u00b0C = room}",
        "a line of no field",
        "",
    ]
    (tmp_path / "a.hdr").write_bytes("\r\n".join(lines).encode("latin-1"))
    (tmp_path / "a.RAW").write_bytes(pixels.tobytes() + b"tail")
    cube = cubes.read(tmp_path / "a.hdr")
    np.testing.assert_array_equal(cube.pixels, pixels)
    assert cube.notices == ("the last 4 bytes of a.RAW are not described by the header",)
    assert {name: field.value for name, field in cube.fields.items()} == {"description": "{Temp 20 °C = room}"}
    # As GDAL names them with SUFFIX=ADD.
    (tmp_path / "a.RAW").rename(tmp_path / "b.img")
    (tmp_path / "a.hdr").rename(tmp_path / "b.img.hdr")
    np.testing.assert_array_equal(cubes.read(tmp_path / "b.img.hdr").pixels, pixels)
    (tmp_path / "b.img").unlink()
    with pytest.raises(InputError, match="is the header of samples that are not beside it"):
        cubes.read(tmp_path / "b.img.hdr")


def test_a_brace_inside_an_envi_value(tmp_path: Path) -> None:
    path = write_envi(tmp_path / "a.hdr", noise(3, 4, 5), description="{a } b\n c}", note="{x} ; text\nlast = {1}")
    texts = {name: field.value for name, field in cubes.read(path).fields.items()}
    assert texts == {"description": "{a } b\n c}", "note": "{x}", "last": "{1}"}


@pytest.mark.parametrize("size", [7, 4000])
def test_samples_of_the_headers_size_come_before_a_stray_file(tmp_path: Path, size: int) -> None:
    pixels = noise(3, 4, 5)
    cubes.write(tmp_path / "a.hdr", Cube(pixels))
    (tmp_path / "a").write_bytes(bytes(size))
    cube = cubes.read(tmp_path / "a.hdr")
    np.testing.assert_array_equal(cube.pixels, pixels)
    assert cube.notices == ("samples taken from a.img: a is not of the size in the header",)
    (tmp_path / "a").write_bytes(bytes(pixels.nbytes))  # Readers take it.
    assert not cubes.read(tmp_path / "a.hdr").pixels.any()
    assert cubes.read(tmp_path / "a.hdr").notices == ()


def test_compressed_envi_samples(tmp_path: Path) -> None:
    pixels = noise(3, 4, 5, dtype=np.uint16)
    path = write_envi(tmp_path / "a.hdr", pixels, file_compression=1, header_offset=7)
    data = b"seven.." + (tmp_path / "a.dat").read_bytes()
    (tmp_path / "a.dat").write_bytes(gzip.compress(data))
    np.testing.assert_array_equal(cubes.read(path).pixels, pixels)
    (tmp_path / "a.dat").write_bytes(gzip.compress(data[:-9]))
    with pytest.raises(InputError, match="holds 118 bytes, and the header speaks of 127"):
        cubes.read(path)


def test_small_files_of_huge_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("cube", (10**5, 10**5, 10**3), "f8", chunks=(100, 100, 1))
    assert cubes.read_header(tmp_path / "a.mat").bands == 1000
    with pytest.raises(KeygraphError, match=r"needs 74505\.8 GiB of memory; cut it into parts"):
        cubes.read(tmp_path / "a.mat")
    np.savez_compressed(tmp_path / "a.npz", cube=np.zeros((100, 100, 10)))
    monkeypatch.setattr(memory, "available", lambda: 800_000)
    assert cubes.read(tmp_path / "a.npz").pixels.shape == (100, 100, 10)
    monkeypatch.setattr(memory, "available", lambda: 799_999)
    with pytest.raises(KeygraphError, match="GiB of memory; cut it into parts"):
        cubes.read(tmp_path / "a.npz")


def test_the_table_in_the_documents_is_that_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "spectral-cubes.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("| for ", "| never"))]
    table = [[set(cell.strip().split(", ")) for cell in row.strip("|").split("|")[1:3]] for row in rows]
    for (envi, tags), holds_for in zip(table, ("always", "size", "bands", "samples", "file"), strict=True):
        named = {"size": envi_header._OF_SIZE, "bands": envi_header._OF_BANDS, "samples": envi_header._OF_SAMPLES}
        assert envi >= named.get(holds_for, set())
        assert all(name.startswith(("and ", "description", "sensor")) for name in envi - named.get(holds_for, {""}))
        assert tags - {""} == {title for title, kind in tiff._KEPT_TAGS.values() if kind == holds_for}
