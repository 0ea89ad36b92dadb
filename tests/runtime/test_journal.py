"""Jobs that are stopped and go on: the result is that of an uninterrupted run, bit by bit."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interruptions import heed_interruptions
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.runtime import restore_in_files
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.errors import SessionMemoryError
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from keygraph.runtime.io.regions import ArrayWriter
from keygraph.runtime.journal import space
from keygraph.runtime.journal.job_folder import JobFolder
from keygraph.runtime.journal.record_file import RecordFile
from keygraph.runtime.journal.space import folder_of
from keygraph.runtime.preprocess.request import make_request
from keygraph.runtime.restore_files import restore_file
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.restorer import Restorer
from keygraph.runtime.tiling.blend import Plan, cut

ModelFile = Callable[..., Path]

#: Runs the command line with pictures of any size kept on disk. Each tile takes a moment and adds a byte to a file.
COMMAND = """
import sys, time
from pathlib import Path
from keygraph.cli import main
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.journal import space

space.KEPT_PIXELS = 1
run = OnnxRuntimeSession.run

def counted(self, images, k, *extras):
    time.sleep(0.004)
    with open("runs", "ab") as file:
        file.write(bytes(len(images)))
    return run(self, images, k, *extras)

OnnxRuntimeSession.run = counted
sys.exit(main(sys.argv[1:]))
"""


class Stopped(Exception):
    """Stands for whatever ends a process."""


def noise(height: int, width: int, channels: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pictures of any size on disk."""
    monkeypatch.setattr(space, "KEPT_PIXELS", 1)


@contextlib.contextmanager
def stopping(restorer: Restorer, runs: int, error: type[BaseException] = Stopped) -> Iterator[list[int]]:
    """Let a restorer's session run that often, then raise; yield a list of the images in each run."""
    session, done = restorer.session, list[int]()

    class Stopping:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def run(self, images: Any, *rest: Any) -> Any:
            if len(done) == runs:
                raise error
            done.append(len(images))
            return session.run(images, *rest)

    restorer.session = Stopping()
    try:
        yield done
    finally:
        restorer.session = session


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, "restore", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed_interruptions)


def records(target: Path) -> int:
    """Return how many records the journal of a result has."""
    with contextlib.suppress(OSError):
        return (folder_of(target) / "journal").read_bytes().count(b"\n")
    return 0


@pytest.mark.parametrize(("kind", "scale", "suffix", "batch"), [("blur", 1, ".tif", "1"), ("nearest", 2, ".png", "3")])
def test_a_job_killed_at_random_moments_ends_as_an_uninterrupted_one(
    make_model: ModelFile, tmp_path: Path, kind: str, scale: int, suffix: str, batch: str
) -> None:
    model = make_model(kind, scale=scale)
    images.write(tmp_path / "in.png", Picture(noise(330, 270), noise(330, 270, 1)[:, :, 0]))
    whole = tmp_path / f"whole{suffix}"
    restore_file(keygraph.load(model), tmp_path / "in.png", whole, tile=32, overlap=8, batch=int(batch))
    arguments = ["in.png", "--model", str(model), "--tile", "32", "--overlap", "8", "--batch", batch]
    target = tmp_path / f"out{suffix}"
    moment, said = random.Random(0), ""
    tiles = len(Plan(cut(330, 32, 8, 8), cut(270, 32, 8, 8)).tiles)
    kills = 0
    while True:
        process, limit = start(tmp_path, *arguments, "-o", target.name), records(target) + moment.randint(50, 75)
        while process.poll() is None and records(target) < limit:
            time.sleep(0.001)
        if process.poll() is None:
            time.sleep(moment.random() / 100)
            process.send_signal(signal.SIGKILL)
            kills += 1
        said = process.communicate()[1]
        if process.returncode != -signal.SIGKILL:
            break
    assert (process.returncode, kills > 1) == (0, True), said
    assert "note: in.png: going on at row " in said
    assert target.read_bytes() == whole.read_bytes()
    assert not folder_of(target).exists()
    repeated = (tmp_path / "runs").stat().st_size - tiles
    assert 0 <= repeated <= int(batch) * kills


