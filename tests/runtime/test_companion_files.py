"""Companion files: what is read and written along with a named file, and outputs that would replace something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from keygraph.errors import InputError
from keygraph.runtime.companion_files import check_outputs, read_with, written_with
from keygraph.runtime.io import cubes
from keygraph.runtime.io.cubes import Cube
from onnx import helper, numpy_helper


def write_onnx(path: Path, location: str) -> None:
    """Write a model whose weights are in another file."""
    weight = numpy_helper.from_array(np.ones(600, np.float32), "weight")
    node = helper.make_node("Add", ["weight", "weight"], ["sum"])
    values = [helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, [600])]
    model = helper.make_model(helper.make_graph([node], "graph", [], values, [weight]))
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


def write_header(path: Path, samples: str) -> None:
    """Write an ENVI header and the file of its samples."""
    text = "ENVI\nsamples = 3\nlines = 2\nbands = 1\ndata type = 1\ninterleave = bsq\nbyte order = 0\n"
    path.write_text(text)
    path.with_name(samples).write_bytes(b"abcdef")


@pytest.mark.parametrize(
    ("header", "samples"),
    [
        ("scene.hdr", "scene.img"),
        ("scene.hdr", "scene"),
        ("scene.hdr", "scene.dat"),
        ("scene.hdr", "scene.RAW"),
        ("scene.HDR", "scene.bsq"),
        ("scene.img.hdr", "scene.img"),
    ],
)
def test_samples_go_with_their_header(tmp_path: Path, header: str, samples: str) -> None:
    write_header(tmp_path / header, samples)
    assert cubes.read(tmp_path / header).pixels.tobytes() == b"abcdef"
    assert read_with(tmp_path / header) == [tmp_path / header, tmp_path / samples]


@pytest.mark.parametrize("location", ["model.onnx.data", "weights.bin", "w" * 200, "sub/weights.bin"])
def test_weights_in_other_files_go_with_their_model(tmp_path: Path, location: str) -> None:
    (tmp_path / "sub").mkdir()
    write_onnx(tmp_path / "model.onnx", location)
    assert read_with(tmp_path / "model.onnx") == [tmp_path / "model.onnx", tmp_path / location]


@pytest.mark.parametrize("block", [0, 1024])
def test_what_hdf5_reads_goes_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """A virtual dataset's sources (and theirs), an external link in a group, raw samples, and blocks by number."""
    monkeypatch.chdir(tmp_path)
    cube = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    cube.tofile("raw.npy")
    for name in ("part.mat", "part2.mat", "block0.h5", "unrelated.mat"):
        with h5py.File(name, "w") as file:
            file["cube"] = cube
    with h5py.File("raw.mat", "w") as file:
        file.create_dataset("cube", (3, 4, 5), "f4", external=[("raw.npy", 0, h5py.h5f.UNLIMITED)])
    with h5py.File("all.mat", "w", userblock_size=block) as file:
        for name, source in (("cube", "part.mat"), ("raw", "raw.mat")):
            layout = h5py.VirtualLayout((3, 4, 5), "f4")
            layout[:] = h5py.VirtualSource(source, "cube", (3, 4, 5))
            file.create_virtual_dataset(name, layout)
        whole = h5py.h5s.create_simple((3, 4, 5))
        endless = h5py.h5s.create_simple((3, 4, 5), (h5py.h5s.UNLIMITED, 4, 5))
        endless.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), (3, 1, 1), (3, 4, 5))
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_virtual(endless, b"block%b.h5", b"cube", whole)
        h5py.h5d.create(file.id, b"blocks", h5py.h5t.NATIVE_FLOAT, endless, made)
        file.create_group("group")["link"] = h5py.ExternalLink("part2.mat", "/cube")
    for name in ("raw", "blocks"):
        np.testing.assert_array_equal(cubes.read("all.mat", name).pixels, cube)
    assert {file.name for file in read_with(tmp_path / "all.mat")} == {
        *("all.mat", "part.mat", "part2.mat", "raw.mat", "raw.npy", "block0.h5")
    }
    for name in ("part.mat", "part2.mat", "raw.npy", "block0.h5"):
        with pytest.raises(InputError, match=rf"^{name} belongs to the input all\.mat"):
            check_outputs([Path(name)], [Path("all.mat")])
    check_outputs([Path("unrelated.mat")], [Path("all.mat")])
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir("sub")
    with pytest.raises(InputError, match="belongs to the input"):
        check_outputs([tmp_path / "part.mat"], [Path("../all.mat")])


