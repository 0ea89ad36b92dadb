"""Files are written whole or not at all, under names that fit, and only where a file can be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from keygraph.errors import DiskFullError, InputError
from keygraph.files import (
    atomic_path,
    check_place,
    check_space,
    is_folder,
    is_regular,
    read_start,
    status,
    unwritable,
)
from keygraph.temporary_files import temporary_path


@pytest.mark.parametrize("name", ["a.png", "a" * 251 + ".png", "夜" * 83 + ".png", "a." + "b" * 253])
def test_a_temporary_name_is_hidden_and_fits(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".keygraph-")
        assert temporary.suffix == (".png" if name.endswith(".png") else "")
        temporary.write_bytes(b"content")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert target.read_bytes() == b"content"
    assert temporary_path(target) != temporary_path(target)


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.xml"
    os.mkfifo(pipe)
    (tmp_path / "null.xml").symlink_to(os.devnull)
    for path in (pipe, tmp_path / "null.xml", Path(os.devnull)):
        with pytest.raises(InputError, match="it is a device or a pipe; name a file"):
            check_place(path)
        with pytest.raises(InputError, match="it is a device or a pipe"), atomic_path(path):
            pass
    assert pipe.is_fifo()
    assert (tmp_path / "null.xml").is_symlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("n" * 256, "File name too long; choose a shorter name"),
        ("none/a.png", "none does not exist; create it first"),
        ("file/a.png", "file does not exist; create it first"),
        (".", "is a folder; name the file in it"),
    ],
)
def test_places_where_no_file_can_be(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        check_place(tmp_path / name)


def test_space_is_compared_with_the_disk_of_the_nearest_folder(tmp_path: Path) -> None:
    check_space(tmp_path / "new" / "folder", 1000, "the result needs")
    with pytest.raises(InputError, match=r"the result needs about 1000000\.0 GB, and .*folder has .* free"):
        check_space(tmp_path / "new" / "folder", 10**15, "the result needs")


def test_a_full_disk_is_told_from_other_errors(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    full = unwritable(target, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert isinstance(full, DiskFullError)
    assert str(full) == f"cannot write {target}: No space left on device; make room there, or choose another place"
    assert isinstance(unwritable(target, OSError(errno.EDQUOT, "Disk quota exceeded")), DiskFullError)
    for number, advice in ((errno.EROFS, "choose another place"), (errno.EFBIG, "takes larger files")):
        error = unwritable(target, OSError(number, os.strerror(number)))
        assert not isinstance(error, DiskFullError)
        assert advice in str(error)
    # NumPy does not say why a write was cut short; here the disk has room.
    error = unwritable(target, OSError("100 requested and 10 written"))
    assert not isinstance(error, DiskFullError)
    assert "100 requested and 10 written" in str(error)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(InputError, match="is a device or a pipe; give a model"):
        read_start(tmp_path / "pipe.onnx", "a model")


def test_a_path_that_the_system_does_not_reach_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file" / "a"):
        assert (status(path), is_folder(path), is_regular(path)) == (None, False, False)
    assert is_folder(tmp_path)
    assert is_regular(tmp_path / "file")
    for path, message in (
        (tmp_path / ("n" * 256), "File name too long; choose a shorter name"),
        (tmp_path / "circle", "Too many levels of symbolic links; give another path"),
    ):
        for look in (status, is_folder, is_regular):
            with pytest.raises(InputError, match=message):
                look(path)
