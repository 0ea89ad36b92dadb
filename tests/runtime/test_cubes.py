"""Spectral cubes in files: round trips, files written by others, and one-line errors for bad files."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import pyvips
import scipy.io
import spectral.io.envi
import tifffile
from keygraph.errors import InputError, MissingDependencyError
from keygraph.installation import install_line
from keygraph.runtime.io import cubes, images
from keygraph.runtime.io.cubes import Cube, matlab, nanometres
from keygraph.runtime.io.cubes.writing import WIDER_TYPES

Array = np.ndarray[Any, Any]

SUFFIXES = (".mat", ".npy", ".npz", ".tif", ".hdr")
TYPES = ("uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
WAVELENGTHS = (400.0, 453.3, 510.0, 575.25, 640.0)


def noise(*shape: int, dtype: Any = np.float32) -> Array:
    """Return random samples, with negative ones where the type has them."""
    values = np.random.default_rng(sum(shape)).random(shape) * 120
    return (values - (60 if np.dtype(dtype).kind in "if" else 0)).astype(dtype)


def mat_7_3(path: Path, classes: dict[str, str] | None = None, **arrays: Array) -> Path:
    """Write a file in MATLAB's layout with h5py: axes reversed, 512 bytes before the HDF5 signature."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=np.asarray(array).T)
            dataset.attrs["MATLAB_class"] = np.bytes_((classes or {}).get(name, "double"))
        file.create_group("#refs#")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_comes_back(tmp_path: Path, suffix: str, dtype: str) -> None:
    pixels = noise(7, 4, 5, dtype=dtype)
    path = tmp_path / f"a[1]{suffix}"
    notices = cubes.write(path, Cube(pixels, WAVELENGTHS))
    back, header = cubes.read(path), cubes.read_header(path)
    np.testing.assert_array_equal(back.pixels, pixels)
    widened = [notice for notice in notices if "stored as" in notice]
    assert widened == ([] if back.pixels.dtype == pixels.dtype else [widened[0]])
    assert back.pixels.dtype.itemsize <= 2 * pixels.dtype.itemsize
    assert back.pixels.dtype.isnative
    assert back.wavelengths == (() if suffix == ".npy" else WAVELENGTHS)
    assert any("wavelengths dropped" in notice for notice in notices) == (suffix == ".npy")
    assert (header.height, header.width, header.bands) == (7, 4, 5)
    assert (header.dtype, header.wavelengths, header.notices) == (back.pixels.dtype, back.wavelengths, ())
    assert cubes.is_cube(path)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, *(["a[1].img"] if suffix == ".hdr" else [])}


def test_the_types_that_widen() -> None:
    assert WIDER_TYPES == {
        "MATLAB": {"bool": "uint8", "float16": "float32"},
        "ENVI": {"bool": "uint8", "int8": "int16", "float16": "float32"},
        "TIFF": {"bool": "uint8"},
    }


@pytest.mark.parametrize("suffix", [".mat", ".npy", ".npz", ".hdr"])
def test_one_band_is_a_matrix(tmp_path: Path, suffix: str) -> None:
    pixels = noise(7, 4)
    for given in (pixels, pixels[:, :, None]):
        cubes.write(tmp_path / f"a{suffix}", Cube(given))
        np.testing.assert_array_equal(cubes.read(tmp_path / f"a{suffix}").pixels, pixels)
        assert cubes.read_header(tmp_path / f"a{suffix}").bands == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_strides_and_byte_order(tmp_path: Path, suffix: str) -> None:
    wide = noise(5, 8, 7, dtype=">u2")
    turned = wide.transpose(2, 1, 0)[:, ::2]
    cubes.write(tmp_path / f"a{suffix}", Cube(turned))
    np.testing.assert_array_equal(cubes.read(tmp_path / f"a{suffix}").pixels, turned)


