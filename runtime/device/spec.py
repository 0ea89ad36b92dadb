"""Names of devices: ``cpu``, ``cuda``, ``cuda:1``. Says nothing about whether the device exists."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import InputError


@dataclass(frozen=True)
class Device:
    """A device that a model runs on.

    Attributes
    ----------
    kind
        ``"cpu"`` or ``"cuda"``.
    index
        CUDA's number of the GPU, from 0.
    """

    kind: str = "cpu"
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device:
    """Parse ``cpu``, ``cuda`` (the first GPU) or ``cuda:1``; raises `InputError` for anything else."""
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", text)
    if found is None:
        raise InputError(f"the device is {text!r}; give cpu, cuda, or one GPU of several: cuda:0, cuda:1, ...")
    return Device("cpu") if text == "cpu" else Device("cuda", int(found[1] or 0))