@settings(max_examples=15)
@given(
    size=st.tuples(st.integers(20, 150), st.integers(20, 150)),
    tile=st.sampled_from([16, 32, 64]),
    overlap=st.sampled_from([0, 8, 16, 32]),
    batch=st.integers(1, 5),
    scale=st.sampled_from([1, 2]),
    stops=st.lists(st.integers(0, 20), max_size=4),
)
def test_any_tiles_go_on(
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int],
    tile: int,
    overlap: int,
    batch: int,
    scale: int,
    stops: list[int],
) -> None:
    from small_models import manifest_for, model_bytes

    folder = tmp_path_factory.mktemp("job")
    manifest = manifest_for(scale=scale)
    (folder / "model.onnx").write_bytes(model_bytes("nearest", manifest))
    restorer = keygraph.load(folder / "model.onnx")
    request = make_request(manifest, noise(*size))
    options = RestoreOptions(tile=tile, overlap=min(overlap, tile // 2), batch=batch)
    whole = np.empty((size[0] * scale, size[1] * scale, 3), np.uint8)
    with stopping(restorer, 10_000) as all_runs:
        restorer.restore_request(request, ArrayWriter(whole), options)
    runs = 0
    for allowed in [*stops, 10_000]:
        job = JobFolder(folder / "out.tif", {}, (whole.shape[0], whole.shape[1], 3), whole.dtype, scale)
        with contextlib.closing(job), contextlib.suppress(Stopped), stopping(restorer, allowed) as done:
            restorer.restore_request(request, job, options, checkpoint=job)
            np.testing.assert_array_equal(job.result.read(0, 0, *whole.shape[:2]), whole)
        runs += sum(done)
    assert runs == sum(all_runs)


def test_tiles_that_three_rows_share_are_kept() -> None:
    """Evenly spread rows of tiles may overlap by more than half a tile."""
    rows = cut(264, 128, 64, 4)
    assert rows.origins == (0, 44, 88, 136)
    assert [rows.first_overlapping(row) for row in range(4)] == [0, 0, 0, 1]
    assert Plan(rows, cut(500, 128, 0, 4)).needed == 3 * 4
    assert [cut(512, 128, 0, 4).first_overlapping(row) for row in range(4)] == [0, 1, 2, 3]


class Job:
    """A job that has been stopped half-way, and what an uninterrupted run gives."""

    def __init__(self, model: Path, folder: Path, options: dict[str, Any] | None = None) -> None:
        self.folder, self.model = folder, model
        self.image, self.target = folder / "in.png", folder / "out.tif"
        self.options = {"tile": 32, "overlap": 8, "batch": 2, **(options or {})}
        images.write(self.image, Picture(noise(200, 130)))
        self.whole = folder / "whole.tif"
        restore_file(keygraph.load(model), self.image, self.whole, **self.options)
        restorer = keygraph.load(model)
        told = pytest.warns(match=r"stopped at row \d+ of 200; the same command goes on there")
        with stopping(restorer, 15), told, pytest.raises(Stopped):
            restore_file(restorer, self.image, self.target, **self.options)

    def go_on(self, **changes: Any) -> int:
        """Go on with the job, compare its result, and return how many runs it took."""
        restorer = keygraph.load(changes.pop("model", self.model))
        with stopping(restorer, 10_000) as done, pytest.warns(match=r"in.png: going on at row \d+ of 200"):
            restore_file(restorer, self.image, self.target, **{**self.options, **changes})
        assert self.target.read_bytes() == self.whole.read_bytes()
        assert not folder_of(self.target).exists()
        return len(done)


@pytest.fixture
def job(make_model: ModelFile, tmp_path: Path, keep_all: None) -> Job:
    return Job(make_model("blur"), tmp_path)


def test_what_is_done_is_not_done_again(job: Job) -> None:
    plan = Plan(cut(200, 32, 8, 8), cut(130, 32, 8, 8))
    assert job.go_on() == -(-len(plan.tiles) // 2) - 15


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_computed_again(job: Job, seed: int) -> None:
    """A journal that ends in the middle of a line, as after a power failure, and samples and tiles that were lost."""
    chance, folder = random.Random(seed), folder_of(job.target)
    for name in ("journal", "result", "tiles"):
        file = folder / name
        if chance.random() < 0.7:
            content = bytearray(file.read_bytes())
            if chance.random() < 0.5:
                del content[chance.randrange(200 if name == "journal" else 0, len(content)) :]
            else:
                content[chance.randrange(900 if name == "journal" else 0, len(content))] ^= 0x10
            file.write_bytes(content)
    job.go_on()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 64}, r"had tile 32 \(now 64\)"),
        ({"tile": 64, "batch": None}, r"had tile 32 \(now 64\) and batch 2 \(now None\)"),
        ({"overlap": 16}, r"had overlap 8 \(now 16\)"),
    ],
)
def test_other_options_are_refused(job: Job, change: dict[str, Any], message: str) -> None:
    restorer = keygraph.load(job.model)
    advice = "; give the command of that run to go on, or begin anew after: rm -r /.*partial"
    with pytest.raises(InputError, match=r"stopped at row \d+ of 200 " + message + advice):
        restore_file(restorer, job.image, job.target, **{**job.options, **change})
    with pytest.raises(InputError, match="a run with other options was stopped, or is still at work" + advice):
        restore_file(restorer, job.image, job.target, tile="none")
    job.go_on()


