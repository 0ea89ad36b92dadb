"""The images of a comparison are on disk, not in memory."""

from __future__ import annotations

import errno
import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keygraph.errors import InputError
from keygraph.parity import compare
from keygraph.parity.disk_arrays import on_disk
from keygraph.runtime.io.images import Picture, write

VALUES = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)[:, ::-1]


def test_an_array_on_disk_is_the_same() -> None:
    held = on_disk(VALUES)
    assert type(held) is np.ndarray
    assert held.dtype == VALUES.dtype
    np.testing.assert_array_equal(held, VALUES)
    held[0, 0, 0] = 7  # As any array.
    assert held[0, 0, 0] == 7


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match=r"cannot keep the images of the comparison in .*No space left.*TMPDIR"):
        on_disk(VALUES)


def test_a_run_of_many_images_needs_the_memory_of_a_few(make_model: Any, tmp_path: Path) -> None:
    model, count, side = make_model("blur"), 8, 128
    paths = [tmp_path / f"{index}.png" for index in range(count)]
    for path in paths:
        write(path, Picture(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)))
    compare([model], model, paths[:1], keep_images=True)  # What is loaded once.
    gc.collect()
    tracemalloc.start()
    run = compare([model], model, paths, clean=paths, keep_images=True)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    outputs = side * side * 3 * 4
    assert len(run.images) == count
    assert kept < count * outputs / 2  # An output alone; input, clean image and reference would be three more.
    np.testing.assert_array_equal(run.images[-1].reference, run.images[-1].candidates[0])