def test_h5py_is_imported_for_hdf5_only(tmp_path: Path) -> None:
    cubes.write(tmp_path / "a.mat", Cube(np.zeros((2, 3, 4), np.float32)))
    (tmp_path / "cut.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    code = (
        "import sys; from pathlib import Path; from keygraph.runtime.companion_files import read_with; "
        f"print(len(read_with(Path({str(tmp_path / 'a.mat')!r}))), 'h5py' in sys.modules, "
        f"len(read_with(Path({str(tmp_path / 'cut.mat')!r}))), len(read_with(Path('absent.mat'))))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["1", "False", "1", "1"]


def test_what_is_written_with_a_name() -> None:
    for name, others in (
        ("a.png", []),
        ("a.hdr", ["a.img"]),
        ("a.HDR", ["a.img"]),
        ("a.onnx", ["a.onnx.data"]),
        ("a.sm89.plan", ["a.sm89.plan.json", "a.sm89.plan.log"]),
    ):
        assert written_with(Path(name)) == [Path(name), *map(Path, others)]


def test_a_companion_whose_name_is_too_long_is_none(tmp_path: Path) -> None:
    for name in ("a" * 251 + ".hdr", "a" * 250 + ".onnx", "a" * 250 + ".plan"):
        (tmp_path / name).write_bytes(b"ENVI")
        assert read_with(tmp_path / name) == [tmp_path / name]
        check_outputs([tmp_path / name], [tmp_path / name.replace("a", "b")])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("output", "given", "message"),
    [
        ("scene.hdr", "scene.img.hdr", "scene.hdr is written with scene.img, which belongs to the input scene.img.hdr"),
        ("other.HDR", "other.hdr", "other.HDR is written with other.img, which belongs to the input other.hdr"),
        ("link.hdr", "scene.img.hdr", "link.hdr is written with link.img, which belongs to the input scene.img.hdr"),
        ("scene.img.hdr", "scene.img.hdr", "scene.img.hdr is the input itself"),
        ("hard.png", "a.png", "hard.png is the input itself"),
        ("soft.png", "a.png", "soft.png is the input itself"),
        ("weights.bin", "model.onnx", "weights.bin belongs to the input model.onnx"),
        ("k.plan.json", "k.plan", "k.plan.json belongs to the input k.plan"),
        ("folder", "folder/sub/b.png", "folder would be replaced, and holds the input folder/sub/b.png"),
    ],
)
def test_outputs_that_would_replace_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, given: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_header(Path("scene.img.hdr"), "scene.img")
    write_header(Path("other.hdr"), "other.img")
    Path("link.img").symlink_to("scene.img")
    for name in ("a.png", "k.plan", "k.plan.json", "folder/sub/b.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(name.encode())
    Path("soft.png").symlink_to("a.png")
    os.link("a.png", "hard.png")
    write_onnx(Path("model.onnx"), "weights.bin")
    with pytest.raises(InputError) as error:
        check_outputs([Path(output)], [Path(given)])
    assert str(error.value).startswith(message)
    check_outputs([Path("new.hdr"), Path("new.png")], [Path(given)])


def test_an_unrelated_file_is_not_replaced_along_with_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for unrelated in ("keep.img", "keep.onnx.data", "keep.plan.json"):
        Path(unrelated).write_bytes(b"something else")
    for output, unrelated in (
        ("keep.hdr", "keep.img"),
        ("keep.onnx", "keep.onnx.data"),
        ("keep.plan", "keep.plan.json"),
    ):
        with pytest.raises(InputError, match=f"^{unrelated} exists and does not belong to {output} alone"):
            check_outputs([Path(output)], [])
    # A file of the output's own name that is no header does not make the samples its own.
    Path("keep.hdr").write_bytes(b"#?RADIANCE\n")
    with pytest.raises(InputError, match=r"keep\.img exists"):
        check_outputs([Path("keep.hdr")], [])


@pytest.mark.parametrize("samples", ["u.dat", "u", "u.BSQ"])
def test_a_header_is_not_replaced_without_its_samples(tmp_path: Path, samples: str) -> None:
    write_header(tmp_path / "u.hdr", samples)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"u\.hdr exists, and .*{samples} holds its samples, .*move both files away"):
        cubes.write(tmp_path / "u.hdr", Cube(np.zeros((2, 3, 4), np.float32)))
    assert contents(tmp_path) == before
    (tmp_path / samples).rename(tmp_path / "u.img")
    (tmp_path / "u.raw").write_bytes(b"a photo")  # behind the header's own samples
    check_outputs([tmp_path / "u.hdr"], [])


def test_an_earlier_result_is_replaced_but_not_what_another_header_describes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cubes.write("a.hdr", Cube(np.zeros((2, 3, 4), np.float32)))
    write_onnx(Path("a.onnx"), "a.onnx.data")
    Path("a.plan.json").write_text('{\n "engine_sha256": "00"}')
    Path("a.plan.log").touch()
    check_outputs([Path("a.hdr"), Path("a.onnx"), Path("a.plan")], [])
    Path("a.img.hdr").write_bytes(Path("a.hdr").read_bytes())
    with pytest.raises(InputError, match=r"a\.img exists and does not belong to a\.hdr alone"):
        check_outputs([Path("a.hdr")], [])
    Path("copy.onnx").write_bytes(Path("a.onnx").read_bytes())
    with pytest.raises(InputError, match=r"a\.onnx\.data exists and does not belong to a\.onnx alone"):
        check_outputs([Path("a.onnx")], [])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["new/a.hdr", "new/a.img.hdr"], "would both be written to new/a.img"),
        (["new/a.hdr", "new/a.HDR"], "would both be written to new/a.img"),
        (["a.plan", "a.plan.json"], "would both be written to a.plan.json"),
        (["r.html", "r.html"], "r.html is named for two outputs"),
        (["r.html", "../{here}/r.html"], "would both be written to"),
    ],
)
def test_two_outputs_of_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        check_outputs([Path(name.format(here=tmp_path.name)) for name in outputs], [])
    assert not list(tmp_path.iterdir())


def test_names_that_differ_in_case_are_tried_on_the_file_system(tmp_path: Path) -> None:
    (tmp_path / "probe").touch()
    outputs = [tmp_path / "new" / "A.png", tmp_path / "new" / "a.png"]
    if (tmp_path / "PROBE").exists():
        with pytest.raises(InputError, match="would both be written to"):
            check_outputs(outputs, [])
    else:
        check_outputs(outputs, [])
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]


def test_writing_a_cube_replaces_no_unrelated_samples(tmp_path: Path) -> None:
    (tmp_path / "keep.img").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"keep\.img exists and does not belong to .*keep\.hdr alone"):
        cubes.write(tmp_path / "keep.hdr", Cube(np.zeros((2, 3, 4), np.float32)))
    assert contents(tmp_path) == {str(tmp_path / "keep.img"): b"something else"}