def test_other_models_images_and_versions_are_refused(
    job: Job, make_model: ModelFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(model: Path, image: Path, message: str) -> None:
        with pytest.raises(InputError, match=message):
            restore_file(keygraph.load(model), image, job.target, **job.options)

    refused(make_model("identity"), job.image, "had another model; give")
    refused(make_model("blur", tmp_path / "b.onnx", weights_sha256="1" * 64), job.image, "had another model; give")
    images.write(tmp_path / "b.png", Picture(255 - noise(200, 130)))
    refused(job.model, tmp_path / "b.png", "had another image; give")
    with monkeypatch.context() as patch:
        patch.setattr(restore_in_files, "version", lambda: "99.0")
        refused(job.model, job.image, r"had version of keygraph '.*' \(now '99.0'\)")
    job.model.rename(tmp_path / "moved.onnx")  # The same content under another name is the same model.
    job.go_on(model=tmp_path / "moved.onnx")


def test_a_run_that_was_killed_before_its_first_tile_binds_nobody(
    make_model: ModelFile, tmp_path: Path, keep_all: None
) -> None:
    images.write(tmp_path / "in.png", Picture(noise(200, 130)))
    model, target = make_model("blur"), tmp_path / "out.tif"
    process = start(tmp_path, "in.png", "-o", target.name, "--model", str(model), "--tile", "32", "--batch", "100")
    while process.poll() is None and records(target) < 1:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert folder_of(target).exists()
    restore_file(keygraph.load(model), tmp_path / "in.png", target, tile=64)
    assert not folder_of(target).exists()


def test_plain_tiles_of_networks_with_global_statistics_are_kept(
    make_model: ModelFile, tmp_path: Path, keep_all: None
) -> None:
    restorer = keygraph.load(make_model("blur", global_statistics=True))
    source, target = tmp_path / "in.png", tmp_path / "out.tif"
    images.write(source, Picture(noise(200, 130)))
    with stopping(restorer, 4), pytest.raises(Stopped), pytest.warns(match="stopped at row"):
        restore_file(restorer, source, target, tile=32, batch=1, global_statistics="tile")
    with pytest.raises(InputError, match="had global statistics 'tile'"):
        restore_file(restorer, source, target, tile=32, batch=1, global_statistics="exact")
    with pytest.warns(match="going on at row"):
        assert restore_file(restorer, source, target, tile=32, batch=1, global_statistics="tile").sweeps == 0


def test_after_the_folder_is_removed_a_job_begins_anew(job: Job, make_model: ModelFile) -> None:
    import shutil

    shutil.rmtree(folder_of(job.target))
    report = restore_file(keygraph.load(make_model("identity")), job.image, job.target, **job.options)
    assert report.tiles > 10
    np.testing.assert_array_equal(images.read(job.target).pixels, noise(200, 130))


def test_two_processes_do_not_write_one_result(make_model: ModelFile, tmp_path: Path, keep_all: None) -> None:
    model = make_model("blur")
    images.write(tmp_path / "in.png", Picture(noise(330, 270)))
    arguments = ["in.png", "-o", "out.tif", "--model", str(model), "--tile", "32", "--overlap", "8"]
    with start(tmp_path, *arguments, "--batch", "1") as process:
        while process.poll() is None and records(tmp_path / "out.tif") < 3:
            time.sleep(0.001)
        with pytest.raises(InputError, match="is being restored by another process; wait"):
            restore_file(keygraph.load(model), tmp_path / "in.png", tmp_path / "out.tif", tile=32, overlap=8, batch=1)
        assert process.wait() == 0
    assert (tmp_path / "out.tif").exists()


def test_an_interrupt_says_how_to_go_on(make_model: ModelFile, tmp_path: Path) -> None:
    model = make_model("blur")
    images.write(tmp_path / "in.png", Picture(noise(330, 270)))
    arguments = ["in.png", "-o", "out.tif", "--model", str(model), "--tile", "32", "--overlap", "8", "--batch", "1"]
    process = start(tmp_path, *arguments)
    while process.poll() is None and records(tmp_path / "out.tif") < 40:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    kept = r"the same command goes on there \(what is done is kept in \.keygraph-\w+\.partial\)"
    assert re.search(rf"^note: in.png: stopped at row \d+ of 330; {kept}$", said, re.MULTILINE)


def test_a_job_without_work_leaves_nothing(make_model: ModelFile, tmp_path: Path, keep_all: None) -> None:
    images.write(tmp_path / "in.png", Picture(noise(64, 64)))
    restorer = keygraph.load(make_model("identity"))
    with stopping(restorer, 0), pytest.raises(Stopped):
        restore_file(restorer, tmp_path / "in.png", tmp_path / "out.tif", tile=32)
    assert sorted(os.listdir(tmp_path)) == ["identity.onnx", "in.png"]


def test_small_pictures_are_not_kept(make_model: ModelFile, tmp_path: Path) -> None:
    images.write(tmp_path / "in.png", Picture(noise(64, 64)))
    restorer = keygraph.load(make_model("identity"))
    with stopping(restorer, 2), pytest.raises(Stopped):
        restore_file(restorer, tmp_path / "in.png", tmp_path / "out.tif", tile=32, batch=1)
    assert sorted(os.listdir(tmp_path)) == ["identity.onnx", "in.png"]


class Limited:
    """A session that runs out of memory: for images above a size, from a run on; and is stopped after some runs."""

    def __init__(self, restorer: Restorer, largest: int, fails: int = 0, stops: int = 10_000) -> None:
        self.session, self.shapes = restorer.session, list[tuple[int, ...]]()
        self.largest, self.fails, self.stops = largest, fails, stops
        restorer.session = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, images: Any, *rest: Any) -> Any:
        if len(self.shapes) >= self.stops:
            raise Stopped
        if len(self.shapes) >= self.fails and images.size > self.largest:
            raise SessionMemoryError("no memory")
        self.shapes.append((images.shape[0], images.shape[2]))
        return self.session.run(images, *rest)


