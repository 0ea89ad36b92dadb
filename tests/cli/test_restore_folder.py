"""Several images on the command line: what is left out of a folder, and images that cannot be restored."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from keygraph.cli import main
from keygraph.runtime.io import cubes, images
from keygraph.runtime.io.cubes import Cube
from keygraph.runtime.io.images import Picture
from keygraph.runtime.results_file import RESULTS_FILE

ModelFile = Callable[..., Path]

#: A HEIC picture of 24 x 16 pixels, compressed with HEVC.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJp"
    "bG9jAAAAAERAAAEAAQAAAAABoAABAAAAAAAAAD0AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAAB"
    "AAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEA"
    "AQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAU"
    "aXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlw"
    "bWEAAAAAAAAAAQABBYECAwWEAAAARW1kYXQAAAA5KAGvEyF4Y0DlMPv/BhEDb3w1Ku438cIpwcNer+5+wMEnQsAXQPMlSD+l1xDjk81P"
    "ItSApIO1EUSQ"
)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def photo(path: Path, height: int = 16, width: int = 16) -> np.ndarray[Any, Any]:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    images.write(path, Picture(pixels))
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "c.png"):
        photo(tmp_path / "in" / name)
    return tmp_path / "in"


def names(folder: Path) -> list[str]:
    """Return the names in a folder, without the record of the results."""
    return sorted(path.name for path in folder.iterdir() if path.name != RESULTS_FILE)


def test_hidden_and_other_files_are_left_out_and_counted(
    make_model: ModelFile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "._a.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000))
    (folder / ".keygraph-0a1b2c3d.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("b.bmp", "notes.txt", "read me", "more.txt"):
        (folder / name).write_text("no image")
    np.save(folder / "mask.npy", np.ones((16, 16)))
    (folder / "sub").mkdir()
    assert run("restore", folder, "-o", tmp_path / "out", "--model", make_model("identity")) == 0
    assert names(tmp_path / "out") == ["a.png", "c.png"]
    said = capsys.readouterr().err
    assert f"note: not read in {folder}: 1 .bmp, 1 .npy, 2 .txt, 1 without a suffix, 2 hidden, 1 subfolder\n" in said


def test_samples_of_a_header_are_not_other_files(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.hdr", "b.hdr"):
        cubes.write(tmp_path / "in" / name, Cube(np.zeros((8, 8, 3), np.float32)))
    assert run("restore", tmp_path / "in", "-o", tmp_path / "out", "--model", make_model("identity")) == 0
    assert names(tmp_path / "out") == ["a.hdr", "a.img", "b.hdr", "b.img"]
    assert "not read" not in capsys.readouterr().err


def spoil(folder: Path) -> dict[str, str]:
    """Add files that cannot be restored; return their names and a part of the message for each."""
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("hello")
    images.write(folder / "many.tif", Picture(np.zeros((8, 8, 5), np.uint8)))
    photo(folder / "cut.png", 64, 64)
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:4000])
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.tif")
    (folder / "photo.heic").write_bytes(HEIC[:300])
    return {
        "empty.png": "empty (0 bytes)",
        "text.jpg": "no image",
        "many.tif": "5 channels",
        "cut.png": "damaged",
        "gone.png": "does not exist",
        "loop.png": "Too many levels of symbolic links",
        "pipe.png": "a device or a pipe",
        "pipe.tif": "a device or a pipe",
        "photo.heic": "damaged",
    }


def test_images_that_cannot_be_restored_do_not_stop_the_others(
    make_model: ModelFile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = spoil(folder)
    model = make_model("identity")
    assert run("restore", folder, "-o", tmp_path / "out", "--model", model, "--json") == 1
    assert names(tmp_path / "out") == ["a.png", "c.png"]
    said = capsys.readouterr()
    results = [json.loads(line) for line in said.out.splitlines()]
    errors = {Path(result["source"]).name: result["error"] for result in results if "error" in result}
    assert errors.keys() == bad.keys()
    assert len(results) == len(bad) + 2
    *lines, last = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert last == f"error: {len(bad)} of {len(bad) + 2} images were not restored"
    assert len(lines) == len(bad)
    for name, part in bad.items():
        assert part in errors[name]
        assert any(name in line and part in line for line in lines)
    # The same files, named one by one.
    assert run("restore", *folder.iterdir(), "-o", tmp_path / "again", "--model", model, "--quiet") == 1
    assert names(tmp_path / "again") == ["a.png", "c.png"]


def test_the_first_failure_stops_when_asked(
    make_model: ModelFile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(folder / "b.png", 64, 64)
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:4000])
    arguments = ["restore", folder, "--model", make_model("identity"), "--fail-fast", "-o"]
    assert run(*arguments, tmp_path / "out") == 2
    assert names(tmp_path / "out") == ["a.png"]
    (folder / "d.png").touch()  # Its header tells.
    assert run(*arguments, tmp_path / "new") == 2
    assert not (tmp_path / "new").exists()
    assert "d.png is empty (0 bytes)" in capsys.readouterr().err


def test_nothing_is_made_where_nothing_can_be_restored(
    make_model: ModelFile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"")
    model = make_model("identity")
    assert run("restore", folder, "-o", tmp_path / "new" / "out", "--model", model) == 1
    assert "error: 2 of 2 images were not restored" in capsys.readouterr().err
    for name in ("a.jpg", "b.jpg"):
        images.write(folder / name, Picture(np.zeros((4, 20000, 3), np.uint8)))
    for name in ("a.png", "c.png"):
        (folder / name).unlink()
    larger = make_model("nearest", scale=4)
    assert run("restore", folder, "-o", tmp_path / "new" / "out", "--model", larger) == 1
    assert "JPEG holds at most 65500 pixels a side" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_option_that_fits_no_image_is_an_error_of_the_option(
    make_model: ModelFile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.png").touch()
    model = make_model("identity")
    for options, message in ((["--tile", "100"], "use 96 or 104"), (["--input", f"left={folder}"], "no input left")):
        assert run("restore", folder, "-o", tmp_path / "out", "--model", model, *options) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_error_that_nobody_expected_concerns_one_image(
    make_model: ModelFile, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from keygraph.runtime.io import output_files

    write = output_files.write

    def broken(path: Path, *arguments: Any, **options: Any) -> list[str]:
        if path.name == "a.png":
            raise ZeroDivisionError("division by zero")
        return write(path, *arguments, **options)

    monkeypatch.setattr(output_files, "write", broken)
    assert run("restore", folder, "-o", tmp_path / "out", "--model", make_model("identity")) == 1
    assert names(tmp_path / "out") == ["c.png"]
    assert "a.png: unexpected ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_results_replace_no_input_of_another_image(
    make_model: ModelFile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An earlier result is a link to an image that is restored, too."""
    photo(tmp_path / "b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "b.png")
    before = (tmp_path / "b.png").read_bytes()
    assert run("restore", folder, tmp_path / "b.png", "-o", tmp_path / "out", "--model", make_model("identity")) == 2
    assert "out/a.png is the input itself" in capsys.readouterr().err
    assert (tmp_path / "b.png").read_bytes() == before
    assert names(tmp_path / "out") == ["a.png"]


def test_results_in_place_replace_no_cube_of_the_same_name(
    make_model: ModelFile, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data sets have a picture a.png and its spectrum a.mat side by side."""
    cubes.write(folder / "a.mat", Cube(np.zeros((16, 16, 6), np.float32)))
    before = (folder / "a.mat").read_bytes()
    model = make_model("bands", out_channels=6, wavelengths=(400.0, 450.0, 500.0, 550.0, 600.0, 650.0))
    assert run("restore", folder, "-o", folder, "--model", model) == 2
    assert "a.mat exists beside the images, and would be replaced by the result of a.png" in capsys.readouterr().err
    assert (folder / "a.mat").read_bytes() == before
    for _ in range(2):  # In another folder it is an earlier result.
        assert run("restore", folder, "-o", tmp_path / "out", "--model", model) == 0
    assert names(tmp_path / "out") == ["a.mat", "c.mat"]


@pytest.mark.parametrize(("suffix", "result"), [(".jpe", ".jpe"), (".jfif", ".jfif"), (".avif", ".png")])
def test_further_suffixes_of_pictures(make_model: ModelFile, tmp_path: Path, suffix: str, result: str) -> None:
    (tmp_path / "in").mkdir()
    image = pyvips.Image.new_from_array(np.full((16, 24, 3), 90, np.uint8))
    (tmp_path / "in" / f"a{suffix}").write_bytes(image.write_to_buffer(suffix))
    assert run("restore", tmp_path / "in", "-o", tmp_path / "out", "--model", make_model("identity")) == 0
    assert names(tmp_path / "out") == [f"a{result}"]
    assert abs(images.read(tmp_path / "out" / f"a{result}").pixels.astype(int) - 90).max() <= 2


def test_what_cannot_be_decoded_is_said(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC)
    code = run("restore", tmp_path / "a.heic", "-o", tmp_path / "out", "--model", make_model("identity"))
    if code == 0:  # This libvips has a decoder.
        assert images.read(tmp_path / "out" / "a.png").pixels.shape == (16, 24, 3)
    else:
        assert code == 2
        assert "a.heic is compressed with HEVC, which this libvips cannot decode" in capsys.readouterr().err
    for name, kind in (("a.bmp", "BMP"), ("a.ppm", "PPM"), ("a.tga", "TGA"), ("a.jxl", "JPEG XL")):
        (tmp_path / name).write_bytes(bytes(100))  # Nothing is told by the first bytes.
        assert run("restore", tmp_path / name, "-o", tmp_path / "out", "--model", make_model("identity")) == 2
        assert f"{name} is a {kind} file, which keygraph does not read" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "夜" * 83 + ".png", "a" * 251 + ".npy", "a" * 251 + ".hdr"])
def test_a_name_may_be_as_long_as_the_file_system_allows(make_model: ModelFile, tmp_path: Path, name: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    if name.endswith(".png"):
        images.write(tmp_path / name, Picture(pixels))
    else:
        cubes.write(tmp_path / name, Cube(pixels))
    assert len(os.fsencode(name)) >= 253
    assert run("restore", tmp_path / name, "-o", tmp_path / "out", "--model", make_model("identity")) == 0
    assert name in names(tmp_path / "out")
    (tmp_path / "in").mkdir()  # The same in a folder, over the earlier result.
    for file in tmp_path.glob("[a夜]*"):
        file.rename(tmp_path / "in" / file.name)
    assert run("restore", tmp_path / "in", "-o", tmp_path / "out", "--model", tmp_path / "identity.onnx") == 0


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_name_need_not_be_utf_8(make_model: ModelFile, folder: Path, tmp_path: Path, encoding: str) -> None:
    os.rename(folder / "c.png", os.fsencode(folder) + b"/caf\xe9[1].png")
    (folder / "夜.png").write_bytes((folder / "a.png").read_bytes())
    model, environment = make_model("identity"), os.environ | {"PYTHONIOENCODING": encoding}
    command = ["restore", folder, "-o", tmp_path / "out", "--model", model]
    arguments = [sys.executable, "-m", "keygraph", *map(str, command)]
    done = subprocess.run(arguments, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"caf\udce9[1].png ->" in done.stdout
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [
        b"a.png",
        b"caf\xe9[1].png",
        b"results.jsonl",
        "夜.png".encode(),
    ]
    os.truncate(os.fsencode(folder) + b"/caf\xe9[1].png", 0)
    done = subprocess.run([*arguments, "--json"], env=environment, capture_output=True, check=False)
    assert done.returncode == 1
    (failed,) = [line for line in map(json.loads, done.stdout.splitlines()) if "error" in line]
    assert os.fsencode(failed["source"]) == os.fsencode(folder) + b"/caf\xe9[1].png"
    assert rb"caf\udce9[1].png is empty" in done.stderr


def on_small_disk(script: str, size: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run shell commands with a file system of `size` in the folder ``disk``, or skip where that is not permitted."""
    (tmp_path / "disk").mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={size} none disk || exit 77; "
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mount + script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("may not mount a file system")
    return done


def keygraph(*arguments: object) -> str:
    return shlex.join([sys.executable, "-m", "keygraph", *map(str, arguments)])


WRITE_ALL = """
from contextlib import ExitStack
from pathlib import Path
import numpy as np
from keygraph.errors import DiskFullError
from keygraph.runtime.io import cubes, images
from keygraph.runtime.io.cubes import Cube
from keygraph.runtime.io.images import Picture, streaming

noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
images.write("noise.png", Picture(noise))
with ExitStack() as files:
    streamed = streaming.read("noise.png", Path("."), files)
    for write, suffixes in (
        (lambda path: images.write(path, Picture(noise)), (".png", ".jpg", ".tif", ".webp")),
        (lambda path: cubes.write(path, Cube(noise)), (".npy", ".npz", ".mat", ".hdr")),
        (lambda path: streaming.write(path, streamed, Path(".")), (".png", ".jpg", ".tif", ".webp")),
    ):
        for suffix in suffixes:
            try:
                write(f"disk/a{suffix}")
            except DiskFullError as error:
                print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's mount namespaces")
def test_a_disk_that_fills_up_is_recognised_in_every_format(tmp_path: Path) -> None:
    """After this error, the rest of several images is not computed."""
    command = shlex.join([sys.executable, "-c", WRITE_ALL])
    done = on_small_disk(f"{command}; code=$?; ls -A disk; exit $code", "50k", tmp_path)
    assert done.returncode == 0, done.stderr
    suffixes = [".png", ".jpg", ".tif", ".webp", ".npy", ".npz", ".mat", ".hdr", ".png", ".jpg", ".tif", ".webp"]
    advice = "make room there, or choose another place"
    assert done.stdout.splitlines() == [
        f"cannot write disk/a{suffix}: No space left on device; {advice}" for suffix in suffixes
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's mount namespaces")
def test_a_disk_that_is_too_small_is_noticed_before_any_work(make_model: ModelFile, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 300, 300)
    command = keygraph("restore", "a.png", "-o", "disk/a.npy", "--model", make_model("identity"))
    done = on_small_disk(f"{command}; code=$?; ls -A disk; exit $code", "200k", tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.search(r"error: the result of \S+ needs about 270\.0 kB, and disk has 204\.8 kB free", done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's mount namespaces")
def test_after_a_full_disk_the_rest_is_not_computed(make_model: ModelFile, tmp_path: Path) -> None:
    """Noise takes more than photographs of its size usually do."""
    (tmp_path / "in").mkdir()
    for name in "abcdef":
        photo(tmp_path / "in" / f"{name}.png", 150, 150)
    command = keygraph("restore", "in", "-o", "disk/out", "--json", "--jobs", 1, "--model", make_model("identity"))
    done = on_small_disk(f"{command}; code=$?; ls -A disk/out >&2; exit $code", "200k", tmp_path)
    assert done.returncode == 1
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in result for result in results] == [False, False, True, True, True, True]
    assert "No space left on device" in results[2]["error"]
    assert [result["error"] for result in results[3:]] == [
        f"in/{name}.png: not restored, because the disk is full" for name in "def"
    ]
    assert done.stderr.endswith("error: 4 of 6 images were not restored\na.png\nb.png\nresults.jsonl\n")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's mount namespaces")
def test_a_full_disk_leaves_whole_results_whatever_is_under_way(make_model: ModelFile, tmp_path: Path) -> None:
    """Several images are encoded when the disk becomes full: each is whole, or absent and said to be."""
    (tmp_path / "in").mkdir()
    for index in range(30):
        photo(tmp_path / "in" / f"{index:02}.png", 150, 150)
    command = keygraph("restore", "in", "-o", "disk/out", "--json", "--jobs", 4, "--model", make_model("identity"))
    keep = "mkdir kept; cp disk/out/* kept; ls -A disk/out >&2"
    done = on_small_disk(f"{command}; code=$?; {keep}; exit $code", "700k", tmp_path)
    assert done.returncode == 1
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(result["source"]).name for result in results] == [f"{index:02}.png" for index in range(30)]
    restored = [Path(result["target"]).name for result in results if "target" in result]
    assert 5 <= len(restored) <= 10
    assert names(tmp_path / "kept") == sorted(restored)
    for name in restored:
        np.testing.assert_array_equal(
            images.read(tmp_path / "kept" / name).pixels, images.read(tmp_path / "in" / name).pixels
        )
    errors = [result["error"] for result in results if "error" in result]
    assert all("No space left on device" in error or "the disk is full" in error for error in errors)
    assert errors[-1] == "in/29.png: not restored, because the disk is full"
    assert done.stderr.splitlines()[-len(restored) - 1 :] == [*sorted(restored), RESULTS_FILE]
