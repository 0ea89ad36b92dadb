"""What the control groups of this process (its container, its service, its batch job) leave it of the memory.

Every group from the process's own up to the root limits it, so each is read. The files are those of cgroup version 1,
version 2, or both at once (hybrid).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

#: Folders that are searched for the process's group where its name is not known in the mounted tree.
_MOST_FOLDERS = 10_000


@dataclass(frozen=True)
class _Version:
    """How one version of control groups reports memory.

    Attributes
    ----------
    places
        Where the tree is mounted if ``mountinfo`` does not say.
    limits
        Files that hold a limit: the process is killed, or stopped until memory is free, beyond the smallest.
    usage
        File that holds the memory in use, page cache included.
    cache
        Entries of ``memory.stat`` that the kernel frees before it kills; of alternative names the first counts.
    """

    places: tuple[str, ...]
    limits: tuple[str, ...]
    usage: str
    cache: tuple[tuple[str, ...], ...]


_V1 = _Version(
    ("/sys/fs/cgroup/memory",),
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    # Of the group alone without total_, of the groups below it too with it, as the usage.
    (("total_inactive_file", "inactive_file"), ("total_active_file", "active_file")),
)
_V2 = _Version(
    ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"),
    ("memory.max", "memory.high"),
    "memory.current",
    (("inactive_file",), ("active_file",), ("slab_reclaimable",)),
)


def headroom(root: Path) -> int | None:
    """Return the bytes that this process can allocate before a control group stops it.

    Parameters
    ----------
    root
        Folder that contains ``proc`` and ``sys``.

    Returns
    -------
    int | None
        None where no group has a limit.
    """
    folders = [(folder, version) for version in (_V1, _V2) for folder in _groups(root, version)]
    return min((left for each in folders if (left := _left(*each)) is not None), default=None)


def _groups(root: Path, version: _Version) -> Iterator[Path]:
    """Yield the folder of the process's group and those of the groups above it, as far as they can be seen."""
    path = _path(root, version)
    if path is None:
        return
    for mounted, mount in _mounts(root, version):
        folder = _folder(root, mount, mounted, path)
        yield from (parent for parent in (folder, *folder.parents) if parent.is_relative_to(mount))


def _path(root: Path, version: _Version) -> str | None:
    """Return the path of the process's group in the tree of a version; None where it is in none.

    Lines are ``hierarchy:controllers:path``; version 2 is hierarchy 0, without controllers.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "/"
    for line in lines:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (hierarchy == "0" and not controllers) if version is _V2 else ("memory" in controllers.split(",")):
            return path.removesuffix(" (deleted)")
    return None


def _mounts(root: Path, version: _Version) -> list[tuple[str, Path]]:
    """Return each mount of a version's tree: the group that it shows, and the folder where it shows it."""
    try:
        lines = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = []
    for line in lines:
        mount, _, device = line.partition(" - ")
        fields, kind = mount.split(), device.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" if version is _V2 else (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            found.append((_unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/")))
    return found or [("/", folder) for place in version.places if (folder := root / place.lstrip("/")).is_dir()]


def _unescaped(field: str) -> str:
    """Return a field of mountinfo, where a space is written as backslash 040."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


def _folder(root: Path, mount: Path, mounted: str, path: str) -> Path:
    """Return the folder of a group in a mounted tree; the tree's own where the group is outside of it.

    In a namespace of control groups, names are relative to the namespace's root: ``/..`` is above it.
    """
    group, shown = PurePosixPath(path).parts[1:], PurePosixPath(mounted).parts[1:]
    inside = group[len(shown) :]
    if group[: len(shown)] == shown and ".." not in inside:
        folder = mount.joinpath(*inside)
        return next((parent for parent in (folder, *folder.parents) if parent.is_dir() or parent == mount), mount)
    # The tree was mounted outside of the namespace, so its names are not known here: the process is searched.
    return (_containing(mount, _own_pid(root)) if ".." in shown else None) or mount


def _own_pid(root: Path) -> str:
    try:
        return os.readlink(root / "proc/self")
    except OSError:
        return str(os.getpid())


def _containing(mount: Path, pid: str) -> Path | None:
    for folder, _, _ in itertools.islice(os.walk(mount), _MOST_FOLDERS):
        with contextlib.suppress(OSError):
            if pid in (Path(folder) / "cgroup.procs").read_text().split():
                return Path(folder)
    return None


def _left(folder: Path, version: _Version) -> int | None:
    """Return what a group leaves: its smallest limit less its usage without page cache; None without a limit."""
    limits = [limit for name in version.limits if (limit := _number(folder / name)) is not None]
    used = _number(folder / version.usage)
    if not limits or used is None:
        return None
    return max(0, min(limits) - max(0, used - _cache(folder, version)))


def _number(file: Path) -> int | None:
    """Return the number in a file; None for ``max``, and where there is no such file."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _cache(folder: Path, version: _Version) -> int:
    try:
        words = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        entries = {name: int(value) for name, value in words}
    except (OSError, ValueError):
        return 0
    return sum(next((entries[name] for name in names if name in entries), 0) for names in version.cache)
