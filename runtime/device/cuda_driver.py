"""Queries of NVIDIA's driver through ctypes: which GPUs exist, and how much of their memory is used.

Needs no CUDA package. Called before libraries whose errors do not say what is wrong with the driver or the GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ... import forks
from ...errors import InputError
from .spec import Device

_NOT_INITIALIZED, _NO_DEVICE = 3, 100
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it.

    Attributes
    ----------
    name
        NVIDIA's name of the model.
    capability
        Compute capability, (major, minor).
    memory
        Total memory in bytes.
    """

    name: str
    capability: tuple[int, int]
    memory: int

    @property
    def target(self) -> str:
        """The compute capability as a target, for instance ``"sm_89"``."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


def require_gpu(device: Device, driver: str = "libcuda.so.1") -> Gpu:
    """Return the description of a CUDA device.

    Parameters
    ----------
    device
        A device of the kind ``"cuda"``.
    driver
        Name of the driver's library.

    Raises
    ------
    InputError
        The driver is missing or does not initialize, or there is no GPU with this number.
    """
    otherwise = "run on the CPU (an .onnx file with --device cpu), or on a machine with an NVIDIA GPU"
    try:
        cuda = ctypes.CDLL(driver)
    except OSError as error:
        raise InputError(
            f"{device} needs NVIDIA's driver, but it does not load ({error}); install it, or {otherwise}"
        ) from None
    status = cuda.cuInit(0)
    count = ctypes.c_int()
    if status == 0:
        status = cuda.cuDeviceGetCount(ctypes.byref(count))
    if status == _NO_DEVICE or (status == 0 and count.value == 0):
        raise InputError(f"{device}: NVIDIA's driver is installed, but sees no GPU; see nvidia-smi, or {otherwise}")
    if status == _NOT_INITIALIZED and (remedy := forks.cuda_remedy()):
        raise InputError(f"{device}: {remedy}")
    if status != 0:
        raise InputError(
            f"{device}: NVIDIA's driver does not start (cuInit gives {status}); reboot, or reinstall it so that its "
            "library and its kernel module match"
        )
    if device.index >= count.value:
        valid = ", ".join(f"cuda:{index}" for index in range(count.value))
        raise InputError(f"there is no {device} here; give one of {valid}")
    return _describe(cuda, device.index)


def used_memory(device: Device, driver: str = "libcuda.so.1") -> int:
    """Return the bytes of a GPU's memory that all processes use; creates this process's CUDA context if needed.

    Raises
    ------
    InputError
        As for `require_gpu`.
    """
    require_gpu(device, driver)
    cuda = ctypes.CDLL(driver)
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(handle), device.index)
    cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle)
    cuda.cuCtxPushCurrent_v2(context)
    cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
    return total.value - free.value


def _describe(cuda: ctypes.CDLL, index: int) -> Gpu:
    handle, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(handle), index)
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    numbers = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        numbers.append(value.value)
    return Gpu(name.value.decode(), (numbers[0], numbers[1]), memory.value)
