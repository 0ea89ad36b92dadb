"""Host memory on Linux: how much a process can still allocate, and how much a piece of work uses."""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import InputError
from . import control_groups

#: Factor of an estimate from small runs: the arena of ONNX Runtime grows in powers of two.
MARGIN = 2.0

#: The larger of two small runs: its share of the pixels, and its least side, since libraries' buffers blur small ones.
_SHARE = 1 / 32
_LEAST_SIDE = 48


def growth(work: Callable[[], object]) -> int | None:
    """Run some work and return by how much this process's resident memory grew at its peak.

    Returns
    -------
    int | None
        Bytes; None where the system does not report it.
    """
    own = Path("/proc/self")
    _trim()
    try:
        (own / "clear_refs").write_text("5")  # Resets the recorded peak.
        before = _status(own)["VmRSS"]
    except (OSError, KeyError, ValueError):
        work()
        return None
    work()
    return max(0, _status(own)["VmHWM"] - before)


def _trim() -> None:
    """Give back what is free in the C library's heap: memory that is used again would not be seen."""
    with contextlib.suppress(OSError, AttributeError):  # Not glibc.
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int | None:
    """Return the bytes of memory that this process has; None where the system does not report it."""
    try:
        return _status(Path("/proc/self"))["VmRSS"]
    except (OSError, KeyError, ValueError):
        return None


def _status(process: Path) -> dict[str, int]:
    """Return the sizes in a process's status file, in bytes, by name."""
    lines = (line.split() for line in (process / "status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1:] == ["kB"]}


def available(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process can still allocate, as the system estimates it.

    This is the smallest of what the machine has available, what the limits of the process's control groups (its
    container, its service) leave, and what its own limits (``ulimit -v`` and ``-d``) leave. Swap space does not count.

    Parameters
    ----------
    root
        Folder that contains ``proc`` and ``sys``.

    Returns
    -------
    int | None
        None where the system reports none of them.
    """
    found = [_of_machine(root / "proc/meminfo"), control_groups.headroom(root), *_of_process(root / "proc/self")]
    return min((value for value in found if value is not None), default=None)


def require(need: int, purpose: str, advice: str) -> None:
    """Check that there is enough memory for some work, because the system kills a process that takes too much.

    Parameters
    ----------
    need
        Estimate in bytes.
    purpose
        Start of the message: what needs it.
    advice
        End of the message: what the user can do.

    Raises
    ------
    InputError
        There is less.
    """
    free = available()
    if free is not None and free < need:
        raise InputError(
            f"{purpose} needs about {bytes_text(need)} of memory, and {bytes_text(free)} are free; {advice}"
        )


def bytes_per_pixel(run: Callable[[int], object], multiple: int, pixels: int) -> float | None:
    """Return the memory that a run of a model takes for each pixel, extrapolated from two small runs.

    Parameters
    ----------
    run
        Runs one square tile; takes its side in pixels.
    multiple
        Sides are multiples of this.
    pixels
        Pixels of the run to be estimated, batch included.

    Returns
    -------
    float or None
        None where the run is so small that it need not be estimated, or the system does not report memory.
    """
    small = multiple
    large = max(2 * multiple, _up(_LEAST_SIDE, multiple), math.isqrt(int(pixels * _SHARE)) // multiple * multiple)
    if large**2 * 2 > pixels:
        return None
    run(small)  # The first run allocates what is kept.
    least, most = growth(lambda: run(small)), growth(lambda: run(large))
    if least is None or most is None:
        return None
    return max(0, most - least) / (large**2 - small**2)


def require_run(run: Callable[[int], object], multiple: int, pixels: int, purpose: str, advice: str) -> None:
    """Check that there is enough memory for a run of a model, as far as small runs can tell.

    Parameters
    ----------
    run, multiple, pixels
        As for `bytes_per_pixel`.
    purpose, advice
        As for `require`.

    Raises
    ------
    InputError
        There is less.
    """
    per_pixel = bytes_per_pixel(run, multiple, pixels)
    if per_pixel is not None:
        require(int(MARGIN * per_pixel * pixels), purpose, advice)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def bytes_text(size: float) -> str:
    """Return a size in bytes as text."""
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def _of_machine(file: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _of_process(process: Path) -> Iterator[int | None]:
    """Yield what the soft limits of a process's address space and of its data leave."""
    try:
        limits, used = (process / "limits").read_text(), _status(process)
    except (OSError, ValueError, IndexError):
        return
    for limit, usage in (("Max address space", "VmSize"), ("Max data size", "VmData")):
        soft = re.search(rf"^{limit}\s+(\d+)", limits, re.MULTILINE)
        if soft is not None and usage in used:
            yield max(0, int(soft[1]) - used[usage])
