"""Host memory: how much is available, and how much some work uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from keygraph.runtime.device import memory

GIB = 2**30


def system(root: Path, free: int, limit: str | None = None, used: int = 0, files: int = 0) -> Path:
    """Write the files of a system with this much memory."""
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
        assert memory.available(system(tmp_path / name, **options)) == expected
    (tmp_path / "tight/sys/fs/cgroup/memory.stat").unlink()
    assert memory.available(tmp_path / "tight") == GIB
    assert memory.available(tmp_path / "nothing") is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_growth_is_the_peak() -> None:
    size = 256 * 2**20  # Much more than the process itself may allocate or free meanwhile.

    def work() -> None:
        np.ones(size, np.uint8)

    grown = memory.growth(work)
    assert grown is not None
    assert 0.9 * size < grown < 1.1 * size
