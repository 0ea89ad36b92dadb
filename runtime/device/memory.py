"""How large an image may be that is restored whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...manifest import Manifest
from ..backends.base import Session
from ..tiling.tile_size import WHOLE_PIXELS

#: Share of the free memory that a run may take: estimates are good to a quarter or so, and others want some, too.
SHARE = 0.6

#: More pixels than any image has.
NO_LIMIT = 2**62


def whole_pixels(manifest: Manifest, session: Session) -> int:
    """Pixels up to which images are restored whole.

    Tiles change the result of a model with global statistics, so that its images are whole while they fit. On the CPU
    that has to be known beforehand, for a system that is out of memory ends processes. A GPU says when it has none
    left, so it is tried there.
    """
    if not manifest.global_statistics:
        return WHOLE_PIXELS
    device = getattr(session, "device", None)
    if device is not None and device.kind != "cpu":
        return NO_LIMIT
    free = available()
    if manifest.statistics is None or manifest.statistics.memory is None or free is None:
        return WHOLE_PIXELS
    return max(WHOLE_PIXELS, int(SHARE * free / manifest.statistics.memory))


def growth(work: Callable[[], object]) -> int | None:
    """Do some work; return by how many bytes this process's memory grew meanwhile at its peak, None where unknown."""
    own = Path("/proc/self")
    try:
        (own / "clear_refs").write_text("5")  # The peak begins anew.
        before = _status(own)["VmRSS"]
    except (OSError, KeyError, ValueError):
        work()
        return None
    work()
    return max(0, _status(own)["VmHWM"] - before)


def _status(process: Path) -> dict[str, int]:
    """What a process's memory is, in bytes."""
    lines = (line.split() for line in (process / "status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def available(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process can still get, as the system estimates it; None where it does not say.

    The least of what the machine has and of what the process's control group (a container's limit) leaves.
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
    """Of version 2's files, as a container sees them; what the group keeps of files can be given back."""
    try:
        limit, used = (folder / "memory.max").read_text().strip(), int((folder / "memory.current").read_text())
        return None if limit == "max" else int(limit) - used + _reclaimable(folder)
    except (OSError, ValueError):
        return None


def _reclaimable(folder: Path) -> int:
    """Bytes of a group's memory that hold pages of files which nobody has used lately."""
    try:
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):
        return 0
