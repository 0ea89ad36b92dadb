"""One batch in flight: its buffers, and the order of upload, computation and download."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class TransferApi(Protocol):
    """The calls of CUDA that the pipeline needs; the parameters are those of `cuda_runtime.Cuda`."""

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the GPU the calling thread's current device inside the block."""

    def allocate(self, size: int) -> int:
        """Allocate bytes on the GPU; return the address."""

    def free(self, address: int) -> None:
        """Free memory that `allocate` returned."""

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Allocate page-locked bytes on the host."""

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Free memory that `pinned` returned."""

    def stream(self) -> int:
        """Create a stream."""

    def event(self) -> Any:
        """Create an event."""

    def upload(self, target: int, source: NDArray[Any], stream: int) -> None:
        """Copy a contiguous pinned array to the GPU.

        Parameters
        ----------
        target
            Address on the GPU.
        source
            Array in pinned memory, unchanged until the copy has finished.
        stream
            The stream that copies.
        """

    def download(self, target: NDArray[Any], source: int, stream: int) -> None:
        """Copy from the GPU to a contiguous pinned array.

        Parameters
        ----------
        target
            Array in pinned memory.
        source
            Address on the GPU.
        stream
            The stream that copies.
        """

    def record(self, event: Any, stream: int) -> None:
        """Record an event in a stream."""

    def wait(self, stream: int, event: Any) -> None:
        """Make a stream wait for an event."""

    def synchronize(self, event: Any) -> None:
        """Block the host until an event has happened."""


@dataclass(frozen=True)
class Batch:
    """Inputs and output of one launch.

    Attributes
    ----------
    slot
        Number of the slot. Its addresses stay the same while its buffers are large enough.
    inputs
        Addresses of the inputs on the GPU, the images first.
    restored
        Address of the result on the GPU.
    shapes
        [B, C, H, W] of every input, where B includes images that only fill up the batch.
    k
        k of the run; None without one.
    k_address
        Address of k on the GPU, int64[1]; 0 without k.
    """

    slot: int
    inputs: tuple[int, ...]
    restored: int
    shapes: tuple[tuple[int, ...], ...]
    k: int | None = None
    k_address: int = 0


#: Starts the computation of a batch on a stream without waiting for it.
Launch = Callable[[Batch, int], None]


class Buffer:
    """Memory on the GPU and the same amount of pinned memory on the host; grows on demand and never shrinks."""

    def __init__(self, gpu: TransferApi) -> None:
        self._gpu = gpu
        self._host: NDArray[np.uint8] | None = None
        self.address = 0

    def fit(self, size: int) -> None:
        """Make room for at least `size` bytes; growing discards the content."""
        if self._host is not None and len(self._host) >= size:
            return
        self.release()
        self.address = self._gpu.allocate(size)
        try:
            self._host = self._gpu.pinned(size)
        except BaseException:
            self._gpu.free(self.address)
            self.address = 0
            raise

    def host(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the host memory as an array of a shape and dtype."""
        assert self._host is not None
        size = int(np.prod(shape)) * dtype.itemsize
        return self._host[:size].view(dtype).reshape(shape)

    def release(self) -> None:
        """Free the memory on the GPU and on the host."""
        host, address = self._host, self.address
        self._host, self.address = None, 0
        if host is not None:
            try:
                self._gpu.free(address)
            finally:
                self._gpu.free_pinned(host)


@dataclass(frozen=True)
class Compute:
    """Where all runs of a pipeline compute.

    Attributes
    ----------
    launch
        The computation.
    stream
        Its stream.
    lock
        Held while work is put into the stream, so that launches of several threads do not mix, and a CUDA graph that
        is captured contains one launch only.
    """

    launch: Launch
    stream: int
    lock: threading.Lock


class Slot:
    """Runs one batch at a time: copy to pinned memory, upload, compute, download."""

    def __init__(self, number: int, gpu: TransferApi, compute: Compute, transfers: tuple[int, int]) -> None:
        self._number, self._gpu, self._compute = number, gpu, compute
        self._upload, self._download = transfers
        self._inputs: list[Buffer] = []
        self._restored = Buffer(gpu)
        self._uploaded, self._computed, self._downloaded = gpu.event(), gpu.event(), gpu.event()
        self._result: NDArray[Any] | None = None

    def submit(
        self,
        inputs: Sequence[NDArray[Any]],
        batch: int,
        restored: tuple[int, ...],
        dtype: np.dtype[Any],
        k: tuple[int | None, int],
    ) -> None:
        """Start a batch; the slot's previous result must have been taken.

        Parameters
        ----------
        inputs
            float[b, C, H, W] each, of any floating-point dtype and with the same b. They are copied before this
            returns.
        batch
            Batch size of the computation, at least b. The remaining images are whatever the GPU's buffer contains;
            their results are not downloaded.
        restored
            [C, H, W] of one result.
        dtype
            Dtype of the inputs and results on the GPU.
        k
            `Batch.k` and `Batch.k_address`. The upload of k must be in the slot's stream for uploads.
        """
        gpu, compute, count = self._gpu, self._compute, len(inputs[0])
        shapes = tuple((batch, *values.shape[1:]) for values in inputs)
        while len(self._inputs) < len(inputs):
            self._inputs.append(Buffer(gpu))
        # Allocate everything first, so that running out of memory leaves no work in flight.
        for buffer, shape in zip(self._inputs, shapes, strict=True):
            buffer.fit(int(np.prod(shape)) * dtype.itemsize)
        self._restored.fit(batch * int(np.prod(restored)) * dtype.itemsize)
        for buffer, values in zip(self._inputs, inputs, strict=True):
            source = buffer.host(values.shape, dtype)
            source[...] = values
            gpu.upload(buffer.address, source, self._upload)
        gpu.record(self._uploaded, self._upload)
        addresses = tuple(buffer.address for buffer in self._inputs)
        with compute.lock:
            gpu.wait(compute.stream, self._uploaded)
            compute.launch(Batch(self._number, addresses, self._restored.address, shapes, *k), compute.stream)
            gpu.record(self._computed, compute.stream)
        gpu.wait(self._download, self._computed)
        self._result = self._restored.host((count, *restored), dtype)
        gpu.download(self._result, self._restored.address, self._download)
        gpu.record(self._downloaded, self._download)

    def result(self) -> NDArray[Any]:
        """Wait for the batch and return its result, a view of the slot's buffer that the next `submit` overwrites."""
        self._gpu.synchronize(self._downloaded)
        assert self._result is not None
        return self._result

    def release(self) -> None:
        """Free the buffers."""
        self._result = None
        release_all([*self._inputs, self._restored])


class Releasable(Protocol):
    """What `release_all` releases."""

    def release(self) -> None:
        """Free what the object owns."""


def release_all(owners: Sequence[Releasable]) -> None:
    """Release all, even if some fail."""
    with contextlib.ExitStack() as stack:
        for owner in owners:
            stack.callback(owner.release)
