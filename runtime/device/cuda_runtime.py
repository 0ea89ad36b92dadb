"""Calls of the CUDA runtime through cuda-bindings: memory, streams, events and graphs of one GPU.

A thin layer without decisions of its own, because it can only be tested on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, KeygraphError, MissingDependencyError
from ...installation import package_line
from ..errors import SessionMemoryError
from .cuda_driver import require_gpu
from .spec import Device

try:
    from cuda.bindings import runtime
except ImportError as error:
    raise MissingDependencyError(
        f"CUDA's Python bindings cannot be imported ({error}); install them with: {package_line('cuda-bindings>=12.8')}"
    ) from error


class Cuda:
    """One GPU, with the streams and events that were created on it.

    Streams, events, graphs and device addresses are CUDA's own plain values. All copies are asynchronous, and their
    host arrays must come from `pinned`.

    Parameters
    ----------
    device
        The GPU. It becomes the calling thread's current device, before another library can choose one.

    Raises
    ------
    InputError
        The driver is missing, or there is no such GPU.
    """

    def __init__(self, device: Device) -> None:
        self.gpu = require_gpu(device)
        self._index = device.index
        self._cleanup = contextlib.ExitStack()
        self.use()

    def use(self) -> None:
        """Make this GPU the calling thread's current device."""
        _check(runtime.cudaSetDevice(self._index), "cannot use the GPU")

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the calling thread's current device inside the block."""
        status, before = runtime.cudaGetDevice()
        runtime.cudaSetDevice(self._index)  # If this fails, the first call in the block fails as well.
        try:
            yield
        finally:
            if status == runtime.cudaError_t.cudaSuccess:
                runtime.cudaSetDevice(before)

    def finish(self) -> None:
        """Wait until all work on the GPU has finished."""
        _check(runtime.cudaDeviceSynchronize(), "the GPU failed")

    def close(self) -> None:
        """Destroy streams and events; no work may be running."""
        self._cleanup.close()

    def allocate(self, size: int) -> int:
        """Allocate bytes on the GPU; return the address, which CUDA aligns to at least 256 bytes."""
        return int(_check(runtime.cudaMalloc(max(size, 1)), f"cannot allocate {size:,} bytes on the GPU"))

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""
        _check(runtime.cudaFree(address), "cannot free memory on the GPU")

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate page-locked bytes on the host, which asynchronous copies need; return uint8[size]."""
        size = max(size, 1)
        address = int(_check(runtime.cudaHostAlloc(size, 0), f"cannot pin {size:,} bytes of memory"))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Free memory that `pinned` returned; no view of it may be used afterwards."""
        _check(runtime.cudaFreeHost(memory.ctypes.data), "cannot free pinned memory")

    def stream(self) -> int:
        """Create a stream that does not synchronize with the default stream."""
        stream = _check(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), "cannot make a stream")
        self._cleanup.callback(runtime.cudaStreamDestroy, stream)
        return int(stream)

    def event(self) -> Any:
        """Create an event for synchronization, without timing."""
        event = _check(runtime.cudaEventCreateWithFlags(runtime.cudaEventDisableTiming), "cannot make an event")
        self._cleanup.callback(runtime.cudaEventDestroy, event)
        return event

    def upload(self, target: int, source: NDArray[Any], stream: int) -> None:
        """Copy a contiguous pinned array to the GPU.

        Parameters
        ----------
        target
            Address on the GPU.
        source
            Array of any shape and dtype in memory from `pinned`; unchanged until the copy has finished.
        stream
            The stream that copies.
        """
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _check(runtime.cudaMemcpyAsync(target, source.ctypes.data, source.nbytes, kind, stream), "cannot upload")

    def download(self, target: NDArray[Any], source: int, stream: int) -> None:
        """Copy from the GPU to a contiguous pinned array.

        Parameters
        ----------
        target
            Array of any shape and dtype in memory from `pinned`.
        source
            Address on the GPU.
        stream
            The stream that copies.
        """
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _check(runtime.cudaMemcpyAsync(target.ctypes.data, source, target.nbytes, kind, stream), "cannot download")

    def record(self, event: Any, stream: int) -> None:
        """Record an event in a stream, after all work that the stream holds."""
        _check(runtime.cudaEventRecord(event, stream), "cannot record an event")

    def wait(self, stream: int, event: Any) -> None:
        """Make a stream wait for an event before its next work; the host does not wait."""
        _check(runtime.cudaStreamWaitEvent(stream, event, 0), "cannot wait for an event")

    def synchronize(self, event: Any) -> None:
        """Block the host until an event has happened; raises errors of the GPU's work before it."""
        _check(runtime.cudaEventSynchronize(event), "the GPU failed")

    def capture(self, stream: int, launch: Callable[[], None]) -> Any:
        """Return a graph of the work that `launch` puts into the stream, without running it; None if capture fails."""
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _check(runtime.cudaStreamBeginCapture(stream, mode), "cannot capture a graph")
        launched = False
        try:
            launch()
            launched = True
        except KeygraphError:
            pass
        finally:  # A stream that is still capturing accepts no other work.
            graph = _end_capture(stream, launched)
        return graph

    def launch(self, graph: Any, stream: int) -> None:
        """Run a captured graph."""
        _check(runtime.cudaGraphLaunch(graph, stream), "cannot run a graph")

    def free_graph(self, graph: Any) -> None:
        """Destroy a graph that `capture` returned; it must not be running."""
        runtime.cudaGraphExecDestroy(graph)

    def free_memory(self) -> tuple[int, int]:
        """Return the free and the total memory of the GPU in bytes."""
        free, total = _check(runtime.cudaMemGetInfo(), "cannot ask for the GPU's memory")
        return int(free), int(total)


def _end_capture(stream: int, keep: bool) -> Any:
    """End a capture; return the instantiated graph, or None when it is not wanted or could not be created."""
    success = runtime.cudaError_t.cudaSuccess
    status, graph = runtime.cudaStreamEndCapture(stream)
    executable = None
    if status == success:
        if keep:
            status, executable = runtime.cudaGraphInstantiate(graph, 0)
        runtime.cudaGraphDestroy(graph)
    if keep and status == success:
        return executable
    runtime.cudaGetLastError()  # Clears the error of the failed capture, so that later calls do not report it.
    return None


def _check(answer: tuple[Any, ...], what: str) -> Any:
    """Return the values of a call without its status; raise an error when the status is one."""
    status, *values = answer
    if status == runtime.cudaError_t.cudaErrorMemoryAllocation:
        raise SessionMemoryError(f"the GPU ran out of memory ({what})")
    if status == runtime.cudaError_t.cudaErrorInsufficientDriver:
        needed = runtime.cudaRuntimeGetVersion()[1] // 1000
        raise InputError(
            f"NVIDIA's driver is too old for CUDA {needed}, which the package cuda-bindings is for; update the driver, "
            f"or install bindings for an older CUDA with: {package_line(f'cuda-bindings<{needed}')}"
        )
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        words = text.decode() if isinstance(text, bytes) else str(text)
        raise KeygraphError(f"{what}: CUDA error {int(status)}, {words}")
    return values[0] if len(values) == 1 else tuple(values)
