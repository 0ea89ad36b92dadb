"""Part files: tiles that another process has written for a job."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keygraph.runtime.io.scratch_file import ScratchFile
from keygraph.runtime.journal.job_folder import JobFolder
from keygraph.runtime.journal.part_file import part_path, read_tile, write_part
from keygraph.runtime.tiling.blend import Plan, cut
from keygraph.runtime.tiling.tile_size import TileChoice

SIZE = (64, 64, 3)


def choice(tile: int = 16) -> TileChoice:
    axis = cut(64, tile, 8, 8)
    return TileChoice(Plan(axis, axis), (tile, tile), 8, 1, None, False)


def tiles(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).random((count, 3, 16, 16), np.float32)


def opened(target: Path) -> JobFolder:
    return JobFolder(target, {"model": "m"}, SIZE, np.dtype(np.uint8), 1)


def test_a_part_is_read_as_it_was_written_and_damage_is_noticed(tmp_path: Path) -> None:
    values = tiles(3)
    part = write_part(tmp_path, 5, iter(values))
    for number in range(3):
        np.testing.assert_array_equal(read_tile(tmp_path, part, 5 + number), values[number])
    content = bytearray(part_path(tmp_path, 5).read_bytes())
    content[-1] ^= 1
    part_path(tmp_path, 5).write_bytes(content)
    assert read_tile(tmp_path, part, 6) is not None
    assert read_tile(tmp_path, part, 7) is None
    part_path(tmp_path, 5).unlink()
    assert read_tile(tmp_path, part, 5) is None


def test_parts_survive_the_process_and_go_when_no_row_needs_them(tmp_path: Path) -> None:
    target, values = tmp_path / "out.tif", tiles(7)
    folder = opened(target)
    folder.start(choice())
    folder.add_part(write_part(folder.folder, 7, values))
    folder.close()
    assert folder.begun
    again = opened(target)
    assert again.begun
    assert again.start(choice()) == 0
    assert (again.has(6), again.has(7), again.has(13), again.has(14)) == (False, True, True, False)
    np.testing.assert_array_equal(again.load(9), values[2])
    for row in range(3):
        assert part_path(again.folder, 7).exists()
        again.write(row * 8, 0, np.zeros((8, 64, 3), np.uint8))
        again.commit()
    # Tiles 7 to 13 are the second row, which the third one overlaps; the fourth does not.
    assert not part_path(again.folder, 7).exists()
    assert not again.has(7)
    again.remove()
    again.close()


def test_parts_of_other_tiles_are_forgotten(tmp_path: Path) -> None:
    folder = opened(tmp_path / "out.tif")
    folder.start(choice())
    folder.add_part(write_part(folder.folder, 0, tiles(2)))
    folder.start(choice(32))
    assert not folder.has(0)
    assert not folder.begun
    folder.close()
    assert not folder.folder.exists()


def test_a_scratch_file_with_a_name_is_opened_where_it_is_unpickled(tmp_path: Path) -> None:
    file = ScratchFile(tmp_path, 4, 5, 3, np.dtype(np.uint8), "picture")
    file.write(0, 0, np.full((4, 5, 3), 7, np.uint8))
    other = pickle.loads(pickle.dumps(file))
    np.testing.assert_array_equal(other.read(1, 1, 2, 2), np.full((2, 2, 3), 7))
    other.close()
    file.close()
    with pytest.raises(TypeError, match="without a name"):
        pickle.dumps(ScratchFile(tmp_path, 4, 5, 3, np.dtype(np.uint8)))
