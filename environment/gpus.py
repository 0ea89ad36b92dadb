"""NVIDIA's driver and its GPUs, queried through the driver's C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from ..runtime.device.cuda_driver import Gpu, require_gpu
from ..runtime.device.spec import Device
from .findings import BROKEN, MISSING, OK, Finding

_DRIVER = "libcuda.so.1"
#: CUDA_ERROR_NO_DEVICE
_NO_DEVICE = 100


def examine_gpus(driver: str = _DRIVER) -> Iterator[Finding]:
    """Yield findings about NVIDIA's driver, the library `driver`, and each of its GPUs."""
    group, name = "GPU", "NVIDIA driver"
    try:
        cuda = ctypes.CDLL(driver)
    except OSError as error:
        if "cannot open shared object" in str(error):
            yield Finding(group, name, MISSING, f"no {driver}: no NVIDIA GPU is used, everything runs on the CPU")
        else:
            yield Finding(group, name, BROKEN, f"{driver} does not load: {error}", "reinstall the driver")
        return
    status = cuda.cuInit(0)
    if status == _NO_DEVICE:
        yield Finding(group, name, MISSING, f"{driver} is installed, but finds no GPU")
        return
    if status != 0:
        remedy = "reboot, or reinstall the driver so that its library and kernel module match"
        yield Finding(group, name, BROKEN, f"cuInit fails with error {status}", remedy)
        return
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    major, minor = divmod(version.value, 1000)
    found = available_gpus(driver)
    yield Finding(group, name, OK, f"up to CUDA {major}.{minor // 10}, {len(found)} GPU(s)")
    for index, gpu in enumerate(found):
        yield Finding(group, f"GPU {index}", OK, f"{gpu.name}, {gpu.target}, {gpu.memory / 2**30:.0f} GiB")


def available_gpus(driver: str = _DRIVER) -> list[Gpu]:
    """Return the GPUs that the driver lists; an empty list where it does not load or does not start."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [require_gpu(Device("cuda", index), driver) for index in range(count.value)]
