"""The GPUs that engines can be built for, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InputError
from ..runtime.device.cuda_driver import Gpu


@dataclass(frozen=True)
class Target:
    """A compute capability that engines are built for.

    Attributes
    ----------
    name, capability
        ``"sm_89"`` and (8, 9).
    shared_memory
        Largest shared memory of a thread block, in KiB.
    rtx
        Whether TensorRT-RTX builds for it, which needs no such GPU.
    gpus
        Examples of GPUs with this capability.
    rtx_fp32_matmul
        Whether TensorRT-RTX has FP32 matrix products for it.
    """

    name: str
    capability: tuple[int, int]
    shared_memory: int
    rtx: bool
    gpus: str
    rtx_fp32_matmul: bool = True


TARGETS = {
    target.name: target
    for target in (
        Target("sm_75", (7, 5), 64, True, "GeForce RTX 20, GTX 16; T4", rtx_fp32_matmul=False),
        Target("sm_80", (8, 0), 163, True, "A100, A30"),
        Target("sm_86", (8, 6), 99, True, "GeForce RTX 30; A40, A10, RTX A6000"),
        Target("sm_87", (8, 7), 163, False, "Jetson Orin"),
        Target("sm_89", (8, 9), 99, True, "GeForce RTX 40; L4, L40, RTX 6000 Ada"),
        Target("sm_90", (9, 0), 227, False, "H100, H200, GH200"),
        Target("sm_100", (10, 0), 227, False, "B200, GB200"),
        Target("sm_103", (10, 3), 227, False, "B300, GB300"),
        Target("sm_120", (12, 0), 99, True, "GeForce RTX 50; RTX PRO 6000 Blackwell"),
        Target("sm_121", (12, 1), 99, True, "GB10 (DGX Spark)"),
    )
}


def find_target(name: str) -> Target:
    """Return the target for ``sm_89``, ``sm89``, ``89`` or ``8.9``; raises `InputError` if there is none."""
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)a?", name.strip().lower())
    target = TARGETS.get(f"sm_{match[1]}{match[2]}") if match else None
    if target is None:
        raise InputError(f"there is no target {name!r}; choose one of {', '.join(TARGETS)}")
    return target


def can_build(target: Target, backend: str, gpu: Gpu | None) -> bool:
    """Return whether a backend can build for a target on this machine, provided it is installed.

    Parameters
    ----------
    target
        The target.
    backend
        ``"tensorrt"`` or ``"tensorrt-rtx"``.
    gpu
        This machine's GPU, or None.
    """
    if backend == "tensorrt-rtx":
        return target.rtx
    return gpu is not None and gpu.capability == target.capability


def check_buildable(target: Target, backend: str, gpu: Gpu | None) -> None:
    """Check that a backend can build for a target on this machine; see `can_build`.

    Parameters
    ----------
    target
        The target.
    backend
        ``"tensorrt"`` or ``"tensorrt-rtx"``.
    gpu
        This machine's GPU, or None.

    Raises
    ------
    InputError
        It cannot; the message says what can.
    """
    if can_build(target, backend, gpu):
        return
    if backend == "tensorrt-rtx":
        known = ", ".join(name for name, other in TARGETS.items() if other.rtx)
        raise InputError(
            f"TensorRT-RTX does not build for {target.name} ({target.gpus}), only for {known}; on a machine with "
            "that GPU use: --backend tensorrt"
        )
    if gpu is None:
        other = f", or here with --backend tensorrt-rtx --target {target.name}" if target.rtx else ""
        raise InputError(
            f"TensorRT builds for the GPU of the machine that it runs on, and this one has none; build for "
            f"{target.name} on a machine with such a GPU{other}"
        )
    raise InputError(
        f"TensorRT builds for the GPU of the machine that it runs on: {gpu.name} is {gpu.target}, not {target.name}; "
        f"build on a machine with that GPU, or use --target {gpu.target}{', or --backend tensorrt-rtx' * target.rtx}"
    )
