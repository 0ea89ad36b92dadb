"""Host memory: how much is available, and how much some work uses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from keygraph.errors import InputError
from keygraph.runtime.device import memory

GIB = 2**30
MIB = 2**20

#: The mounts of version 1, of version 2, and of a hybrid system.
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2 = "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def system(root: Path, free: int = 64 * GIB, groups: str = "0::/\n", mounts: str = V2) -> Path:
    """Write what Linux says about its memory, the control groups of the process, and where they are mounted."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("22 1 254:0 / / rw - ext4 /dev/vda rw\n" + mounts)
    return root


def group2(folder: Path, limit: str, used: int = 0, cached: int = 0, high: str = "max") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in {"max": limit, "high": high, "current": used}.items():
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\nshmem 7\n")


def group1(folder: Path, limit: int, used: int = 0, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {cached}\ntotal_shmem 7\n")


def test_the_least_of_machine_and_container_counts(tmp_path: Path) -> None:
    """In a container, its group is mounted as the root."""
    assert memory.available(system(tmp_path / "machine", 8 * GIB)) == 8 * GIB
    group2(system(tmp_path / "open", 8 * GIB) / "sys/fs/cgroup", "max", used=1)
    assert memory.available(tmp_path / "open") == 8 * GIB
    group2(system(tmp_path / "tight", 8 * GIB) / "sys/fs/cgroup", str(4 * GIB), 3 * GIB, cached=GIB)
    assert memory.available(tmp_path / "tight") == 2 * GIB
    (tmp_path / "tight/sys/fs/cgroup/memory.stat").unlink()
    assert memory.available(tmp_path / "tight") == GIB
    for file in ("cgroup", "mountinfo"):  # Hidden in a sandbox: the usual places are looked at.
        (tmp_path / "tight/proc/self" / file).unlink()
        assert memory.available(tmp_path / "tight") == GIB
    assert memory.available(tmp_path / "nothing") is None


def test_every_group_above_the_process_limits_it(tmp_path: Path) -> None:
    """Version 2 without a namespace: a service in a slice."""
    top = system(tmp_path, groups="0::/user.slice/job.service\n") / "sys/fs/cgroup"
    group2(top / "user.slice", str(3 * GIB), used=GIB)
    group2(top / "user.slice/job.service", str(8 * GIB), used=GIB)
    assert memory.available(tmp_path) == 2 * GIB
    group2(top / "user.slice/job.service", "max", used=GIB, high=str(2 * GIB))  # Beyond it the process is stopped.
    assert memory.available(tmp_path) == GIB
    group2(top / "user.slice/job.service", str(GIB // 2), used=GIB)
    assert memory.available(tmp_path) == 0


@pytest.mark.parametrize("mounts", [V1, HYBRID], ids=["v1", "hybrid"])
def test_version_1(tmp_path: Path, mounts: str) -> None:
    groups = "9:name=systemd:/\n4:hugetlb,memory:/batch/job:7\n1:cpu:/elsewhere\n0::/\n"
    top = system(tmp_path, groups=groups, mounts=mounts) / "sys/fs/cgroup/memory"
    group1(top, 9223372036854771712, used=5 * GIB)
    assert memory.available(tmp_path) == 64 * GIB
    group1(top / "batch", 4 * GIB, used=3 * GIB, cached=GIB)
    group1(top / "batch/job:7", 1200 * MIB, used=200 * MIB, cached=100 * MIB)
    assert memory.available(tmp_path) == 1100 * MIB
    group1(top / "batch", 4 * GIB, used=4 * GIB)
    assert memory.available(tmp_path) == 0


def test_a_container_that_sees_the_names_of_its_host(tmp_path: Path) -> None:
    """Docker without a namespace of groups: the tree is mounted from the container's group on."""
    mounts = V1.replace(" / ", " /docker/a\\040b ", 1)
    top = system(tmp_path, groups="4:memory:/docker/a b/inner\n", mounts=mounts) / "sys/fs/cgroup/memory"
    group1(top, 2 * GIB)
    assert memory.available(tmp_path) == 2 * GIB  # A group that is not shown.
    group1(top / "inner", GIB)
    assert memory.available(tmp_path) == GIB
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/docker/another\n")
    assert memory.available(tmp_path) == 2 * GIB


def test_namespaces_of_groups(tmp_path: Path) -> None:
    """Names are relative to the namespace's root: ``/..`` is above it."""
    top = system(tmp_path, groups="0::/../job\n") / "sys/fs/cgroup"
    group2(top, str(3 * GIB))
    group2(top.parent / "job", str(GIB))  # Not a group.
    assert memory.available(tmp_path) == 3 * GIB
    (tmp_path / "proc/self/mountinfo").write_text(V2.replace(" / ", " /.. ", 1))
    group2(top / "job", str(2 * GIB))
    assert memory.available(tmp_path) == 2 * GIB
    # Mounted before the namespace was entered: the names in between are not known.
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text(V2.replace(" / ", " /../.. ", 1))
    group2(top / "a/b", str(GIB))
    (top / "a/b/cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    assert memory.available(tmp_path) == GIB
    (top / "a/b/cgroup.procs").write_text("1\n")
    assert memory.available(tmp_path) == 3 * GIB


def test_the_limits_of_the_process_count(tmp_path: Path) -> None:
    own = system(tmp_path) / "proc/self"
    (own / "status").write_text("Name:\tpython\nVmSize:\t1048576 kB\nVmData:\t524288 kB\nThreads:\t1\n")
    (own / "limits").write_text(
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max data size             unlimited            unlimited            bytes     \n"
        f"Max address space         {3 * GIB}           unlimited            bytes     \n"
    )
    assert memory.available(tmp_path) == 2 * GIB
    (own / "limits").write_text(f"Max data size    {GIB}    unlimited    bytes\n")
    assert memory.available(tmp_path) == GIB // 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_real_limit_of_a_process(limit: str) -> None:
    code = (
        "import resource; from keygraph.runtime.device import memory\n"
        f"resource.setrlimit(resource.{limit}, (3 << 30, 3 << 30)); print(memory.available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 3 * GIB


@pytest.fixture
def own_group() -> Iterator[Path]:
    """A real control group below that of this process, with a limit of 1,200 MiB, or skip."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2].lstrip("/") for line in lines}
    for top, name in (
        (Path("/sys/fs/cgroup/memory", paths.get("memory", "")), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup", paths.get("", "")), "memory.max"),
    ):
        folder = top / f"keygraph-test-{os.getpid()}"
        if not (top / "memory.stat").exists():
            continue
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / name).write_text(str(1200 * MIB))
        except OSError:
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_a_real_control_group(own_group: Path) -> None:
    code = (
        "import os, pathlib; from keygraph.runtime.device import memory\n"
        f"pathlib.Path({str(own_group / 'cgroup.procs')!r}).write_text(str(os.getpid()))\n"
        "print(memory.available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 900 * MIB < int(done.stdout) <= 1200 * MIB


def test_too_little_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: GIB)
    memory.require(GIB, "this", "do less")
    with pytest.raises(InputError, match=r"^this needs about 2,048 MiB of memory, and 1,024 MiB are free; do less$"):
        memory.require(2 * GIB, "this", "do less")
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require(2 * GIB, "this", "do less")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_growth_is_the_peak() -> None:
    size = 256 * 2**20  # Much more than the process itself may allocate or free meanwhile.

    def work() -> None:
        np.ones(size, np.uint8)

    grown = memory.growth(work)
    assert grown is not None
    assert 0.9 * size < grown < 1.1 * size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_memory_of_a_large_run_is_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(side: int) -> None:
        np.ones((side, side, 1000), np.uint8)

    per_pixel = memory.bytes_per_pixel(run, 8, 400 * 400)
    assert per_pixel is not None
    assert 800 < per_pixel < 1200
    assert memory.bytes_per_pixel(run, 8, 40 * 40) is None  # Not worth an estimate.
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    memory.require_run(run, 8, 400 * 400, "it", "do less")
    with pytest.raises(InputError, match=r"it needs about [34],\d+ MiB of memory, and 954 MiB are free; do less"):
        memory.require_run(run, 8, 1400 * 1400, "it", "do less")
