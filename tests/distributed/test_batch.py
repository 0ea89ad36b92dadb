"""`keygraph batch` with a real Ray on this machine, against `keygraph restore`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import psutil
import pytest
from batch_folders import comparable, each_once, files, killing, noise, records, run, write_images
from keygraph.errors import KeygraphError
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from keygraph.runtime.journal import space
from keygraph.runtime.journal.space import folder_of
from keygraph.runtime.restore_files import restore_file

ModelFile = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_folder_is_restored_as_by_restore(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 23)
    write_images(tmp_path / "in/below", 1)
    (tmp_path / "in/cut.png").write_bytes((tmp_path / "in/000.png").read_bytes()[:900])
    (tmp_path / "in/empty.png").touch()
    arguments = [tmp_path / "in", "--model", make_model("blur"), "--recursive", "--tile", "32", "--overlap", "8"]
    assert run("restore", *arguments, "-o", tmp_path / "local") == 1
    local = capsys.readouterr().err
    assert run("batch", *arguments, "-o", tmp_path / "many", "--workers", "2", "--json") == 1
    many = capsys.readouterr()
    assert files(tmp_path / "many") == files(tmp_path / "local")
    assert comparable(tmp_path / "many") == comparable(tmp_path / "local")
    assert each_once(tmp_path / "many")
    said = [line for line in local.splitlines() if line.startswith("error: ")]
    assert [line for line in many.err.splitlines() if line.startswith("error: ")] == said
    assert len(said) == 3
    assert len([json.loads(line) for line in many.out.splitlines()]) == 26
    # Nothing is left to do: the results of one command are those of the other.
    (tmp_path / "in/cut.png").unlink()
    (tmp_path / "in/empty.png").unlink()
    before = files(tmp_path / "local"), records(tmp_path / "local")
    assert run("batch", *arguments, "-o", tmp_path / "local", "--workers", "1", "--skip-existing") == 0
    assert (files(tmp_path / "local"), records(tmp_path / "local")) == before
    assert "24 results exist and are left\n" in capsys.readouterr().err


def test_what_a_killed_worker_was_doing_is_repeated(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 60)
    model = make_model("blur")
    assert run("restore", tmp_path / "in", "--model", model, "-o", tmp_path / "local") == 0
    with killing(tmp_path / "many", [5, 20], psutil.Process()) as killed:
        assert run("batch", tmp_path / "in", "--model", model, "-o", tmp_path / "many", "--workers", "2") == 0
    assert killed
    visible = {name: content for name, content in files(tmp_path / "many").items() if not name.startswith(".")}
    assert visible == files(tmp_path / "local")
    assert each_once(tmp_path / "many")
    assert comparable(tmp_path / "many") == comparable(tmp_path / "local")
    assert "note: a worker died; it is started again" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".tif"])
def test_a_large_picture_is_restored_by_all_workers_and_goes_on(
    make_model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    from keygraph.distributed.run import opened, run_jobs
    from keygraph.runtime.io.input_files import InputFile
    from keygraph.runtime.restore_options import RestoreOptions
    from keygraph.runtime.restore_plan import plan_jobs

    monkeypatch.setattr(space, "KEPT_PIXELS", 1)
    monkeypatch.chdir(tmp_path)
    model = make_model("blur")
    images.write(tmp_path / "in.png", Picture(noise(330, 270)))
    options: dict[str, Any] = {"tile": 32, "overlap": 8, "batch": 3}
    restore_file(keygraph.load(model), "in.png", f"whole{suffix}", **options)
    target = Path(f"out{suffix}")
    notices: list[str] = []
    with opened(model, "local", notices.append, workers=2) as (restorer, workers):
        submitted: list[int] = []
        submit = workers.submit

        def counted(method: str, *arguments: Any) -> Any:
            if method == "restore_part":
                submitted.append(arguments[4])
            return submit(method, *arguments)

        monkeypatch.setattr(workers, "submit", counted)
        plan = plan_jobs(restorer, [InputFile(Path("in.png"))], {}, target, RestoreOptions(**options))

        def restore(stop_at: int) -> None:
            def progress(done: int, _total: int) -> None:
                if done >= stop_at:
                    raise KeygraphError("stopped")

            jobs = run_jobs(
                restorer,
                workers,
                plan.jobs,
                lambda _name: contextlib.nullcontext(progress),
                fail_fast=True,
                notice=notices.append,
                finished=lambda _report: None,
            )
            list(jobs)

        with pytest.raises(KeygraphError, match="stopped"):
            restore(80)
        assert folder_of(target).exists()
        kept = set(submitted)
        assert len(kept) > 3
        # The same job may go on with `restore`, too.
        shutil.copytree(folder_of(target), folder_of(Path(f"other{suffix}")))
        submitted.clear()
        restore(10**6)
        # Parts that were recorded before the stop are not restored again; the few in flight are.
        repeated = kept & set(submitted)
        assert len(repeated) <= workers.most_calls
        assert len(repeated) < len(kept)
    assert target.read_bytes() == Path(f"whole{suffix}").read_bytes()
    assert not folder_of(target).exists()
    assert any("going on at row" in line for line in notices)
    restore_file(keygraph.load(model), "in.png", f"other{suffix}", **options)
    assert Path(f"other{suffix}").read_bytes() == Path(f"whole{suffix}").read_bytes()
    assert not folder_of(Path(f"other{suffix}")).exists()


def test_an_error_of_the_model_is_that_of_restore(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", 1)
    (tmp_path / "broken.onnx").write_bytes(make_model("identity").read_bytes()[:200])
    said = []
    for command in ("restore", "batch"):
        assert run(command, tmp_path / "in", "-o", tmp_path / "out", "--model", tmp_path / "broken.onnx") == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path / "in") == ["000.png"]
