"""The record of a folder of results: whole lines, whatever happened to the last one, and never another file's."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import keygraph
import pytest
from keygraph.errors import DiskFullError, InputError
from keygraph.runtime.earlier_results import EarlierResults, Existing
from keygraph.runtime.io.encoding import Encoding
from keygraph.runtime.reports import FailedImage, FileState, Report, file_states
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.results_file import RESULTS_FILE, Recipe, ResultsFile

RECIPE = Recipe("5a", "ONNX Runtime", {"k": 8, "tile": "auto"})
READ = {"image": (FileState(100, 7),)}


def report(target: Path, **changes: Any) -> Report:
    """Return a report about a result, which is written."""
    target.write_bytes(b"result")
    values: dict[str, Any] = {"source": "a.png", "target": str(target), "height": 2, "width": 3, "k": 8, "tiles": 1}
    values |= {"tile": (2, 3), "overlap": 0, "batch": 1, "padded": False, "sweeps": 0, "seconds": 0.1, "engine": "e"}
    return Report(**values, notices=(), read=READ, written=file_states([target]), **changes)


def record(folder: Path, *results: Report | FailedImage, recipe: Recipe = RECIPE) -> None:
    with closing(ResultsFile(folder, recipe)) as file:
        for result in results:
            file.append(result)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RESULTS_FILE).read_text().splitlines()]


def test_lines_are_appended(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    record(tmp_path, report(tmp_path / "sub" / "a.png"))
    record(tmp_path, FailedImage("b.png", "b.png is empty"), replace(report(tmp_path / "c.png"), k=9))
    assert [line.get("name") for line in lines(tmp_path)] == ["sub/a.png", None, "c.png"]
    first, failed, last = lines(tmp_path)
    assert first["written"] == [{"bytes": 6, "modified": (tmp_path / "sub" / "a.png").stat().st_mtime_ns}]
    assert first["read"] == {"image": [{"bytes": 100, "modified": 7}]}
    assert (first["model"], first["options"]) == ("5a", {"k": 8, "tile": "auto"})
    assert failed["error"] == "b.png is empty"
    assert last["k"] == 9


def test_threads_append_whole_lines(tmp_path: Path) -> None:
    one = report(tmp_path / "a.png")
    with closing(ResultsFile(tmp_path, RECIPE)) as file:

        def append(k: int) -> None:
            for _ in range(50):
                file.append(replace(one, k=k))

        threads = [threading.Thread(target=append, args=[k]) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(line["k"] for line in lines(tmp_path)) == sorted([*range(8)] * 50)


@pytest.mark.parametrize("length", [1, 12, 13, 300, 100_000])
def test_a_torn_last_line_is_removed(tmp_path: Path, length: int) -> None:
    """Also one that is longer than what is read at a time."""
    record(tmp_path, report(tmp_path / "a.png"))
    whole = (tmp_path / RESULTS_FILE).read_bytes()
    (tmp_path / RESULTS_FILE).write_bytes(whole + (b'{"source": "' + b"x" * 100_000)[:length])
    assert EarlierResults(tmp_path, RECIPE).find(tmp_path / "a.png", READ) == Existing(True)
    record(tmp_path, report(tmp_path / "b.png"))
    assert [line["name"] for line in lines(tmp_path)] == ["a.png", "b.png"]
    assert (tmp_path / RESULTS_FILE).read_bytes().startswith(whole)


@pytest.mark.parametrize("content", [b"x", b'{"seed": 1}\n', b"name,psnr\na,30\n"])
def test_a_file_of_another_program_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RESULTS_FILE).write_bytes(content)
    for use in (ResultsFile, EarlierResults):
        with pytest.raises(InputError, match="is no record of results of keygraph's"):
            use(tmp_path, RECIPE)
    assert (tmp_path / RESULTS_FILE).read_bytes() == content
    (tmp_path / RESULTS_FILE).unlink()
    (tmp_path / RESULTS_FILE).mkdir()
    with pytest.raises(InputError, match="is no regular file"):
        ResultsFile(tmp_path, RECIPE)


def test_a_line_that_the_disk_does_not_take_leaves_nothing(tmp_path: Path) -> None:
    """A real limit of the process stands for the disk's."""
    import resource
    import signal

    one = report(tmp_path / "a.png")
    record(tmp_path, one)
    before = (tmp_path / RESULTS_FILE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*results\.jsonl: File too large"):
            record(tmp_path, one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / RESULTS_FILE).read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_failure_that_a_full_disk_does_not_record_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = report(tmp_path / "a.png")
    with closing(ResultsFile(tmp_path, RECIPE)) as file, open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(file, "_file", full)
        file.append(FailedImage("b.png", "b.png is empty"))
        with pytest.raises(DiskFullError, match="No space left on device"):
            file.append(one)


def test_what_has_changed_is_told(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    assert EarlierResults(tmp_path / "new", RECIPE).find(target, READ) is None
    target.write_bytes(b"somebody's")
    assert EarlierResults(tmp_path, RECIPE).find(target, READ) == Existing(False)
    record(tmp_path, report(target))
    for recipe, read, changed in (
        (RECIPE, READ, ()),
        (replace(RECIPE, model="5b"), READ, ("model",)),
        (replace(RECIPE, engine="OpenVINO", options={"k": 9}), READ, ("options", "engine")),
        (RECIPE, {"image": (FileState(100, 8),)}, ("input",)),
        (RECIPE, {"image:2": READ["image"]}, ("input",)),
        (RECIPE, READ | {"mask": (FileState(5, 5),)}, ("input",)),
    ):
        assert EarlierResults(tmp_path, recipe).find(target, read) == Existing(True, changed)
    record(tmp_path, report(target), recipe=replace(RECIPE, model="5b"))  # The last line counts.
    assert EarlierResults(tmp_path, RECIPE).find(target, READ) == Existing(True, ("model",))
    target.write_bytes(b"retouched")
    assert EarlierResults(tmp_path, RECIPE).find(target, READ) == Existing(False)


def test_a_header_without_its_samples_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "a.hdr").write_text("ENVI")
    assert EarlierResults(tmp_path, RECIPE).find(tmp_path / "a.hdr", READ) is None
    (tmp_path / "a.img").write_bytes(bytes(8))
    assert EarlierResults(tmp_path, RECIPE).find(tmp_path / "a.hdr", READ) == Existing(False)


def test_a_folder_changes_with_any_file_below_it(tmp_path: Path) -> None:
    (tmp_path / "cells.zarr" / "0").mkdir(parents=True)
    (tmp_path / "cells.zarr" / "0" / "0.0").write_bytes(bytes(10))
    (tmp_path / "cells.zarr" / "zarr.json").write_bytes(bytes(5))
    (before,) = file_states([tmp_path / "cells.zarr", tmp_path / "absent"])
    assert before.bytes == 15
    (tmp_path / "cells.zarr" / "0" / "0.0").write_bytes(bytes(11))
    assert file_states([tmp_path / "cells.zarr"]) != (before,)


def test_the_recipe_is_of_the_model_and_of_what_changes_results(make_model: Any, tmp_path: Path) -> None:
    model = make_model("identity")
    restorer = keygraph.load(model)
    first = Recipe.of(restorer, RestoreOptions(tile=32))
    assert Recipe.of(restorer, RestoreOptions(tile=32, batch=2, scratch="/tmp")) == first
    assert Recipe.of(restorer, RestoreOptions(tile=64)).options != first.options
    smaller = Recipe.of(restorer, RestoreOptions(tile=32), Encoding("deflate"))
    assert smaller.options == {**first.options, "compression": "deflate", "pyramid": False}
    other = make_model("blur", tmp_path / "other.onnx")
    assert Recipe.of(keygraph.load(other), RestoreOptions(tile=32)).model != first.model
    assert keygraph.load(other).manifest == restorer.manifest  # Told apart by the file alone.
