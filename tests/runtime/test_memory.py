"""How much memory there is, and what fits into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from keygraph.manifest import GlobalStatistics, Manifest
from keygraph.runtime.device import memory
from keygraph.runtime.device.spec import Device
from keygraph.runtime.tiling.tile_size import WHOLE_PIXELS

GIB = 2**30


def system(root: Path, free: int, limit: str | None = None, used: int = 0, files: int = 0) -> Path:
    """Files of a system with so much memory."""
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {free // 1024} kB\n")
    if limit is not None:
        group = root / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {files}\n")
    return root


def test_the_least_of_machine_and_container_counts(tmp_path: Path) -> None:
    for name, options, expected in (
        ("machine", {"free": 8 * GIB}, 8 * GIB),
        ("open", {"free": 8 * GIB, "limit": "max", "used": 1}, 8 * GIB),
        ("tight", {"free": 8 * GIB, "limit": str(4 * GIB), "used": 3 * GIB, "files": GIB}, 2 * GIB),
    ):
        (tmp_path / name).mkdir()
        assert memory.available(system(tmp_path / name, **options)) == expected  # type: ignore[arg-type]
    (tmp_path / "tight/sys/fs/cgroup/memory.stat").unlink()
    assert memory.available(tmp_path / "tight") == GIB
    assert memory.available(tmp_path / "nothing") is None


def test_images_are_whole_while_they_fit(
    make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu: Any = SimpleNamespace(device=Device())
    gpu: Any = SimpleNamespace(device=Device("cuda", 0))
    measured = make_manifest(global_statistics=True, statistics=GlobalStatistics(10_000, (), None))
    monkeypatch.setattr(memory, "available", lambda: 20 * 10**9)
    assert memory.whole_pixels(measured, cpu) == pytest.approx(memory.SHARE * 2e6)
    assert memory.whole_pixels(measured, gpu) == memory.NO_LIMIT
    assert memory.whole_pixels(make_manifest(global_statistics=True), cpu) == WHOLE_PIXELS
    assert memory.whole_pixels(make_manifest(), gpu) == WHOLE_PIXELS
    monkeypatch.setattr(memory, "available", lambda: None)
    assert memory.whole_pixels(measured, cpu) == WHOLE_PIXELS


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_growth_is_the_peak() -> None:
    size = 256 * 2**20  # Large beside what the process itself may give back or take meanwhile.

    def work() -> None:
        np.ones(size, np.uint8)

    grown = memory.growth(work)
    assert grown is not None
    assert 0.9 * size < grown < 1.1 * size