def test_smaller_tiles_for_lack_of_memory_are_taken_again(
    make_model: ModelFile, tmp_path: Path, keep_all: None
) -> None:
    images.write(tmp_path / "in.png", Picture(noise(600, 600)))
    restorer = keygraph.load(make_model("blur"))
    target = tmp_path / "out.png"
    first = Limited(restorer, largest=3 * 128 * 128, stops=5)
    with pytest.raises(Stopped), pytest.warns(match="stopped at row"):
        restore_file(restorer, tmp_path / "in.png", target)
    assert set(first.shapes) == {(1, 128)}
    restorer = keygraph.load(make_model("blur"))
    second = Limited(restorer, largest=10**9)
    with pytest.warns(match="going on at row"):
        report = restore_file(restorer, tmp_path / "in.png", target)
    assert set(second.shapes) == {(1, 128)}
    assert len(second.shapes) == report.tiles - 5
    restore_file(restorer, tmp_path / "in.png", tmp_path / "b.png", tile=128, overlap=report.overlap)
    assert target.read_bytes() == (tmp_path / "b.png").read_bytes()


def test_work_is_not_lost_for_lack_of_memory(make_model: ModelFile, tmp_path: Path, keep_all: None) -> None:
    """A smaller batch goes on; smaller tiles would begin anew, so they are an error."""
    images.write(tmp_path / "in.png", Picture(noise(1000, 400)))
    restorer = keygraph.load(make_model("blur"))
    Limited(restorer, largest=1, fails=4)
    with pytest.raises(SessionMemoryError, match="smaller tiles would lose the work"), pytest.warns(match="stopped"):
        restore_file(restorer, tmp_path / "in.png", tmp_path / "out.png")
    restorer = keygraph.load(make_model("blur"))
    limited = Limited(restorer, largest=3 * 256 * 256)
    with pytest.warns(match="going on at row"):
        report = restore_file(restorer, tmp_path / "in.png", tmp_path / "out.png")
    assert len(limited.shapes) == report.tiles - 4
    assert not report.notices
    limited = Limited(restorer, largest=3 * 32 * 32, fails=5)
    report = restore_file(restorer, tmp_path / "in.png", tmp_path / "batches.png", tile=32, overlap=8, batch=3)
    assert {batch for batch, _ in limited.shapes} == {3, 1}
    assert report.notices == ("no memory with 3 tiles of 32 x 32 together: went on with 1",)
    assert sum(batch for batch, _ in limited.shapes) == report.tiles
    restore_file(restorer, tmp_path / "in.png", tmp_path / "single.png", tile=32, overlap=8, batch=1)
    assert (tmp_path / "batches.png").read_bytes() == (tmp_path / "single.png").read_bytes()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("scale", [1, 2])
