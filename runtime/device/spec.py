"""Names of devices: ``cpu``, ``cuda``, ``cuda:1``, ``intel-gpu``. Says nothing about whether the device exists."""

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
        ``"cpu"``, ``"cuda"`` or ``"intel-gpu"``.
    index
        The number of the GPU for CUDA or OpenVINO, from 0.
    """

    kind: str = "cpu"
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.kind == "cuda" else self.kind


def parse_device(text: str) -> Device:
    """Parse ``cpu``, ``cuda`` (the first GPU), ``cuda:1`` or ``intel-gpu``; raises `InputError` for anything else."""
    found = re.fullmatch(r"(cpu|intel-gpu)|cuda(?::(\d+))?", text)
    if found is None:
        raise InputError(
            f"the device is {text!r}; give cpu, cuda, one GPU of several: cuda:0, cuda:1, ..., or intel-gpu"
        )
    return Device(found[1]) if found[1] else Device("cuda", int(found[2] or 0))


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

    Raises
    ------
    InputError
        There is no such device, or the provider does not run on it.
    """
    on_gpu = Path(path).suffix.lower() == ENGINE_SUFFIX or provider in GPU_PROVIDERS
    parsed = parse_device(device or ("cuda" if on_gpu else "cpu"))
    if parsed.kind == "intel-gpu" and provider != "openvino":
        raise InputError("OpenVINO alone runs on intel-gpu, with .onnx files; give the provider openvino with it")
    return parsed
