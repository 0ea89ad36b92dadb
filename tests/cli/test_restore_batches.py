"""Many images on the command line: subfolders, the record of results, runs that were killed or interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from interruptions import heed_interruptions
from keygraph.cli import main
from keygraph.runtime.io import cubes, images
from keygraph.runtime.io.cubes import Cube
from keygraph.runtime.io.images import Picture
from keygraph.runtime.io.input_files import InputFile
from keygraph.runtime.reports import FailedImage, Report
from keygraph.runtime.restore_files import run_jobs
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.restore_plan import plan_jobs
from keygraph.runtime.results_file import RESULTS_FILE

ModelFile = Callable[..., Path]

#: Bytes that Linux keeps in a pipe that nobody reads, at least; each line of ``--json`` has about 700.
SMALLEST_PIPE = 4096


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def photo(path: Path, seed: int = 0, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(path, Picture(np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3)).astype(np.uint8)))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three photos, two of them below, two of one name."""
    for seed, name in enumerate(("a.png", "2024/a.png", "2024/may/b.jpg")):
        photo(tmp_path / "in" / name, seed)
    return tmp_path / "in"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RESULTS_FILE).read_text().splitlines()]


def test_results_keep_the_subfolders(make_model: ModelFile, tree: Path, tmp_path: Path) -> None:
    model = make_model("identity")
    assert run("restore", tree, "-o", tree / "out", "--model", model, "--recursive") == 0
    expected = ["2024/a.png", "2024/may/b.jpg", "a.png"]
    assert files(tree / "out") == [*expected, RESULTS_FILE]
    for name in ("a.png", "2024/a.png"):
        np.testing.assert_array_equal(images.read(tree / "out" / name).pixels, images.read(tree / name).pixels)
    assert sorted(record["name"] for record in records(tree / "out")) == expected
    assert run("restore", tree, "-o", tree / "out", "--model", model, "--recursive") == 0  # Not its own results.
    assert files(tree / "out") == [*expected, RESULTS_FILE]
    assert run("restore", tree, "-o", tmp_path / "flat", "--model", model) == 0
    assert files(tmp_path / "flat") == ["a.png", RESULTS_FILE]