def test_pictures_in_files_are_as_in_memory(
    make_model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, alpha: bool, scale: int
) -> None:
    pixels = noise(90, 70, channels)
    plane = np.arange(90 * 70).reshape(90, 70).astype(np.uint8) if alpha else None
    images.write(tmp_path / "in.png", Picture(pixels[:, :, 0] if channels == 1 else pixels, plane))
    for colours in (1, 3):
        restorer = keygraph.load(make_model("nearest", scale=scale, in_channels=colours, out_channels=colours))
        reports = []
        for least, name in ((10**9, "a.tif"), (1, "b.tif")):
            monkeypatch.setattr(space, "KEPT_PIXELS", least)
            reports.append(restore_file(restorer, tmp_path / "in.png", tmp_path / name, tile=32))
        assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
        assert reports[0].notices == reports[1].notices


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_height(make_model: ModelFile, tmp_path: Path) -> None:
    import pyvips
    from keygraph.runtime.device.memory import growth

    height, width = 6_000, 1024  # 6 megapixels; whole, image and result take 37 MB.
    waves = pyvips.Image.zone(width, height) * 100 + 128
    waves.bandjoin([waves, waves]).cast("uchar").copy(interpretation="srgb").tiffsave(str(tmp_path / "in.tif"))
    restorer = keygraph.load(make_model("identity"))

    def work() -> None:
        restore_file(restorer, tmp_path / "in.tif", tmp_path / "out.tif", tile=256, batch=1)

    grown = growth(work)
    assert grown is not None
    assert grown < 25e6
    small = [pyvips.Image.new_from_file(str(tmp_path / name)).hist_find() for name in ("in.tif", "out.tif")]
    assert (small[0] - small[1]).abs().max() == 0


def test_space_is_checked_beforehand(
    make_model: ModelFile, tmp_path: Path, keep_all: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unfinished result, the tiles and the decoded image need more than the result's file."""
    from keygraph import files

    images.write(tmp_path / "in.png", Picture(noise(200, 200)))
    restorer = keygraph.load(make_model("identity"))
    monkeypatch.setattr(files, "_free_bytes", lambda _folder: 3 * 200 * 200 * 3)
    with pytest.raises(InputError, match=r"the result of .* needs about .* free; make room there"):
        restore_file(restorer, tmp_path / "in.png", tmp_path / "out.tif", tile=32, scratch=tmp_path)
    restore_file(restorer, tmp_path / "in.png", tmp_path / "out.tif", tile="none", scratch=tmp_path)


def test_the_how_to(
    make_model: ModelFile,
    tmp_path: Path,
    keep_all: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/how-to/large-images.md: its commands, the one that is stopped and goes on included."""
    page = (Path(keygraph.__file__).parent / "docs" / "how-to" / "large-images.md").read_text(encoding="utf-8")
    plain, shown = (
        [line.split()[1:] for line in re.findall(rf"^    {prompt}(keygraph .*)$", part, flags=re.MULTILINE)]
        for prompt, part in (("", page.partition("\n## ")[0]), (r"\$ ", page))
    )
    assert (len(plain), len(shown)) == (2, 2)
    monkeypatch.chdir(tmp_path)
    make_model("blur", tmp_path / "kgt.onnx")
    images.write("large.tif", Picture(noise(600, 600)))
    (tmp_path / "fast").mkdir()
    results = []
    for command in plain:
        assert main(command) == 0
        results.append(Path("restored.tif").read_bytes())
    assert results[0] == results[1]
    Path("restored.tif").unlink()
    runs = OnnxRuntimeSession.run
    left = iter(range(5))

    def interrupted(self: OnnxRuntimeSession, *arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return runs(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeSession, "run", interrupted)
        assert main(shown[0]) == 130
    assert not Path("restored.tif").exists()
    assert main(shown[1]) == 0
    assert Path("restored.tif").read_bytes() == results[0]
    said = capsys.readouterr().err
    for line in re.findall(r"^    (note: .*?)(?: \(.*)?$", page, flags=re.MULTILINE):
        assert re.search(re.sub(r"\d+", r"\\d+", line), said), line


def test_records_survive_up_to_the_first_damaged_one(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "journal")
    for record in ([1, "one"], {"two": 2}, "drei\n"):
        file.append(record)
    with pytest.raises(BlockingIOError):
        RecordFile(tmp_path / "journal")
    file.close()
    content = (tmp_path / "journal").read_bytes()
    for end in range(len(content)):
        (tmp_path / "journal").write_bytes(content[:end] + b"\0" * (len(content) - end))
        with contextlib.closing(RecordFile(tmp_path / "journal")) as cut_off:
            found = cut_off.read()
            assert found == [[1, "one"], {"two": 2}, "drei\n"][: len(found)]
            assert len(found) == content[:end].count(b"\n")
            cut_off.append("next")
            assert cut_off.read() == [*found, "next"]
