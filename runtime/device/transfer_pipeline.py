"""Uploading the next batch and downloading the last one while a GPU computes another.

One stream for each of the three, so that they run beside each other, and a few slots: each holds the buffers of one
batch on its way. Events order what belongs to one batch; the host waits for results only.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Gpu(Protocol):
    """What is needed of CUDA; see `Cuda`, which has it."""

    def allocate(self, size: int) -> int: ...
    def free(self, address: int) -> None: ...
    def pinned(self, size: int) -> NDArray[np.uint8]: ...
    def free_pinned(self, memory: NDArray[np.uint8]) -> None: ...
    def stream(self) -> int: ...
    def event(self) -> Any: ...
    def upload(self, target: int, source: NDArray[Any], stream: int) -> None: ...
    def download(self, target: NDArray[Any], source: int, stream: int) -> None: ...
    def record(self, event: Any, stream: int) -> None: ...
    def wait(self, stream: int, event: Any) -> None: ...
    def synchronize(self, event: Any) -> None: ...


@dataclass(frozen=True)
class Batch:
    """What one launch works on.

    Attributes
    ----------
    slot
        Number of the slot: the same addresses every time, for as long as the shapes fit.
    inputs, restored
        Addresses on the GPU; the images' is the first.
    shapes
        [B, C, H, W] of every input; B counts those that fill the batch up as well.
    """

    slot: int
    inputs: tuple[int, ...]
    restored: int
    shapes: tuple[tuple[int, ...], ...]


#: Starts the computation of a batch on a stream, without waiting for it.
Launch = Callable[[Batch, int], None]


class Buffer:
    """Memory on the GPU and its like on the host, which grow with need and never shrink."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._host: NDArray[np.uint8] | None = None
        self.address = 0

    def fit(self, size: int) -> None:
        """Have room for so many bytes; what was there is lost when it grows."""
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
        """The host's side, as an array."""
        assert self._host is not None
        size = int(np.prod(shape)) * dtype.itemsize
        return self._host[:size].view(dtype).reshape(shape)

    def release(self) -> None:
        """Free both sides."""
        host, address = self._host, self.address
        self._host, self.address = None, 0
        if host is not None:
            try:
                self._gpu.free(address)
            finally:
                self._gpu.free_pinned(host)


class Slot:
    """The way of one batch at a time: host, upload, computation, download, host."""

    def __init__(self, number: int, gpu: Gpu, streams: tuple[int, int, int], launch: Launch) -> None:
        self._number, self._gpu, self._launch = number, gpu, launch
        self._upload, self._compute, self._download = streams
        self._inputs: list[Buffer] = []
        self._restored = Buffer(gpu)
        self._uploaded, self._computed, self._downloaded = gpu.event(), gpu.event(), gpu.event()
        self._result: NDArray[Any] | None = None

    def submit(
        self, inputs: Sequence[NDArray[Any]], batch: int, restored: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        """Send a batch on its way; the slot must have given its last result.

        Parameters
        ----------
        inputs
            [b, C, H, W] of any floating-point type each, b the same for all; they may change as soon as this returns.
        batch
            How many the computation takes, at least b. The rest is whatever the GPU's buffer holds, and is not
            downloaded.
        restored
            [C, H, W] of one result.
        dtype
            Of the inputs and the results on the GPU.
        """
        gpu, count = self._gpu, len(inputs[0])
        shapes = tuple((batch, *values.shape[1:]) for values in inputs)
        while len(self._inputs) < len(inputs):
            self._inputs.append(Buffer(gpu))
        # All memory first: what runs out must leave nothing on its way.
        for buffer, shape in zip(self._inputs, shapes, strict=True):
            buffer.fit(int(np.prod(shape)) * dtype.itemsize)
        self._restored.fit(batch * int(np.prod(restored)) * dtype.itemsize)
        for buffer, values in zip(self._inputs, inputs, strict=True):
            source = buffer.host(values.shape, dtype)
            source[...] = values
            gpu.upload(buffer.address, source, self._upload)
        gpu.record(self._uploaded, self._upload)
        gpu.wait(self._compute, self._uploaded)
        addresses = tuple(buffer.address for buffer in self._inputs)
        self._launch(Batch(self._number, addresses, self._restored.address, shapes), self._compute)
        gpu.record(self._computed, self._compute)
        gpu.wait(self._download, self._computed)
        self._result = self._restored.host((count, *restored), dtype)
        gpu.download(self._result, self._restored.address, self._download)
        gpu.record(self._downloaded, self._download)

    def result(self) -> NDArray[Any]:
        """Wait for the batch; the array is the slot's own, until the next `submit`."""
        self._gpu.synchronize(self._downloaded)
        assert self._result is not None
        return self._result

    def release(self) -> None:
        """Free the buffers."""
        self._result = None
        _release_all([*self._inputs, self._restored])


class Overlap:
    """Runs batches through slots.

    Parameters
    ----------
    gpu
        CUDA.
    launch
        The computation. Launches are made from one thread and run one after the other.
    slots
        Batches on their way at a time, at least 1. With two, the next one is uploaded and the last one taken care of by
        the host while one is computed.
    """

    def __init__(self, gpu: Gpu, launch: Launch, slots: int = 2) -> None:
        streams = gpu.stream(), gpu.stream(), gpu.stream()
        self.compute_stream = streams[1]
        self._slots = [Slot(number, gpu, streams, launch) for number in range(slots)]
        self._waiting: deque[Slot] = deque()

    def run(
        self,
        batches: Iterator[Sequence[NDArray[Any]]],
        together: Callable[[Sequence[int]], int],
        restored: Callable[[Sequence[int]], tuple[int, ...]],
        dtype: np.dtype[Any],
    ) -> Generator[NDArray[Any], None, None]:
        """Yield a result for each batch, in order, valid until the next one is asked for.

        Parameters
        ----------
        batches
            Each the inputs of one launch, [b, C, H, W] with the same b; the images first.
        together
            How many images the computation takes that restores images of this shape, [b, C, H, W].
        restored
            [C, H, W] of a result, given that of an image.
        dtype
            Of inputs and results on the GPU.
        """
        free, waiting = deque(self._slots), self._waiting
        try:
            for inputs in batches:
                if not free:
                    yield waiting[0].result()
                    free.append(waiting.popleft())
                slot = free.popleft()
                shape = inputs[0].shape
                slot.submit(inputs, together(shape), restored(shape[1:]), dtype)
                waiting.append(slot)
            while waiting:
                yield waiting[0].result()
                waiting.popleft()
        finally:
            # Whoever stops in the middle must not find the GPU writing into buffers that are used anew.
            while waiting:
                waiting.popleft().result()

    def release(self) -> None:
        """Free all buffers; nothing may be on its way. A `run` that has not come to its end gives nothing more."""
        self._waiting.clear()
        _release_all(self._slots)


def _release_all(owners: Sequence[Buffer] | Sequence[Slot]) -> None:
    """Release every one, whichever fail."""
    with contextlib.ExitStack() as stack:
        for owner in owners:
            stack.callback(owner.release)