def test_mat_7_3_where_version_5_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(7, 4, 5, dtype=np.uint16)
    monkeypatch.setattr(matlab, "VERSION_5_BYTES", pixels.nbytes)
    (notice,) = cubes.write(tmp_path / "a.mat", Cube(pixels, WAVELENGTHS))
    assert "version 7.3" in notice
    start = (tmp_path / "a.mat").read_bytes()[:520]
    assert start.startswith(b"MATLAB 7.3 MAT-file")
    assert start[124:128] == b"\x00\x02IM"
    with h5py.File(tmp_path / "a.mat") as file:
        assert file["cube"].shape == (5, 4, 7)
        assert file["cube"].attrs["MATLAB_class"] == b"uint16"
        assert file["bands"].shape == (5, 1)
    back = cubes.read(tmp_path / "a.mat")
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.wavelengths == WAVELENGTHS
    monkeypatch.setattr(matlab, "VERSION_5_BYTES", pixels.nbytes + 1)
    assert cubes.write(tmp_path / "a.mat", Cube(pixels)) == []
    assert scipy.io.loadmat(tmp_path / "a.mat")["cube"].shape == (7, 4, 5)


def test_version_5_ends_before_its_sizes_do() -> None:
    assert matlab.VERSION_5_BYTES < 2**31


def test_ntires_files(tmp_path: Path) -> None:
    """ARAD_1K: version 7.3 with the cube, its bands in nm, and a factor."""
    pixels = noise(6, 8, 31, dtype=np.float64)
    bands = np.arange(400.0, 701, 10)
    path = mat_7_3(tmp_path / "ARAD_1K_0912.mat", cube=pixels, bands=bands[None], norm_factor=np.array([[0.7]]))
    cube = cubes.read(path)
    np.testing.assert_array_equal(cube.pixels, pixels)
    assert cube.wavelengths == tuple(bands)
    assert cube.variable == "cube"


@pytest.mark.parametrize(("name", "axis"), [("img", 0), ("HSI", 0), ("simulation_test", 1)])
def test_other_names(tmp_path: Path, name: str, axis: int) -> None:
    """CAVE and KAIST as MST's code reads them; wavelengths in a column or in a row."""
    pixels = noise(6, 8, 28)
    wavelengths = np.linspace(453.3, 648.1, 28)
    column = np.expand_dims(wavelengths, axis)
    scipy.io.savemat(tmp_path / "scene01.mat", {name: pixels, "wavelengths": column}, do_compression=True)
    cube = cubes.read(tmp_path / "scene01.mat")
    np.testing.assert_array_equal(cube.pixels, pixels)
    assert cube.variable == name
    np.testing.assert_allclose(cube.wavelengths, wavelengths, atol=1e-6)