def test_other_inputs_are_found_by_subfolder(
    make_model: ModelFile, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of masks is below that of the images, and not searched for images."""
    from keygraph.manifest import ExtraInput

    model = make_model("masked", extra_inputs=(ExtraInput("mask", 3),))
    (tree / "2024/may/b.jpg").unlink()
    for seed, name in enumerate(("a.png", "2024/a.png")):
        pixels = np.full((16, 24, 3), 255 * seed, np.uint8)
        (tree / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        images.write(tree / "masks" / name, Picture(pixels))
    command = ["restore", tree, "--input", f"mask={tree / 'masks'}", "--recursive", "--model", model, "-o"]
    assert run(*command, tmp_path / "out") == 0
    assert files(tmp_path / "out") == ["2024/a.png", "a.png", RESULTS_FILE]
    assert images.read(tmp_path / "out" / "a.png").pixels.max() == 0
    assert images.read(tmp_path / "out" / "2024" / "a.png").pixels.max() > 200
    (tree / "masks" / "2024" / "a.png").unlink()
    assert run(*command, tmp_path / "again") == 1
    assert "holds no 2024/a.png, which" in capsys.readouterr().err
    assert files(tmp_path / "again") == ["a.png", RESULTS_FILE]
    assert not (tmp_path / "again" / "2024").exists()


def test_two_images_that_would_have_one_result(
    make_model: ModelFile, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "other" / "2024" / "a.png")
    command = ["restore", tree, tmp_path / "other", "-o", tmp_path / "out", "--model", make_model("identity")]
    assert run(*command, "--recursive") == 2
    assert "would become 2024/a.png; restore them into different folders" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_what_is_missing_or_changed_is_made(
    make_model: ModelFile, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = tmp_path / "out", make_model("identity")
    command = ["restore", tree, "-o", out, "--recursive", "--skip-existing"]

    def restored(*options: object) -> tuple[list[str], str]:
        """Run again; return the names that were restored, and what was noted."""
        capsys.readouterr()
        before = len(records(out)) if (out / RESULTS_FILE).exists() else 0
        assert run(*command, *options) == 0
        return sorted(one["name"] for one in records(out)[before:]), capsys.readouterr().err

    every = ["2024/a.png", "2024/may/b.jpg", "a.png"]
    assert restored("--model", model)[0] == every
    assert restored("--model", model, "--batch", 1, "--jobs", 1)[0] == []  # Neither changes a result.
    (out / "a.png").unlink()
    names, said = restored("--model", model)
    assert names == ["a.png"]
    assert "note: 2 results exist and are left\n" in said
    photo(tree / "2024" / "a.png", seed=9)
    names, said = restored("--model", model)
    assert names == ["2024/a.png"]
    assert "note: 2 results exist and are left; 1 result exists and is made again: input changed (1)\n" in said
    names, said = restored("--model", model, "--tile", 8, "--overlap", 0)
    assert names == every
    assert "note: 3 results exist and are made again: options changed (3)\n" in said
    # Of another model, and one of another hand: left, which is said.
    other = make_model("blur", tmp_path / "other.onnx")
    photo(out / "a.png", seed=5)
    names, said = restored("--model", other, "--tile", 8, "--overlap", 0)
    assert names == every[:2]
    assert "1 result exists and is left, 1 without a record of how they were made" in said
    assert "2 results exist and are made again: model changed (2)\n" in said
    assert images.read(out / "a.png").pixels.tobytes() == images.read(photo(tmp_path / "p.png", 5)).pixels.tobytes()


def test_what_was_left_is_told_to_programs(
    make_model: ModelFile, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["restore", tree, "-o", tmp_path / "out", "--recursive", "--model", make_model("identity"), "--json"]
    assert run(*command) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    # What is printed is what is recorded.
    recorded = {record.pop("name"): record for record in records(tmp_path / "out")}
    assert list(recorded.values()) == sorted(lines, key=lambda line: list(recorded.values()).index(line))
    (tmp_path / "out" / "a.png").unlink()
    (tree / "2024" / "may" / "b.jpg").write_bytes(b"")
    assert run(*command, "--skip-existing") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = {Path(line["source"]).name: line for line in lines if Path(line["source"]).parent != tree / "2024"}
    assert "is empty" in kinds["b.jpg"]["error"]
    assert kinds["a.png"]["target"] == str(tmp_path / "out" / "a.png")
    assert [line["skipped"] for line in lines if "skipped" in line] == ["recorded"]


def test_one_file_and_results_beside_their_images(make_model: ModelFile, tmp_path: Path) -> None:
    """One image is not recorded. A spectrum beside its picture is left, where it would not be replaced."""
    photo(tmp_path / "in" / "a.png")
    bands = make_model("bands", out_channels=6, wavelengths=tuple(400.0 + 50 * band for band in range(6)))
    command = ["restore", tmp_path / "in" / "a.png", "-o", tmp_path / "in" / "b.mat", "--model", bands]
    assert run(*command) == 0
    cubes.write(tmp_path / "in" / "b.mat", Cube(np.zeros((2, 2, 3), np.float32)))
    assert run(*command, "--skip-existing") == 0
    assert cubes.read(tmp_path / "in" / "b.mat").pixels.shape == (2, 2, 3)
    (tmp_path / "in" / "b.mat").unlink()
    assert run("restore", tmp_path / "in", "-o", tmp_path / "in", "--model", bands) == 0
    photo(tmp_path / "in" / "c.png")
    again = ["restore", tmp_path / "in", "-o", tmp_path / "in", "--model", bands]
    assert run(*again) == 2
    assert run(*again, "--skip-existing") == 0
    assert files(tmp_path / "in") == ["a.mat", "a.png", "c.mat", "c.png", RESULTS_FILE]


def test_a_record_that_leads_to_an_input_is_refused(
    make_model: ModelFile, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "empty.png").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RESULTS_FILE).symlink_to(tree / "empty.png")
    assert run("restore", tree, "-o", tmp_path / "out", "--model", make_model("identity")) == 2
    assert f"{RESULTS_FILE} is the input itself" in capsys.readouterr().err
    assert (tree / "empty.png").read_bytes() == b""


@pytest.mark.parametrize("options", [[], ["--skip-existing"]])
def test_a_file_of_another_program_stops_everything(
    make_model: ModelFile, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RESULTS_FILE).write_text('{"psnr": 30}\n')
    command = ["restore", tree, "-o", tmp_path / "out", "--recursive", "--model", make_model("identity"), *options]
    assert run(*command) == 2
    assert "is no record of results of keygraph's" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [RESULTS_FILE]


def test_the_number_of_threads_is_checked(
    make_model: ModelFile, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("restore", tree, "-o", tree / "out", "--model", make_model("identity"), "--jobs", 0) == 2
    assert "--jobs is 0; give at least 1" in capsys.readouterr().err


@contextlib.contextmanager
def blocked(command: list[object]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command whose output nobody reads, so that it stops after some images."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    arguments = [sys.executable, "-m", "keygraph", *map(str, command)]
    process = subprocess.Popen(arguments, stdout=write, stderr=subprocess.PIPE, preexec_fn=heed_interruptions)
    os.close(write)
    process.stdout = os.fdopen(read, "rb")
    try:
        yield process
    finally:
        process.stdout.close()
        process.kill()
        process.wait()


def wait_for_lines(folder: Path, count: int) -> None:
    last = time.monotonic() + 120
    while not (folder / RESULTS_FILE).exists() or (folder / RESULTS_FILE).read_bytes().count(b"\n") < count:
        assert time.monotonic() < last, "nothing was recorded"
        time.sleep(0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes of a known size")
@pytest.mark.parametrize("lines", [1, 3, 5])
def test_a_run_that_was_killed_goes_on(make_model: ModelFile, tmp_path: Path, lines: int) -> None:
    names = [f"{index:02}.png" for index in range(24)]
    for seed, name in enumerate(names):
        photo(tmp_path / "in" / name, seed, side=64)
    model, out = make_model("blur"), tmp_path / "out"
    command = ["restore", tmp_path / "in", "-o", out, "--model", model, "--skip-existing", "--json", "--jobs", 2]
    with blocked([*command]) as process:
        wait_for_lines(out, lines)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    complete = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*.png")}
    recorded = {record["name"] for record in records(out)}
    assert recorded <= complete.keys()
    assert lines <= len(recorded) < len(names)
    assert run(*command) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in complete} == complete  # Nothing was made twice.
    assert sorted([*recorded, *(names_of(records(out)) - recorded)]) == sorted(names_of(records(out)))
    assert len(records(out)) == len(names) - len(complete.keys() - recorded)
    assert run("restore", tmp_path / "in", "-o", tmp_path / "whole", "--model", model) == 0
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def names_of(recorded: list[dict[str, Any]]) -> set[str]:
    return {record["name"] for record in recorded}


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes of a known size")
def test_an_interrupted_run_leaves_whole_files_and_says_how_many(make_model: ModelFile, tmp_path: Path) -> None:
    for seed in range(24):
        photo(tmp_path / "in" / f"{seed:02}.png", seed, side=64)
    out = tmp_path / "out"
    with blocked(["restore", tmp_path / "in", "-o", out, "--model", make_model("blur"), "--json"]) as process:
        wait_for_lines(out, 3)
        process.send_signal(signal.SIGINT)
        # Its output is read now: a signal that comes just before the process waits for its reader does not wake it.
        said = process.communicate(timeout=120)[1].decode()
        assert process.returncode == 130
    done = records(out)
    assert 3 <= len(done) < 24
    assert f"note: {len(done)} of 24 images were restored before the interruption; --skip-existing leaves them" in said
    assert said.rstrip().endswith("error: interrupted")
    assert sorted(path.name for path in out.iterdir()) == sorted([*names_of(done), RESULTS_FILE])
    for record in done:
        assert images.read(record["target"]).pixels.shape == (64, 72, 3)


def jobs_of(folder: Path, out: Path, restorer: Any) -> Any:
    given = [InputFile(path) for path in sorted(folder.iterdir())]
    return plan_jobs(restorer, given, {}, out, RestoreOptions(), into_folder=True).jobs


def test_an_interruption_while_an_image_is_computed(make_model: ModelFile, tmp_path: Path) -> None:
    for seed in range(6):
        photo(tmp_path / "in" / f"{seed}.png", seed)
    restorer = keygraph.load(make_model("identity"))

    @contextlib.contextmanager
    def progress(name: str) -> Iterator[Callable[[int, int], None]]:
        def interrupt(_done: int, _total: int) -> None:
            if name == "3.png":
                raise KeyboardInterrupt

        yield interrupt

    reports: list[Report | FailedImage] = []
    jobs = jobs_of(tmp_path / "in", tmp_path / "out", restorer)

    with pytest.raises(KeyboardInterrupt):
        reports.extend(run_jobs(restorer, jobs, progress))
    assert [Path(report.source).name for report in reports] == ["0.png", "1.png", "2.png"]
    assert files(tmp_path / "out") == ["0.png", "1.png", "2.png"]


def test_pictures_are_decoded_and_encoded_in_other_threads(
    make_model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the second image is computed, the third is decoded and the first is written."""
    from keygraph.runtime.io import input_files, output_files

    for seed in range(4):
        photo(tmp_path / "in" / f"{seed}.png", seed)
    restorer = keygraph.load(make_model("identity"))
    decoded, written = threading.Event(), threading.Event()
    threads: dict[str, set[str]] = {"decode": set(), "encode": set(), "compute": set()}
    read, write, compute = input_files.InputHeader.read, output_files.write, restorer.session.run

    def decode(header: Any) -> Any:
        threads["decode"].add(threading.current_thread().name)
        picture = read(header)
        if header.file.path.name == "2.png":
            decoded.set()
        return picture

    def encode(path: Path, *arguments: Any, **options: Any) -> Any:
        threads["encode"].add(threading.current_thread().name)
        lost = write(path, *arguments, **options)
        if path.name == "0.png":
            written.set()
        return lost

    def session_run(*arguments: Any) -> Any:
        threads["compute"].add(threading.current_thread().name)
        if len(computed) == 1:
            assert decoded.wait(60)
            assert written.wait(60)
        computed.append(1)
        return compute(*arguments)

    computed: list[int] = []
    monkeypatch.setattr(input_files.InputHeader, "read", decode)
    monkeypatch.setattr(output_files, "write", encode)
    monkeypatch.setattr(restorer.session, "run", session_run)
    results = list(run_jobs(restorer, jobs_of(tmp_path / "in", tmp_path / "out", restorer)))
    assert [Path(result.source).name for result in results] == ["0.png", "1.png", "2.png", "3.png"]
    assert all(isinstance(result, Report) for result in results)
    assert threads["compute"] == {threading.current_thread().name}
    assert threads["compute"].isdisjoint(threads["decode"] | threads["encode"])


def test_bars_on_a_terminal_and_results_in_a_pipe(make_model: ModelFile, tree: Path, tmp_path: Path) -> None:
    command = ["restore", tree, "-o", tmp_path / "out", "--recursive", "--model", make_model("identity")]
    terminal, stderr = pty.openpty()
    arguments = [sys.executable, "-m", "keygraph", *map(str, command)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=stderr) as process:
        os.close(stderr)
        shown = b""
        with contextlib.suppress(OSError):  # At the end.
            while chunk := os.read(terminal, 1 << 16):
                shown += chunk
        assert process.stdout is not None
        lines = process.stdout.read().decode().splitlines()
        assert process.wait() == 0
    os.close(terminal)
    assert b"images" in shown
    assert b"3/3" in shown
    assert [line.partition(" -> ")[0] for line in lines] == [str(tree / name) for name in IN_ORDER]


#: The images of `tree` in the order in which they are restored.
IN_ORDER = ("a.png", "2024/a.png", "2024/may/b.jpg")
