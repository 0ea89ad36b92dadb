"""NVIDIA's driver, asked through its C interface before any library that would only say that it failed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from ...errors import InputError
from .spec import Device

_NO_DEVICE = 100
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver has.

    Attributes
    ----------
    name
        What NVIDIA calls it.
    capability
        Compute capability, (major, minor).
    memory
        Bytes in all.
    """

    name: str
    capability: tuple[int, int]
    memory: int

    @property
    def target(self) -> str:
        """``sm_89`` and the like."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


def require_gpu(device: Device, driver: str = "libcuda.so.1") -> Gpu:
    """Return what a CUDA device is.

    Parameters
    ----------
    device
        Of the kind ``"cuda"``.
    driver
        The library's name.

    Raises
    ------
    InputError
        There is no driver, no GPU, or none of this number; or the driver does not start.
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
        raise InputError(f"{device}: NVIDIA's driver is there, but sees no GPU; see nvidia-smi, or {otherwise}")
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
    """Bytes of a GPU that are in use by anybody; makes CUDA's context of this process if there is none yet.

    Raises
    ------
    InputError
        As `require_gpu`.
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