def test_doubles_that_matlab_stores_in_bytes(tmp_path: Path) -> None:
    """MATLAB stores a double mask of zeros and ones as 8-bit integers; it is read as doubles."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    mask = np.array([[0, 1, 1], [1, 0, 1]], dtype=np.uint8)
    flags = element(6, struct.pack("<II", 6, 0))  # mxDOUBLE_CLASS
    parts = flags + element(5, struct.pack("<ii", 2, 3)) + element(1, b"mask") + element(2, mask.tobytes(order="F"))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tmp_path / "mask.mat").write_bytes(header + element(14, parts))
    cube = cubes.read(tmp_path / "mask.mat")
    assert cube.pixels.dtype == np.float64 == cubes.read_header(tmp_path / "mask.mat").dtype
    np.testing.assert_array_equal(cube.pixels, mask)


def test_logical_arrays_are_zero_and_one(tmp_path: Path) -> None:
    mask = noise(5, 6) > 0
    scipy.io.savemat(tmp_path / "5.mat", {"mask": mask})
    mat_7_3(tmp_path / "7.mat", {"mask": "logical"}, mask=mask.astype(np.uint8))
    np.save(tmp_path / "a.npy", mask)
    for name in ("5.mat", "7.mat", "a.npy"):
        cube = cubes.read(tmp_path / name)
        assert cube.pixels.dtype == np.float32 == cubes.read_header(tmp_path / name).dtype
        np.testing.assert_array_equal(cube.pixels, mask)


@pytest.mark.parametrize("byte_order", [0, 1])
@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_envi_by_its_own_library(tmp_path: Path, interleave: str, byte_order: int) -> None:
    pixels = noise(7, 4, 5, dtype=np.int16)
    metadata = {"wavelength": [0.4, 0.41, 0.52, 0.57, 0.7], "wavelength units": "Micrometers", "Sensor Type": "none"}
    spectral.io.envi.save_image(
        str(tmp_path / "a.hdr"),
        pixels,
        interleave=interleave,
        byteorder=byte_order,
        ext=".raw" if byte_order else "",
        metadata=metadata,
    )
    cube = cubes.read(tmp_path / "a.hdr")
    np.testing.assert_array_equal(cube.pixels, pixels)
    assert cube.wavelengths == (400.0, 410.0, 520.0, 570.0, 700.0)
    assert cube.pixels.dtype == np.int16


def test_our_envi_in_its_own_library(tmp_path: Path) -> None:
    pixels = noise(7, 4, 5)
    cubes.write(tmp_path / "a.hdr", Cube(pixels, WAVELENGTHS))
    image = spectral.io.envi.open(str(tmp_path / "a.hdr"))
    np.testing.assert_array_equal(np.asarray(image.load()), pixels)
    assert tuple(image.bands.centers) == WAVELENGTHS
    assert image.bands.band_unit == "Nanometers"


def test_envi_header_offset_scale_and_no_data(tmp_path: Path) -> None:
    pixels = noise(3, 4, 5, dtype=np.uint16)
    cubes.write(tmp_path / "a.hdr", Cube(pixels))
    samples = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(b"sixteen bytes...".ljust(16) + samples)
    text = (tmp_path / "a.hdr").read_text().replace("header offset = 0", "header offset = 16")
    (tmp_path / "a.hdr").write_text(text + "reflectance scale factor = 10000\ndata ignore value = 0\n")
    cube, header = cubes.read(tmp_path / "a.hdr"), cubes.read_header(tmp_path / "a.hdr")
    np.testing.assert_array_equal(cube.pixels, pixels.astype(np.float32) / np.float32(10000))
    assert cube.pixels.dtype == np.float32 == header.dtype
    assert len(cube.notices) == 2 == len(header.notices)
    assert "scale factor, 10000" in cube.notices[0]
    assert "no data" in cube.notices[1]


def test_tiffs_of_others(tmp_path: Path) -> None:
    pixels = noise(7, 9, 5, dtype=np.uint16)
    bands_first = pixels.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "pages.tif", bands_first, photometric="minisblack", byteorder=">", metadata=None)
    tifffile.imwrite(tmp_path / "deflated.tif", bands_first, photometric="minisblack", compression="zlib")
    tifffile.imwrite(tmp_path / "chunky.tif", pixels, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "planar.tiff", bands_first, photometric="minisblack", planarconfig="separate")
    for name in ("pages.tif", "deflated.tif", "chunky.tif", "planar.tiff"):
        assert cubes.is_cube(tmp_path / name), name
        header = cubes.read_header(tmp_path / name)
        assert (header.height, header.width, header.bands) == (7, 9, 5), name
        np.testing.assert_array_equal(cubes.read(tmp_path / name).pixels, pixels, err_msg=name)


def test_a_tiff_of_ours_has_a_gray_page_for_each_band(tmp_path: Path) -> None:
    pixels = noise(7, 9, 3)
    cubes.write(tmp_path / "a.tif", Cube(pixels))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert [page.shape for page in file.pages] == [(7, 9)] * 3
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").pixels, pixels[:, :, 0])


def test_ome_tiffs_with_bands(tmp_path: Path) -> None:
    pixels = noise(7, 9, 5)
    for axes, is_cube in (("CYX", True), ("ZYX", False)):
        path = tmp_path / f"{axes}.ome.tif"
        tifffile.imwrite(path, pixels.transpose(2, 0, 1), photometric="minisblack", metadata={"axes": axes})
        assert cubes.is_cube(path)
        assert cubes.is_cube(path, 5)
        assert cubes.is_cube(path, 1) == is_cube
        np.testing.assert_array_equal(cubes.read(path, bands=5).pixels, pixels)


@pytest.mark.parametrize("photometric", ["rgb", "separated"])
def test_colours_with_alpha_are_a_cube_only_for_a_model_of_five_bands(tmp_path: Path, photometric: str) -> None:
    pixels = noise(7, 9, 5, dtype=np.uint8)
    extra = ["unassalpha", "unspecified"] if photometric == "rgb" else ["unassalpha"]
    given: dict[str, Any] = {"photometric": photometric, "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pixels, extrasamples=extra, **given)
    assert [cubes.is_cube(tmp_path / "a.tif", bands) for bands in (None, 1, 3, 4, 5)] == [False] * 4 + [True]
    images.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(cubes.read(tmp_path / "a.tif").pixels, pixels)
    tifffile.imwrite(tmp_path / "a.tif", noise(7, 9, 6), extrasamples=[*extra, "unspecified"], **given)
    assert cubes.is_cube(tmp_path / "a.tif", 3)


def test_pictures_are_no_cubes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(8, 9, dtype=np.uint8))
    assert not cubes.is_cube(tmp_path / "a.tif")
    for channels in (2, 3, 4):
        kind = "rgb" if channels > 2 else "minisblack"
        pixels = noise(8, 9, channels, dtype=np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=kind, planarconfig="contig")
        assert not cubes.is_cube(tmp_path / "a.tif"), channels
    tifffile.imwrite(tmp_path / "a.tif", noise(2, 8, 9, 3, dtype=np.uint8), photometric="rgb")
    assert not cubes.is_cube(tmp_path / "a.tif")
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        file.write(noise(8, 9, dtype=np.uint8))
        file.write(noise(4, 5, dtype=np.uint8))
    assert not cubes.is_cube(tmp_path / "b.tif")
    pyvips.Image.black(8, 8).write_to_file(str(tmp_path / "c.png"))
    (tmp_path / "d.tif").write_bytes(b"II*\0nothing")
    for name in ("c.png", "d.tif", "absent.tif"):
        assert not cubes.is_cube(tmp_path / name)
    assert cubes.is_cube("absent.mat")


def test_a_variable_is_chosen(tmp_path: Path) -> None:
    truth, prediction = noise(5, 6, 3), noise(6, 5, 3)
    for name, save in (("a.mat", lambda p, a: scipy.io.savemat(p, a)), ("a.npz", lambda p, a: np.savez(p, **a))):
        save(tmp_path / name, {"truth": truth, "pred": prediction, "psnr": np.array([[31.0]]), "who": np.array("me")})
        np.testing.assert_array_equal(cubes.read(tmp_path / name, "pred").pixels, prediction)
        with pytest.raises(InputError) as caught:
            cubes.read(tmp_path / name)
        message = str(caught.value)
        assert f"2 arrays that can be cubes; choose one with {tmp_path / name}:truth" in message
        assert "truth (5 x 6 x 3 " in message
        assert "pred (6 x 5 x 3 " in message
        with pytest.raises(InputError, match="has no variable 'cube'; it holds truth"):
            cubes.read_header(tmp_path / name, "cube")


@pytest.mark.parametrize("name", ["_hidden", "1st", "a b", "bands", "x" * 64, ""])
@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_names_that_no_variable_can_have(tmp_path: Path, suffix: str, name: str) -> None:
    pixels = noise(4, 5, 6)
    (notice,) = cubes.write(tmp_path / f"a{suffix}", Cube(pixels, tuple(np.arange(400.0, 460, 10)), name))
    assert "is called cube" in notice
    back = cubes.read(tmp_path / f"a{suffix}", "cube")
    np.testing.assert_array_equal(back.pixels, pixels)
    assert back.wavelengths[0] == 400
    assert cubes.write(tmp_path / f"b{suffix}", Cube(pixels, (), "HSI_2" + "x" * 58)) == []
    assert cubes.read(tmp_path / f"b{suffix}").variable == "HSI_2" + "x" * 58


def test_bands_that_come_first(tmp_path: Path) -> None:
    pixels = noise(5, 7, 9)
    np.save(tmp_path / "a.npy", pixels)
    assert cubes.read(tmp_path / "a.npy").pixels.shape == (5, 7, 9)
    assert cubes.read(tmp_path / "a.npy", bands=9).notices == ()
    cube, header = cubes.read(tmp_path / "a.npy", bands=5), cubes.read_header(tmp_path / "a.npy", bands=5)
    np.testing.assert_array_equal(cube.pixels, pixels.transpose(1, 2, 0))
    assert (header.height, header.width, header.bands) == (7, 9, 5)
    assert cube.notices == header.notices == ("the first axis of 5 x 7 x 9 taken for the 5 bands",)
    # Neither the first nor the last axis has this length: nothing is transposed, and the caller reports the count.
    assert cubes.read(tmp_path / "a.npy", bands=7).pixels.shape == (5, 7, 9)
    np.save(tmp_path / "b.npy", pixels[..., :5])
    assert cubes.read(tmp_path / "b.npy", bands=5).notices == ()


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ((400, 700), "nm", (400.0, 700.0)),
        ((0.4, 0.57), "um", (400.0, 570.0)),
        ((400, 700), "", (400.0, 700.0)),
        ((0.4, 0.7), "Unknown", (400.0, 700.0)),
        ((4000, 7000), "Angstroms", (400.0, 700.0)),
        ((1, 2, 3), "", ()),
        ((25000, 14000), "Wavenumber", ()),
        ((400, -1), "nm", ()),
        ((400, float("nan")), "nm", ()),
    ],
)
def test_wavelengths_in_nanometres(values: tuple[float, ...], unit: str, expected: tuple[float, ...]) -> None:
    assert nanometres(values, unit) == expected


def test_wavelengths_of_another_number_of_bands_are_not_taken(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"cube": noise(4, 5, 6), "bands": np.arange(400.0, 450, 10)})
    assert cubes.read(tmp_path / "a.mat").wavelengths == ()
    scipy.io.savemat(tmp_path / "a.mat", {"cube": noise(4, 5, 6), "bands": np.arange(6.0)})
    assert cubes.read(tmp_path / "a.mat").wavelengths == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    pixels = noise(5, 6, 7)
    pixels[3, 2, 1] = bad
    pixels[4, 5, 6] = bad
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(
        InputError, match="has 2 samples that are NaN or infinite, the first at row 3, column 2, band 1"
    ):
        cubes.read(tmp_path / "a.npy")
    assert cubes.read_header(tmp_path / "a.npy").bands == 7  # the samples are not looked at


Writer = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.npy", lambda p: p.write_bytes(b""), "is empty"),
        ("a.mat", lambda p: p.write_bytes(b""), "is empty"),
        ("a.npy", lambda p: None, "does not exist"),
        ("a.mat", lambda p: p.write_text("<!DOCTYPE html>"), "is a web page"),
        ("a.mat", lambda p: p.write_text("MATLAB of course, but no file of it" * 9), "damaged, cut off, or no MATLAB"),
        ("a.npy", lambda p: np.save(p.open("wb"), noise(2, 3, 4, 5)), "has 4 dimensions"),
        ("a.npy", lambda p: np.save(p.open("wb"), noise(8)), "has 1 dimensions"),
        ("a.npy", lambda p: np.save(p.open("wb"), noise(4, 0, 5)), "holds no samples"),
        ("a.npy", lambda p: np.save(p.open("wb"), noise(4, 5) * 1j), "is complex64, not real numbers"),
        ("a.npy", lambda p: np.save(p.open("wb"), np.array([["x"]])), "is str32, not real numbers"),
        ("a.npy", lambda p: np.save(p.open("wb"), np.array([{}]), allow_pickle=True), "is object, not real numbers"),
        ("a.npz", lambda p: p.write_bytes(b"PK\x03\x04 and no more"), "damaged, cut off, or no NumPy archive"),
        ("a.npz", lambda p: np.savez(p, a=noise(2, 2, 2, 2)), "no array that can be a cube"),
        (
            "a.mat",
            lambda p: scipy.io.savemat(p, {"a": noise(4, 5) * 1j}),
            "is complex, not real numbers; save its real part",
        ),
        ("a.mat", lambda p: scipy.io.savemat(p, {"a": "text"}), "no array that can be a cube"),
        ("a.mat", lambda p: mat_7_3(p, {"a": "char"}, a=np.zeros((3, 3), np.uint16)), "no array that can be a cube"),
        ("a.hdr", lambda p: p.write_bytes(b"#?RADIANCE\n"), "damaged, cut off, or no ENVI file"),
        ("a.hdr", lambda p: p.write_text("ENVI\nsamples = 4\nlines = 5\n"), "damaged, cut off, or no ENVI file"),
        ("a.tif", lambda p: p.write_bytes(b"II*\0nothing"), "damaged, cut off, or no TIFF"),
        ("a.txt", lambda p: p.write_bytes(b"x"), "names no format of spectral cubes"),
    ],
)
def test_files_that_are_refused(
    tmp_path: Path, name: str, make: Writer, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / name)
    for reader in (cubes.read, cubes.read_header) if "real part" not in message else (cubes.read,):
        with pytest.raises(InputError) as caught:
            reader(tmp_path / name)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "variable", "message"),
    [("a.npy", "cube", "has no variables"), ("a.mat", "text", "is char, not real numbers; it holds text")],
)
def test_variables_that_are_refused(tmp_path: Path, name: str, variable: str, message: str) -> None:
    np.save(tmp_path / "a.npy", noise(2, 3))
    scipy.io.savemat(tmp_path / "a.mat", {"text": "some"})
    with pytest.raises(InputError, match=message):
        cubes.read(tmp_path / name, variable)


@pytest.mark.parametrize("kind", [*SUFFIXES, "7.3", "compressed"])
def test_files_that_are_cut_off(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(24, 20, 5)
    path = tmp_path / ("a.mat" if not kind.startswith(".") else f"a{kind}")
    if kind == "7.3":
        monkeypatch.setattr(matlab, "VERSION_5_BYTES", 0)
    if kind == "compressed":
        scipy.io.savemat(path, {"cube": pixels}, do_compression=True)
    else:
        cubes.write(path, Cube(pixels))
    samples = path.with_suffix(".img") if kind == ".hdr" else path
    data = samples.read_bytes()
    # A TIFF ends with the last page's description; some versions of tifffile read files without it.
    for share in (0.01, 0.3, 0.7, 0.9 if kind == ".tif" else 0.99):
        samples.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError, match="damaged, cut off, or no"):
            cubes.read(path)


def test_envis_samples_have_a_place_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"samples that readers would prefer")
    with pytest.raises(InputError, match="would belong to"):
        cubes.check_target(tmp_path / "a.hdr", 3, 4, 5)
    (tmp_path / "b.img").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        cubes.check_target(tmp_path / "b.hdr", 3, 4, 5)


def test_nothing_is_printed_of_a_damaged_tiff(tmp_path: Path) -> None:
    """tifffile logs errors, and Python prints logs without a handler. In a process of its own: pytest has a handler."""
    cubes.write(tmp_path / "a.tif", Cube(noise(24, 20, 5)))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:5000])
    code = f"from keygraph.runtime.io import cubes; print(cubes.is_cube({str(tmp_path / 'a.tif')!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("False\n", "")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_places_that_cannot_be_written(tmp_path: Path, suffix: str) -> None:
    cube = Cube(noise(3, 4, 5))
    with pytest.raises(InputError, match="does not exist; create it first"):
        cubes.write(tmp_path / "absent" / f"a{suffix}", cube)
    (tmp_path / f"a{suffix}").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        cubes.check_target(tmp_path / f"a{suffix}", 3, 4, 5)
    with pytest.raises(InputError, match=r"names no format of spectral cubes; choose one of \.mat"):
        cubes.check_target(tmp_path / "a.png", 3, 4, 5)


def test_a_full_disk_leaves_the_old_files_and_nothing_else(tmp_path: Path) -> None:
    """A limit on file sizes stops the writing; 7.mat is of version 7.3."""
    code = f"""
        import resource, numpy as np
        from pathlib import Path
        from keygraph.errors import InputError
        from keygraph.runtime.io import cubes
        folder, names = Path({str(tmp_path)!r}), ("a.mat", "7.mat", "a.npy", "a.npz", "a.tif", "a.hdr")
        version_5 = cubes.matlab.VERSION_5_BYTES
        def write(name, cube):
            cubes.matlab.VERSION_5_BYTES = 0 if name == "7.mat" else version_5
            cubes.write(folder / name, cube)
        for name in names:
            write(name, cubes.Cube(np.zeros((2, 3, 4), np.float32)))
        before = {{file.name: file.read_bytes() for file in folder.iterdir()}}
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        for name in names:
            try:
                write(name, cubes.Cube(np.zeros((50, 60, 70), np.float32)))
            except InputError as error:
                assert "cannot write" in str(error), error
                print(name)
        assert before == {{file.name: file.read_bytes() for file in folder.iterdir()}}
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["a.mat", "7.mat", "a.npy", "a.npz", "a.tif", "a.hdr"]


@pytest.mark.parametrize(("suffix", "name"), [(".mat", "h5py"), (".tif", "tifffile")])
def test_a_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matlab, "VERSION_5_BYTES", 0)
        cubes.write(tmp_path / f"a{suffix}", Cube(noise(3, 4, 5)))
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    for use in (cubes.read, lambda path: cubes.check_target(path, 3, 4, 5)):
        with pytest.raises(MissingDependencyError, match=rf"needs {name}.*{re.escape(install_line('spectral'))}"):
            use(tmp_path / f"a{suffix}")
