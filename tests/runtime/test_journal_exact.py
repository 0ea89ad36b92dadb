"""Jobs in exact tiles that are stopped and go on: no sweep that is complete is done again."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
from small_models import manifest_for

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


class Counter:
    """A progress callback that lists the numbers of done tiles, and stops when that number is reached."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.done: list[int] = []
        self._stop_at = stop_at

    def __call__(self, done: int, total: int) -> None:
        self.done.append(done)
        if done == self._stop_at:
            raise Stopped


def tiles_of(restorer: keygraph.Restorer, photo: Path, sweeps: int) -> int:
    """Return how many tiles the first sweeps have."""
    from keygraph.runtime.backends.base import exact_model
    from keygraph.runtime.tiling.exact.executor import tiles

    plan = exact_model(restorer.session).plan
    height, width = (-(-n // 8) * 8 for n in images.read(photo).pixels.shape[:2])
    return sum(len(tiles(sweep, height, width, OPTIONS["tile"], plan.stretch(sweep))) for sweep in plan.sweeps[:sweeps])


def stop_in_sweep(restorer: keygraph.Restorer, photo: Path, target: Path, number: int) -> None:
    """Restore until a tile of a sweep is done; sweeps are counted from 1."""
    before = tiles_of(restorer, photo, number - 1)
    with pytest.raises(Stopped), pytest.warns(match=f"stopped at sweep {number}; the same command goes on there"):
        restore_file(restorer, photo, target, progress=Counter(before + 1), **OPTIONS)


def test_any_number_of_stops_changes_no_sample(network: Path, photo: Path) -> None:
    restorer, whole, target = keygraph.load(network), photo.with_name("whole.tif"), photo.with_name("out.tif")
    sweeps = restore_file(restorer, photo, whole, **OPTIONS).sweeps
    ends = [tiles_of(restorer, photo, number) for number in range(sweeps + 1)]
    largest = max(end - start for start, end in itertools.pairwise(ends))
    moment, stops, before = random.Random(0), 0, 0
    while not target.exists():
        begin = max(end for end in ends[:-1] if end <= before)  # Behind the last sweep that was complete.
        counter = Counter(begin + moment.randint(3, largest + 5))
        with contextlib.suppress(Stopped):
            restore_file(restorer, photo, target, progress=counter, **OPTIONS)
        assert counter.done[0] == begin + 1
        before = counter.done[-1]
        stops += not target.exists()
    assert stops > 3
    assert before == ends[-1]
    assert target.read_bytes() == whole.read_bytes()
    assert not folder_of(target).exists()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink])
def test_damaged_maps_are_made_anew(network: Path, photo: Path, damage: Callable[[Path], None]) -> None:
    """Also when the run that makes them anew is stopped, too: the journal has the records of both."""
    restorer, whole, target = keygraph.load(network), photo.with_name("whole.tif"), photo.with_name("out.tif")
    restore_file(restorer, photo, whole, **OPTIONS)
    stop_in_sweep(restorer, photo, target, 5)
    kept = list(folder_of(target).glob("map-0-*"))
    assert kept
    for path in kept:
        damage(path)
    anew = Counter(tiles_of(restorer, photo, 2) + 1)
    with pytest.raises(Stopped), pytest.warns(match="since what was written below it is damaged"):
        restore_file(restorer, photo, target, progress=anew, **OPTIONS)
    assert anew.done[0] == 1
    after = Counter()
    with pytest.warns(match="going on at sweep 3"):
        restore_file(restorer, photo, target, progress=after, **OPTIONS)
    assert after.done[0] == tiles_of(restorer, photo, 2) + 1
    assert target.read_bytes() == whole.read_bytes()


def test_channels_that_are_restored_one_by_one(photo: Path) -> None:
    """A network for gray pictures, so that each channel is an image of its own: its sweeps are counted on."""
    model = photo.with_name("gray.onnx")
    write_gray_network(model)
    restorer, whole, target = keygraph.load(model), photo.with_name("whole.tif"), photo.with_name("out.tif")
    everything = Counter()
    assert restore_file(restorer, photo, whole, progress=everything, **OPTIONS).sweeps == 2
    total = everything.done[-1]
    for number in range(1, total):
        with contextlib.suppress(Stopped):
            restore_file(restorer, photo, target, progress=Counter(number), **OPTIONS)
    assert not target.exists()
    last = Counter()
    with pytest.warns(match="going on at sweep"):
        restore_file(restorer, photo, target, progress=last, **OPTIONS)
    # Both sweeps of the first two channels, and the first of the third.
    assert last.done[0] > total * 2 // 3 + 1
    assert target.read_bytes() == whole.read_bytes()
    assert not folder_of(target).exists()


def write_gray_network(path: Path) -> None:
    """Write a network for gray pictures that takes the mean of all pixels away, and half of what is left."""
    import onnx
    from keygraph.manifest import IMAGE_INPUT, IMAGE_OUTPUT, METADATA_KEY
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", [IMAGE_INPUT, "axes"], ["mean"]),
        helper.make_node("Sub", [IMAGE_INPUT, "mean"], ["difference"]),
        helper.make_node("Mul", ["difference", "half"], [IMAGE_OUTPUT]),
    ]
    constants = {"axes": np.array([2, 3]), "half": np.array(0.5, np.float32)}
    graph = helper.make_graph(
        nodes,
        "gray",
        [helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.FLOAT, ["batch", 1, "height", "width"])],
        [helper.make_tensor_value_info(IMAGE_OUTPUT, TensorProto.FLOAT, ["batch", 1, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    manifest = manifest_for(in_channels=1, out_channels=1, global_statistics=True)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, path)


def test_other_tiles_are_refused(network: Path, photo: Path) -> None:
    target, restorer = photo.with_name("out.tif"), keygraph.load(network)
    stop_in_sweep(restorer, photo, target, 3)
    with pytest.raises(InputError, match="a run that was stopped at sweep 3 had tile 40"):
        restore_file(restorer, photo, target, tile=48, global_statistics="exact")


def test_maps_in_a_scratch_folder_are_not_kept(network: Path, photo: Path, tmp_path: Path) -> None:
    restorer, target, scratch = keygraph.load(network), photo.with_name("out.tif"), tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(Stopped):
        restore_file(restorer, photo, target, progress=Counter(30), scratch=scratch, **OPTIONS)
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
