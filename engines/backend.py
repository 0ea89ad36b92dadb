"""Choose the backend that builds, TensorRT or TensorRT-RTX, from what is installed and what the targets need."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..errors import InputError, MissingDependencyError
from ..installation import install_line
from ..runtime.backends.engine_metadata import BACKENDS
from ..runtime.backends.tensorrt_bindings import load_backend
from ..runtime.device.cuda_driver import Gpu, require_gpu
from ..runtime.device.spec import Device
from .targets import TARGETS, Target, check_buildable

AUTO = "auto"

#: Names of distributions, which contain the major version of CUDA that they were built for.
_CUDA_PACKAGES = {
    "tensorrt": "tensorrt_cu{}_bindings",
    "tensorrt-rtx": "tensorrt_rtx_cu{}_bindings",
}
_CUDA_VERSIONS = ("13", "12", "11")


@dataclass(frozen=True)
class Software:
    """A backend, ``"tensorrt"`` or ``"tensorrt-rtx"``, with its version and the major version of its CUDA."""

    backend: str
    version: str
    cuda: str

    def __str__(self) -> str:
        return f"{BACKENDS[self.backend]} {self.version}"


def local_gpu() -> Gpu | None:
    """Return this machine's first GPU, or None if there is none that works."""
    try:
        return require_gpu(Device("cuda", 0))
    except InputError:
        return None


def find_software(backend: str) -> Software:
    """Import a backend; raises `MissingDependencyError`, with the command that installs it, if it is missing."""
    version = load_backend(backend).version
    for cuda in _CUDA_VERSIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(_CUDA_PACKAGES[backend].format(cuda))
            return Software(backend, version, cuda)
    return Software(backend, version, "unknown")


def choose(wanted: str, targets: Sequence[Target], gpu: Gpu | None) -> tuple[Software, list[Target]]:
    """Choose the backend and the targets.

    Parameters
    ----------
    wanted
        ``"tensorrt"``, ``"tensorrt-rtx"`` or ``"auto"``: TensorRT if it is installed and all targets are this
        machine's own GPU, otherwise TensorRT-RTX.
    targets
        The requested targets; empty for this machine's GPU.
    gpu
        This machine's GPU, or None.

    Returns
    -------
    software : Software
        The backend.
    targets : list of Target
        The targets, at least one.

    Raises
    ------
    MissingDependencyError
        No backend that could build for the targets is installed.
    InputError
        There is no such backend, it cannot build for a target on this machine, or there is neither a target nor a GPU.
    """
    if wanted not in (AUTO, *BACKENDS):
        raise InputError(f"there is no backend {wanted!r}; choose one of {', '.join((*BACKENDS, AUTO))}")
    if not targets:
        if gpu is None:
            known = ", ".join(name for name, target in TARGETS.items() if target.rtx)
            raise InputError(f"this machine has no GPU to build for; name one with --target: {known}")
        if gpu.target not in TARGETS:
            raise InputError(f"{gpu.name} is {gpu.target}, which is not a target; choose one of {', '.join(TARGETS)}")
        targets = [TARGETS[gpu.target]]
    software = find_software(wanted) if wanted != AUTO else _automatic(targets, gpu)
    for target in targets:
        check_buildable(target, software.backend, gpu)
    return software, list(targets)


def _automatic(targets: Sequence[Target], gpu: Gpu | None) -> Software:
    own = gpu is not None and all(target.capability == gpu.capability for target in targets)
    for backend in ["tensorrt", "tensorrt-rtx"] if own else ["tensorrt-rtx"]:
        with suppress(MissingDependencyError):
            return find_software(backend)
    also = f" or {install_line('tensorrt')}" if own else ""
    raise MissingDependencyError(
        f"no TensorRT that could build for {', '.join(target.name for target in targets)} is installed; install one "
        f"with: {install_line('rtx')}{also}"
    )
