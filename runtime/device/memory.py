"""Host memory on Linux: how much a process can still allocate, and how much a piece of work uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def growth(work: Callable[[], object]) -> int | None:
    """Run some work and return by how much this process's resident memory grew at its peak.

    Returns
    -------
    int | None
        Bytes; None where the system does not report it.
    """
    own = Path("/proc/self")
    try:
        (own / "clear_refs").write_text("5")  # Resets the recorded peak.
        before = _status(own)["VmRSS"]
    except (OSError, KeyError, ValueError):
        work()
        return None
    work()
    return max(0, _status(own)["VmHWM"] - before)


def _status(process: Path) -> dict[str, int]:
    """Return the sizes in a process's status file, in bytes, by name."""
    lines = (line.split() for line in (process / "status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process can still allocate, as the system estimates it.

    This is the smaller of what the machine has available and what the limit of the process's control group (its
    container) leaves.

    Parameters
    ----------
    root
        Folder that contains ``proc`` and ``sys``.

    Returns
    -------
    int | None
        None where the system reports neither.
    """
    found = [_of_machine(root / "proc/meminfo"), _of_group(root / "sys/fs/cgroup")]
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _of_machine(file: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _of_group(folder: Path) -> int | None:
    """Read the files of control groups version 2 at their path inside a container."""
    try:
        limit, used = (folder / "memory.max").read_text().strip(), int((folder / "memory.current").read_text())
        return None if limit == "max" else int(limit) - used + _reclaimable(folder)
    except (OSError, ValueError):
        return None


def _reclaimable(folder: Path) -> int:
    """Return the bytes of inactive page cache that a control group's usage includes."""
    try:
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0
