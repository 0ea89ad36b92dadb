from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keygraph.cli import export_model, main
from keygraph.installation import install_line
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture

ModelFile = Callable[..., Path]
K = {"default": 64, "maximum": 256, "trained": (), "runtime": True}


def photo(path: Path, height: int = 40, width: int = 30, alpha: bool = False) -> np.ndarray[Any, Any]:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    images.write(path, Picture(pixels, pixels[:, :, 0].copy() if alpha else None))
    return pixels


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_one_file(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = photo(tmp_path / "a.png", alpha=True)
    model = make_model("add_k", neighbours=K, in_channels=3)
    assert run("restore", tmp_path / "a.png", "-o", tmp_path / "b.tif", "--model", model, "--k", 51) == 0
    back = images.read(tmp_path / "b.tif")
    np.testing.assert_array_equal(back.pixels, np.minimum(pixels + 13.0, 255))
    np.testing.assert_array_equal(back.alpha, pixels[:, :, 0])
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    for part in ("a.png -> ", "30x40", "whole", "padded and cropped", "k 51", " s"):
        assert part in said.out
    assert "ONNX Runtime" in said.err


def test_a_budget_of_memory(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = photo(tmp_path / "a.png", 200, 300)
    files = ["restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", make_model("identity"), "--quiet"]
    assert run(*files, "--memory", "4 GB") == 2
    assert "the memory budget is '4 GB'; give a number with the unit K, M or G, such as 4G" in capsys.readouterr().err
    assert run(*files, "--memory", "100K") == 2
    said = capsys.readouterr().err
    assert "a.png: an image of 200 x 300 in tiles of 64 x 64 needs about " in said
    assert not (tmp_path / "b.png").exists()
    least = said.split("--memory ")[1].split()[0]
    assert run(*files[:-1], "--memory", least, "--json") == 0
    height, width = json.loads(capsys.readouterr().out)["tile"]
    assert 64 <= height == width < 200
    np.testing.assert_array_equal(images.read(tmp_path / "b.png").pixels, pixels)


def test_several_files_and_folders_into_a_folder(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    wide = photo(folder / "wide.png", 40, 600)
    photo(folder / "small.png")
    (folder / "notes.txt").write_text("not an image")
    photo(tmp_path / "c.webp")
    out = tmp_path / "new" / "out"
    options = ["--model", make_model("nearest", scale=2), "--tile", 32, "--overlap", 8, "--batch", 3, "--json"]
    assert run("restore", folder, tmp_path / "c.webp", "-o", out, *options) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(report["target"]) for report in reports] == [out / "small.png", out / "wide.png", out / "c.webp"]
    assert (reports[1]["tile"], reports[1]["overlap"], reports[1]["width"]) == ([32, 32], 8, 1200)
    np.testing.assert_array_equal(images.read(out / "wide.png").pixels, wide.repeat(2, 0).repeat(2, 1))


def test_quiet_says_nothing(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "a.png")
    assert (
        run("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", make_model("identity"), "--quiet") == 0
    )
    said = capsys.readouterr()
    assert said.out == said.err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--k", "0"], "k is 0; it must be a whole number from 1 to 256"),
        (["--k", "-3"], "k is -3"),
        (["--k", "many"], "--k"),
        (["--k", "257"], "1 to 256"),
        (["--tile", "100"], "use 96 or 104"),
        (["--tile", "large"], "give pixels, or none or auto"),
        (["--overlap", "none"], "give pixels, or auto"),
        (["--batch", "0"], "batch is 0"),
        (["--threads", "0"], "threads is 0"),
        (["--global-statistics", "whole"], "give exact or tile"),
        (["--global-statistics", "exact"], "takes no statistics over the whole image"),
        (["--nothing"], "--nothing"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    photo(tmp_path / "a.png")
    model = make_model("add_k", neighbours=K)
    before = sorted(tmp_path.rglob("*"))
    assert run("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", model, *options) == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_arguments_stop_everything_before_any_work(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, good, out = make_model("identity"), tmp_path / "good.png", tmp_path / "out"
    photo(good)
    (tmp_path / "folder").mkdir()
    for arguments, message in (
        ([tmp_path / "none.png"], "does not exist"),
        ([tmp_path / ("n" * 300)], "File name too long"),
        ([tmp_path / "folder"], "holds no image"),
        ([good], f"two of the inputs, {good} and {good}, would become good.png"),
    ):
        assert run("restore", good, *arguments, "-o", out, "--model", model) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_targets_that_cannot_be(make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, good = make_model("identity"), tmp_path / "good.png"
    pixels = photo(good)
    for target, message in (
        (good, "is the input itself"),
        (tmp_path, "is the input itself"),
        (tmp_path / "b.bmp", "names no image format"),
        (good / "b.png", "does not exist"),
        (tmp_path / ("n" * 252 + ".png"), "File name too long"),
        (tmp_path / ("n" * 256), "File name too long"),
        (Path(os.devnull), "it is a device or a pipe; name a file or a folder"),
        ("", "an argument is empty"),
        (tmp_path / "none" / "b.png", "does not exist"),
    ):
        assert run("restore", good, "-o", target, "--model", model) == 2
        assert message in capsys.readouterr().err
    np.testing.assert_array_equal(images.read(good).pixels, pixels)
    assert run("restore", good, good, "-o", good, "--model", model) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_what_went_wrong_is_exit_code_1_and_nothing_is_written(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images.write(tmp_path / "a.png", Picture(np.full((8, 8, 3), 255, np.uint8)))
    arguments = ["restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", make_model("bright_nan")]
    assert run(*arguments) == 1
    said = capsys.readouterr().err
    assert "NaN or infinity in the tile at row 0, column 0" in said
    assert "Traceback" not in said
    assert not (tmp_path / "b.png").exists()
    for debug in (["--debug", *arguments], [*arguments, "--debug"]):
        assert run(*debug) == 1
        assert "Traceback" in capsys.readouterr().err


def test_a_model_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "m.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert run("restore", tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", tmp_path / "m.onnx") == 2
    assert "Git LFS pointer" in capsys.readouterr().err


def test_help_and_version_need_no_command_to_be_importable(capsys: pytest.CaptureFixture[str]) -> None:
    code = """
import sys
for name in ("torch", "onnx", "onnxruntime", "numpy", "pyvips"):
    sys.modules[name] = None
from keygraph.cli import main
assert main(["--help"]) == 0
assert main(["--version"]) == 0
assert main(["restore", "a.png", "-o", "b.png", "--model", "m.onnx"]) == 2
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("restore", "export", "compare", "inspect", "doctor", "keygraph 0"):
        assert name in done.stdout
    assert "is not installed; install it with: pip install" in done.stderr


def test_a_missing_package_spoils_its_own_command_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def needs_torch(name: str, package: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("keygraph.cli.import_module", needs_torch)
    assert main(["export", "a.ckpt"]) == export_model(["a.ckpt"]) == 2
    said = capsys.readouterr().err
    assert said.count(f"torch is not installed; install it with: {install_line('export')}\n") == 2
    assert main(["--help"]) == 0


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restroe"]) == 2
    assert capsys.readouterr().err.startswith("error: No such command 'restroe'")


def test_what_a_closed_folder_holds_is_one_true_line(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("identity")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        place = Path(name)
        place.chmod(0o777)
        shutil.copy(model, place / "m.onnx")
        for folder in (place / "closed", place / "listed"):
            folder.mkdir()
            photo(folder / "a.png")
        photo(place / "a.png")
        assert run("restore", place / "a.png", "-o", place / "b.png", "--model", place / "m.onnx") == 0
        assert run("compare", place / "m.onnx", place / "m.onnx", "--inputs", place / "a.png") == 0
        capsys.readouterr()
        for folder, mode in ((place / "closed", 0), (place / "listed", 0o444)):
            folder.chmod(mode)
            stack.callback(folder.chmod, 0o700)
        if os.geteuid() == 0:  # Root reads everything.
            os.seteuid(65534)
            stack.callback(os.seteuid, 0)
        restore = ["restore", place / "a.png", "--model", place / "m.onnx"]
        compare = ["compare", place / "m.onnx"]
        for arguments in (
            [*restore, "-o", place / "closed" / "x.png"],
            [*restore, "-o", place / "closed" / "x"],
            [*restore, "-o", place / "out", "--input", f"mask={place / 'closed' / 'a.png'}"],
            ["restore", place / "listed", "--model", place / "m.onnx", "-o", place / "out"],
            ["restore", place / "closed" / "a.png", "--model", place / "m.onnx", "-o", place / "out"],
            [*compare, place / "closed" / "x.ckpt"],
            [*compare, place / "m.onnx", "--inputs", place / "a.png", "--save", place / "closed" / "x"],
        ):
            assert run(*arguments) == 2, arguments
            said = capsys.readouterr().err.splitlines()
            assert len(said) == 1
            assert "Permission denied" in said[0]
            assert not (place / "out").exists()


def test_an_empty_argument_is_not_the_current_folder(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("identity")
    photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for arguments in (["", "-o", "out"], ["a.png", "-o", ""], ["a.png", "--out="]):
        assert run("restore", *arguments, "--model", model) == 2
        assert capsys.readouterr().err.startswith("error: an argument is empty")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_with_control_characters_is_printed_in_one_line(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = make_model("identity"), tmp_path / "in\n\x1b[31m"
    folder.mkdir()
    photo(folder / "a\nb\x1b[0m.png")
    (folder / "c\n\x1b.png").write_bytes(b"\x89PNG")
    (folder / "d.txt").touch()
    assert run("restore", folder, "-o", tmp_path / "out", "--model", model) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert "a\\nb\\x1b[0m.png -> " in said.out
    assert "\x1b" not in said.out + said.err
    starts = [line.partition(":")[0] for line in said.err.splitlines()]
    assert starts == ["note", str(model), "note", "error", "error"]
