"""Names of devices: ``cpu``, ``cuda``, ``cuda:1``. Says nothing about whether the device exists."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...files import ENGINE_SUFFIX

#: Providers of ONNX files that run on a GPU; all others run on the CPU.
GPU_PROVIDERS = ("cuda", "tensorrt")


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


def device_for(device: str | None, path: str | os.PathLike[str], provider: str | None) -> Device:
    """Return the device that a model runs on: the one asked for, or its default.

    Parameters
    ----------
    device
        As for `parse_device`; None for the first GPU with engines and with a GPU provider, else for the CPU.
    path
        The model.
    provider
        What runs an ONNX file; None for the device's own.
    """
    on_gpu = Path(path).suffix.lower() == ENGINE_SUFFIX or provider in GPU_PROVIDERS
    return parse_device(device or ("cuda" if on_gpu else "cpu"))
