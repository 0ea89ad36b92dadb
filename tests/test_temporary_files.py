"""What a killed process leaves is used by the next one, and nothing that another one writes is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from keygraph import temporary_files
from keygraph.errors import InputError
from keygraph.files import atomic_folder, atomic_path

#: Writes a file or a folder, says so, and waits.
WRITE = """
import sys
from pathlib import Path
from keygraph.files import atomic_folder, atomic_path

with {write}(Path("result.zarr")) as temporary:
    part = temporary / "part" if temporary.is_dir() else temporary
    part.write_text("of another process")
    print(temporary.name, flush=True)
    sys.stdin.read()
"""


class Writer:
    """Another process that writes ``result.zarr``, until it is told to end or is killed."""

    def __init__(self, write: str, folder: Path) -> None:
        command = [sys.executable, "-c", WRITE.format(write=write)]
        self._process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.temporary = folder / self._process.stdout.readline().strip()

    def end(self) -> int:
        self._process.communicate()
        return self._process.returncode

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self.end()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_of_a_killed_process_is_written_again(tmp_path: Path) -> None:
    writer = Writer("atomic_path", tmp_path)
    writer.kill()
    assert names(tmp_path) == [writer.temporary.name]
    with atomic_path(tmp_path / "result.zarr") as temporary:
        assert temporary == writer.temporary
        assert temporary.read_text() == ""
    assert names(tmp_path) == ["result.zarr"]


def test_a_folder_of_a_killed_process_is_filled_again(tmp_path: Path) -> None:
    writer = Writer("atomic_folder", tmp_path)
    writer.kill()
    (writer.temporary / "sub").mkdir()
    with atomic_folder(tmp_path / "result.zarr") as temporary:
        assert temporary == writer.temporary
        assert names(temporary) == []
    assert names(tmp_path) == ["result.zarr"]


@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_two_processes_write_one_result(tmp_path: Path, write: object) -> None:
    assert write in (atomic_path, atomic_folder)
    name = "atomic_path" if write is atomic_path else "atomic_folder"
    target, writer = tmp_path / "result.zarr", Writer(name, tmp_path)
    with (atomic_path if write is atomic_path else atomic_folder)(target) as temporary:
        assert temporary != writer.temporary
        (temporary / "part" if temporary.is_dir() else temporary).write_text("of this process")
    assert ((target / "part") if target.is_dir() else target).read_text() == "of this process"
    assert writer.end() == 0
    assert ((target / "part") if target.is_dir() else target).read_text() == "of another process"
    assert names(tmp_path) == ["result.zarr"]


def test_what_a_failed_write_made_is_removed(tmp_path: Path) -> None:
    for write in (atomic_path, atomic_folder):
        with pytest.raises(InputError, match="No space left"), write(tmp_path / "result.zarr"):
            raise OSError(28, "No space left on device")
        with pytest.raises(KeyboardInterrupt), write(tmp_path / "result.zarr"):
            raise KeyboardInterrupt
        assert names(tmp_path) == []


@pytest.mark.parametrize("other", ["link", "hard link", "folder", "pipe"])
def test_a_name_that_something_else_has_is_left(tmp_path: Path, other: str) -> None:
    with atomic_path(tmp_path / "result.zarr") as temporary:
        pass
    precious = tmp_path / "precious"
    precious.write_text("precious")
    if other == "link":
        temporary.symlink_to(precious)
    elif other == "hard link":
        os.link(precious, temporary)
    elif other == "folder":
        temporary.mkdir()
    else:
        os.mkfifo(temporary)
    with atomic_path(tmp_path / "result.zarr") as another:
        another.write_text("new")
    assert another != temporary
    assert os.path.lexists(temporary)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("is_link", [True, False])
def test_an_earlier_folder_is_replaced(
    tmp_path: Path, exchange: bool, is_link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(temporary_files, "_exchanged", lambda first, second: False)
    target, folder = tmp_path / "result.zarr", tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    if is_link:
        target.symlink_to(folder)
    else:
        folder.rename(target)
    with atomic_folder(target) as temporary:
        (temporary / "new").touch()
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert sorted(names(tmp_path)) == (["folder", "result.zarr"] if is_link else ["result.zarr"])
    assert not is_link or names(folder) == ["old"]


def test_the_earlier_folder_is_in_its_place_until_the_new_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill at any name change finds one of both: the names are exchanged at once."""
    target = tmp_path / "result.zarr"
    target.mkdir()

    def no_rename(self: Path, _target: Path) -> Path:
        raise AssertionError(f"{self} is renamed away")

    monkeypatch.setattr(Path, "rename", no_rename)
    with atomic_folder(target) as temporary:
        (temporary / "new").touch()
    assert names(target) == ["new"]
