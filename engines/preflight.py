"""Is there room? Asked before the work, since a builder that runs out of memory is killed without a word."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import InputError
from ..runtime.device import memory
from .model import Model

#: What a builder needs at the least, and for each byte of weights: measured with `benchmarks/engines.py`, rounded up.
HOST_BYTES = 5 << 28
HOST_PER_WEIGHT = 8
DISK_BYTES = 32 << 20
DISK_PER_WEIGHT = 1.5


def host_need(model: Model) -> int:
    """Bytes of memory that building one engine takes, roughly."""
    return HOST_BYTES + HOST_PER_WEIGHT * model.weights_bytes


def check(model: Model, folder: Path) -> None:
    """Make sure that there is memory to build, and room for the engine; raises `InputError`."""
    free = memory.available()
    if free is not None and free < host_need(model):
        raise InputError(
            f"building needs about {_megabytes(host_need(model))} of memory, and {_megabytes(free)} are free; "
            "end other programs, build on a larger machine, or go on regardless with --no-preflight"
        )
    need = int(DISK_BYTES + DISK_PER_WEIGHT * model.weights_bytes)
    try:
        room = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another place with -o") from error
    if room < need:
        raise InputError(
            f"{folder} has {_megabytes(room)} free, and an engine needs about {_megabytes(need)}; make room, choose "
            "another place with -o, or go on regardless with --no-preflight"
        )


def parallel(model: Model, wanted: int) -> int:
    """How many of `wanted` engines memory lets one build at once; at least 1."""
    free = memory.available()
    return wanted if free is None else max(1, min(wanted, free // host_need(model)))


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
