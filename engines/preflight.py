"""Check memory and disk space before a build, because the system kills a builder that runs out of memory."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import InputError
from ..runtime.device import memory
from .model import Model

#: Memory and disk of a build in bytes, and per byte of weights; measured with `benchmarks/engines.py`, rounded up.
HOST_BYTES = 5 << 28
HOST_PER_WEIGHT = 8
DISK_BYTES = 32 << 20
DISK_PER_WEIGHT = 1.5


def host_need(model: Model) -> int:
    """Return an estimate of the bytes of memory for building one engine."""
    return HOST_BYTES + HOST_PER_WEIGHT * model.weights_bytes


def check(model: Model, folder: Path) -> None:
    """Check that there is enough memory for a build and enough disk space for the engine.

    Raises
    ------
    InputError
        There is not, or the folder cannot be read.
    """
    memory.require(
        host_need(model),
        "building",
        "end other programs, build on a larger machine, or skip this check with --no-preflight",
    )
    need = int(DISK_BYTES + DISK_PER_WEIGHT * model.weights_bytes)
    try:
        room = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another place with -o") from error
    if room < need:
        raise InputError(
            f"{folder} has {memory.bytes_text(room)} free, and an engine needs about {memory.bytes_text(need)}; make "
            "room, choose another place with -o, or skip this check with --no-preflight"
        )


def parallel(model: Model, wanted: int) -> int:
    """Return how many of `wanted` engines fit into memory when they are built concurrently; at least 1."""
    free = memory.available()
    return wanted if free is None else max(1, min(wanted, free // host_need(model)))
