"""The few calls of the CUDA runtime that a session needs, through cuda-bindings: memory, streams, events, graphs.

Everything here is thin: what can be decided without a GPU is decided in the modules that use it.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, KeygraphError, MissingDependencyError
from ..errors import SessionMemoryError
from .cuda_driver import require_gpu
from .spec import Device

try:
    from cuda.bindings import runtime
except ImportError as error:
    raise MissingDependencyError(
        f"CUDA's Python bindings cannot be imported ({error}); install them with: pip install 'cuda-bindings>=12.8'"
    ) from error


class Cuda:
    """One GPU, and what was allocated on it; nothing of it outlives `close`.

    Streams, events, graphs and device addresses are plain values of CUDA's own. All copies are asynchronous, and their
    host arrays must come from `pinned`.

    Parameters
    ----------
    device
        The GPU. It is made the calling thread's own, before any other library can choose one.

    Raises
    ------
    InputError
        There is no driver, or no such GPU.
    """

    def __init__(self, device: Device) -> None:
        self.gpu = require_gpu(device)
        self._index = device.index
        self._cleanup = contextlib.ExitStack()
        self.use()

    def use(self) -> None:
        """Make this GPU the calling thread's."""
        _check(runtime.cudaSetDevice(self._index), "cannot use the GPU")

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the calling thread's inside the block."""
        status, before = runtime.cudaGetDevice()
        runtime.cudaSetDevice(self._index)  # What fails here fails again at the first call.
        try:
            yield
        finally:
            if status == runtime.cudaError_t.cudaSuccess:
                runtime.cudaSetDevice(before)

    def finish(self) -> None:
        """Wait for everything that the GPU was given."""
        _check(runtime.cudaDeviceSynchronize(), "the GPU failed")

    def close(self) -> None:
        """Free streams and events; nothing may be on its way."""
        self._cleanup.close()

    def allocate(self, size: int) -> int:
        """Return the address of so many bytes on the GPU (CUDA aligns it to 256 at the least)."""
        return int(_check(runtime.cudaMalloc(max(size, 1)), f"cannot allocate {size:,} bytes on the GPU"))

    def free(self, address: int) -> None:
        """Free what `allocate` gave."""
        _check(runtime.cudaFree(address), "cannot free memory on the GPU")

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Return so many bytes on the host that the GPU can copy from and to by itself."""
        size = max(size, 1)
        address = int(_check(runtime.cudaHostAlloc(size, 0), f"cannot pin {size:,} bytes of memory"))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Free what `pinned` gave; no array may look into it any more."""
        _check(runtime.cudaFreeHost(memory.ctypes.data), "cannot free pinned memory")

    def stream(self) -> int:
        """Return a new stream that does not wait for the default one."""
        stream = _check(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), "cannot make a stream")
        self._cleanup.callback(runtime.cudaStreamDestroy, stream)
        return int(stream)

    def event(self) -> Any:
        """Return a new event, to be waited for and not for timing."""
        event = _check(runtime.cudaEventCreateWithFlags(runtime.cudaEventDisableTiming), "cannot make an event")
        self._cleanup.callback(runtime.cudaEventDestroy, event)
        return event

    def upload(self, target: int, source: NDArray[Any], stream: int) -> None:
        """Copy a contiguous pinned array to the GPU."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _check(runtime.cudaMemcpyAsync(target, source.ctypes.data, source.nbytes, kind, stream), "cannot upload")

    def download(self, target: NDArray[Any], source: int, stream: int) -> None:
        """Copy from the GPU to a contiguous pinned array."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _check(runtime.cudaMemcpyAsync(target.ctypes.data, source, target.nbytes, kind, stream), "cannot download")

    def record(self, event: Any, stream: int) -> None:
        """Let an event stand for everything that the stream was given so far."""
        _check(runtime.cudaEventRecord(event, stream), "cannot record an event")

    def wait(self, stream: int, event: Any) -> None:
        """Let what the stream is given from here on wait for an event; the host goes on."""
        _check(runtime.cudaStreamWaitEvent(stream, event, 0), "cannot wait for an event")

    def synchronize(self, event: Any) -> None:
        """Let the host wait for an event; what failed on the GPU before it is raised here."""
        _check(runtime.cudaEventSynchronize(event), "the GPU failed")

    def capture(self, stream: int, launch: Callable[[], None]) -> Any:
        """Return a graph of what `launch` gives the stream, without running it; None where that cannot be captured."""
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _check(runtime.cudaStreamBeginCapture(stream, mode), "cannot capture a graph")
        launched = False
        try:
            launch()
            launched = True
        except KeygraphError:
            pass
        finally:  # Whatever was raised: a stream that still captures takes nothing else.
            graph = _end_capture(stream, launched)
        return graph

    def launch(self, graph: Any, stream: int) -> None:
        """Run a captured graph."""
        _check(runtime.cudaGraphLaunch(graph, stream), "cannot run a graph")

    def free_graph(self, graph: Any) -> None:
        """Free what `capture` gave; it must not be running."""
        runtime.cudaGraphExecDestroy(graph)

    def free_memory(self) -> tuple[int, int]:
        """Return the bytes that are free on the GPU, and all of its bytes."""
        free, total = _check(runtime.cudaMemGetInfo(), "cannot ask for the GPU's memory")
        return int(free), int(total)


def _end_capture(stream: int, keep: bool) -> Any:
    """Return the captured graph, ready to run; None where it is not kept or cannot be made."""
    success = runtime.cudaError_t.cudaSuccess
    status, graph = runtime.cudaStreamEndCapture(stream)
    executable = None
    if status == success:
        if keep:
            status, executable = runtime.cudaGraphInstantiate(graph, 0)
        runtime.cudaGraphDestroy(graph)
    if keep and status == success:
        return executable
    runtime.cudaGetLastError()  # What cannot be captured is no error of the work to come.
    return None


def _check(answer: tuple[Any, ...], what: str) -> Any:
    """Return what a call gave besides its status; raise what the status says."""
    status, *values = answer
    if status == runtime.cudaError_t.cudaErrorMemoryAllocation:
        raise SessionMemoryError(f"the GPU ran out of memory ({what})")
    if status == runtime.cudaError_t.cudaErrorInsufficientDriver:
        needed = runtime.cudaRuntimeGetVersion()[1] // 1000
        raise InputError(
            f"NVIDIA's driver is too old for CUDA {needed}, which the package cuda-bindings is for; update the driver, "
            f"or install bindings for an older CUDA with: pip install 'cuda-bindings<{needed}'"
        )
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        words = text.decode() if isinstance(text, bytes) else str(text)
        raise KeygraphError(f"{what}: CUDA error {int(status)}, {words}")
    return values[0] if len(values) == 1 else tuple(values)
