"""Engine files: an engine and its metadata are written together, found again, and locked."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from engine_files import metadata_for, write_engine
from keygraph.engines import cache
from keygraph.errors import InputError
from keygraph.runtime.backends.engine_metadata import check_digest, metadata_path, read

INGREDIENTS = {"graph": "1" * 64, "target": "sm_86"}


def test_names(tmp_path: Path) -> None:
    assert cache.engine_path(Path("models/kgt.onnx"), "sm_89", None) == Path("models/kgt.sm89.plan")
    assert cache.engine_path(Path("models/kgt.onnx"), "sm_120", tmp_path) == tmp_path / "kgt.sm120.plan"
    assert cache.log_path(tmp_path / "kgt.sm89.plan") == tmp_path / "kgt.sm89.plan.log"


def test_find(tmp_path: Path) -> None:
    engine = tmp_path / "kgt.sm86.plan"
    assert cache.find(engine, INGREDIENTS) == (None, "")
    write_engine(engine)
    assert cache.find(engine, INGREDIENTS) == (metadata_for(), "")
    assert cache.find(engine, {**INGREDIENTS, "graph": "2" * 64}) == (None, "the graph changed")
    assert cache.find(engine, {"graph": "1" * 64}) == (None, "the target was sm_86 and is none")
    engine.write_bytes(b"replaced!")
    assert "is not the engine that kgt.sm86.plan.json describes" in cache.find(engine, INGREDIENTS)[1]
    engine.unlink()
    assert "does not exist" in cache.find(engine, INGREDIENTS)[1]
    write_engine(engine)
    metadata_path(engine).unlink()
    assert "kgt.sm86.plan.json is missing" in cache.find(engine, INGREDIENTS)[1]


def test_commit(tmp_path: Path) -> None:
    engine = tmp_path / "kgt.sm86.plan"
    for content in (b"one", b"another"):
        cache.commit(engine, content, metadata_for(content))
        check_digest(engine, read(engine))
        assert engine.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kgt.sm86.plan", "kgt.sm86.plan.json"]


def write_with_little_room(folder: Path, size: int) -> None:
    """Commit an engine in a process whose files may only grow to half of the engine's size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
    content = b"x" * size
    try:
        cache.commit(folder / "kgt.sm86.plan", content, metadata_for(content))
    except InputError as error:
        words = ("cannot write", "kgt.sm86.plan: File too large", "choose a place that takes larger files")
        os._exit(0 if all(word in str(error) for word in words) else 2)
    os._exit(1)


@pytest.mark.parametrize("old", [False, True])
def test_no_room(tmp_path: Path, old: bool) -> None:
    engine = tmp_path / "kgt.sm86.plan"
    if old:
        write_engine(engine)
    before = sorted(tmp_path.iterdir())
    process = multiprocessing.get_context("fork").Process(target=write_with_little_room, args=(tmp_path, 1 << 20))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert sorted(tmp_path.iterdir()) == before
    if old:
        check_digest(engine, read(engine))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from engine_files import metadata_for
from keygraph.engines import cache
call, number, engine = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
real = getattr(os, call)

def deadly(*arguments):
    global number
    number -= 1
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

setattr(os, call, deadly)
with cache.locked(engine, lambda: None):
    cache.commit(engine, b"the new engine", metadata_for(b"the new engine"))
"""


@pytest.mark.parametrize(("call", "number"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)])
def test_killed_while_writing(tmp_path: Path, call: str, number: int) -> None:
    """Killed at every step: the old engine is intact or the pair is refused, and the next build cleans up."""
    engine = write_engine(tmp_path / "kgt.sm86.plan")
    arguments = [sys.executable, "-c", KILLED, call, str(number), str(engine), str(Path(__file__).parents[1])]
    process = subprocess.run(arguments, check=False)
    assert process.returncode == -signal.SIGKILL
    if (call, number) == ("replace", 2):
        assert engine.read_bytes() == b"the new engine"
        with pytest.raises(InputError, match="is not the engine that"):
            check_digest(engine, read(engine))
    else:
        check_digest(engine, read(engine))
    waited: list[int] = []
    with cache.locked(engine, lambda: waited.append(1)):  # The lock of the killed process is free.
        cache.commit(engine, b"the new engine", metadata_for(b"the new engine"))
    assert not waited
    check_digest(engine, read(engine))
    assert len(list(tmp_path.iterdir())) == 2


def test_one_at_a_time(tmp_path: Path) -> None:
    engine = tmp_path / "kgt.sm86.plan"
    inside, most, waited = 0, 0, threading.Semaphore(0)
    guard = threading.Lock()

    def build() -> None:
        nonlocal inside, most
        with cache.locked(engine, waited.release):
            with guard:
                inside += 1
                most = max(most, inside)
            held.wait(0.02)
            with guard:
                inside -= 1

    held = threading.Event()
    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert waited.acquire(blocking=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*absent does not exist"),
        cache.locked(tmp_path / "absent" / "kgt.sm86.plan", lambda: None),
    ):
        pytest.fail("there is nothing to lock")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", ["k" * 245 + ".plan", "a[1].plan"])
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    """An engine's hidden files have short names, and those of a killed builder are found again."""
    engine = tmp_path / name
    engine.with_name(f"{cache._hidden_name(engine)}.01234567.partial").touch()
    content = b"engine"
    with cache.locked(engine, lambda: None):
        assert not list(tmp_path.glob("*.partial"))
        cache.commit(engine, content, metadata_for(content))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"{name}.json"])
    assert engine.read_bytes() == content
