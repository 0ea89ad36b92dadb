"""Jobs in exact tiles that are stopped and go on: no sweep that is complete is done again."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keygraph
import numpy as np
import pytest
from interruptions import heed_interruptions
from keygraph.errors import InputError
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from keygraph.runtime.journal import space
from keygraph.runtime.journal.space import folder_of
from keygraph.runtime.restore_files import restore_file
from keygraph.runtime.tiling.progress import Progress

if TYPE_CHECKING:
    from exported import ExportStore

pytest.importorskip("onnx")

OPTIONS: dict[str, Any] = {"tile": 40, "global_statistics": "exact"}


#: Runs the command line with pictures of any size kept on disk.
COMMAND = """
import sys
from keygraph.cli import main
from keygraph.runtime.journal import space

space.KEPT_PIXELS = 1
sys.exit(main(sys.argv[1:]))
"""


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="session")
def network(exports: ExportStore) -> Path:
    """A tiny Restormer."""
    pytest.importorskip("torch")
    from tiny_channel_attention import CSA

    return exports.get(CSA, "restormer").onnx


@pytest.fixture(autouse=True)
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pictures of any size on disk."""
    monkeypatch.setattr(space, "KEPT_PIXELS", 1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    images.write(path, Picture(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)))
    return path


def counted(tiles: list[int], stop_after: int | None = None) -> Progress:
    """Return a progress callback that lists how many tiles were done, and stops after so many of its own."""
    tiles.clear()

    def progress(done: int, _total: int) -> None:
        tiles.append(done)
        if len(tiles) == stop_after:
            raise Stopped

    return progress


def test_any_number_of_stops_changes_no_sample(network: Path, photo: Path) -> None:
    restorer, whole, target = keygraph.load(network), photo.with_name("whole.tif"), photo.with_name("out.tif")
    done: list[int] = []
    sweeps = restore_file(restorer, photo, whole, progress=counted(done), **OPTIONS).sweeps
    ends = [_tiles_of(restorer, photo, number) for number in range(sweeps + 1)]
    largest = max(end - start for start, end in itertools.pairwise(ends))
    moment, stops, before = random.Random(0), 0, 0
    while not target.exists():
        with contextlib.suppress(Stopped):
            restore_file(restorer, photo, target, progress=counted(done, moment.randint(3, largest + 5)), **OPTIONS)
        # It began behind the last sweep that was complete.
        assert done[0] - 1 == max(end for end in ends[:-1] if end <= before)
        before = done[-1]
        stops += not target.exists()
    assert stops > 3
    assert before == ends[-1]
    assert target.read_bytes() == whole.read_bytes()
    assert not folder_of(target).exists()


def test_it_goes_on_after_the_sweeps_that_are_complete(network: Path, photo: Path) -> None:
    restorer, target = keygraph.load(network), photo.with_name("out.tif")
    done: list[int] = []
    with pytest.raises(Stopped), pytest.warns(match="stopped at sweep 3; the same command goes on there"):
        restore_file(restorer, photo, target, progress=counted(done, _tiles_of(restorer, photo, 2) + 1), **OPTIONS)
    with pytest.warns(match="going on at sweep 3"):
        restore_file(restorer, photo, target, progress=counted(done), **OPTIONS)
    assert done[0] == _tiles_of(restorer, photo, 2) + 1


def _tiles_of(restorer: keygraph.Restorer, photo: Path, sweeps: int) -> int:
    """Return how many tiles the first sweeps have."""
    from keygraph.runtime.backends.base import exact_model
    from keygraph.runtime.tiling.exact.executor import tiles

    plan = exact_model(restorer.session).plan
    height, width = (-(-n // 8) * 8 for n in images.read(photo).pixels.shape[:2])
    return sum(len(tiles(sweep, height, width, OPTIONS["tile"], plan.stretch(sweep))) for sweep in plan.sweeps[:sweeps])


def test_damaged_maps_are_made_anew(network: Path, photo: Path) -> None:
    restorer, whole, target = keygraph.load(network), photo.with_name("whole.tif"), photo.with_name("out.tif")
    restore_file(restorer, photo, whole, **OPTIONS)
    done: list[int] = []
    with pytest.raises(Stopped), pytest.warns(match="stopped at sweep"):
        restore_file(restorer, photo, target, progress=counted(done, _tiles_of(restorer, photo, 4) + 1), **OPTIONS)
    kept = sorted(folder_of(target).glob("map-0-*"))
    assert kept
    for path in kept:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.warns(match="since what was written below it is damaged"):
        restore_file(restorer, photo, target, progress=counted(done), **OPTIONS)
    assert done[0] == 1
    assert target.read_bytes() == whole.read_bytes()


def test_a_lost_map_is_made_anew(network: Path, photo: Path) -> None:
    restorer, target = keygraph.load(network), photo.with_name("out.tif")
    done: list[int] = []
    with pytest.raises(Stopped), pytest.warns(match="stopped at sweep"):
        restore_file(restorer, photo, target, progress=counted(done, _tiles_of(restorer, photo, 4) + 1), **OPTIONS)
    for path in folder_of(target).glob("map-0-*"):
        path.unlink()
    with pytest.warns(match="damaged"):
        restore_file(restorer, photo, target, progress=counted(done), **OPTIONS)
    assert done[0] == 1


def test_other_tiles_are_refused(network: Path, photo: Path) -> None:
    target, done, restorer = photo.with_name("out.tif"), list[int](), keygraph.load(network)
    with pytest.raises(Stopped), pytest.warns(match="stopped at sweep"):
        restore_file(restorer, photo, target, progress=counted(done, _tiles_of(restorer, photo, 2) + 1), **OPTIONS)
    with pytest.raises(InputError, match="a run that was stopped at sweep 3 had tile 40"):
        restore_file(restorer, photo, target, tile=48, global_statistics="exact")


def test_maps_in_a_scratch_folder_are_not_kept(network: Path, photo: Path, tmp_path: Path) -> None:
    restorer, target, scratch = keygraph.load(network), photo.with_name("out.tif"), tmp_path / "scratch"
    scratch.mkdir()
    done: list[int] = []
    with pytest.raises(Stopped):
        restore_file(restorer, photo, target, progress=counted(done, 30), scratch=scratch, **OPTIONS)
    assert not folder_of(target).exists()
    assert not list(scratch.iterdir())


def test_a_killed_process(network: Path, photo: Path) -> None:
    """Killed in the middle, and started again by the same command."""
    restorer, whole, target = keygraph.load(network), photo.with_name("whole.png"), photo.with_name("out.png")
    restore_file(restorer, photo, whole, **OPTIONS)
    words = ["restore", str(photo), "-o", str(target), "--model", str(network), "--tile", "40"]
    command = [sys.executable, "-c", COMMAND, *words, "--global-statistics", "exact"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heed_interruptions)
    journal = folder_of(target) / "journal"
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 6):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "going on at sweep" in done.stderr
    assert target.read_bytes() == whole.read_bytes()
    assert not folder_of(target).exists()
