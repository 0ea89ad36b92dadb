"""Upload the next batch and download the previous one while the GPU computes.

Upload, computation and download have a stream each, so that they run concurrently. A slot holds the buffers of one
batch in flight. Events order the three steps of a batch; the host only waits for results.

Several runs may be in progress at a time, of one thread or of several. Each run has a lane of its own: slots, and
streams for its transfers. All computations share one stream, because an engine computes one batch at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ClosedError, SessionMemoryError
from .gate import Gate
from .transfer_slot import Buffer, Compute, Launch, Slot, TransferApi, release_all


class Lane:
    """What one run needs at a time: slots, streams for transfers, and k on the GPU."""

    def __init__(self, gpu: TransferApi, compute: Compute, numbers: Sequence[int]) -> None:
        self._gpu = gpu
        self._upload = gpu.stream()
        transfers = self._upload, gpu.stream()
        self._slots = [Slot(number, gpu, compute, transfers) for number in numbers]
        self._free, self._waiting = deque(self._slots), deque[Slot]()
        self._k_buffer = Buffer(gpu)
        self._k: tuple[int | None, int] = (None, 0)

    def begin(self, k: int | None) -> None:
        """Start a run with this k; no work may be running."""
        self._k = (None, 0)
        if k is not None:
            self._k_buffer.fit(8)
            value = self._k_buffer.host((1,), np.dtype(np.int64))
            value[0] = k
            self._gpu.upload(self._k_buffer.address, value, self._upload)
            self._k = (k, self._k_buffer.address)

    @property
    def full(self) -> bool:
        """Whether a result must be taken before the next batch can be submitted."""
        return not self._free

    @property
    def busy(self) -> bool:
        """Whether there are results to take."""
        return bool(self._waiting)

    def submit(
        self, inputs: Sequence[NDArray[Any]], batch: int, restored: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        """Start a batch in a free slot.

        Parameters
        ----------
        inputs, batch, restored, dtype
            As for `Slot.submit`.
        """
        self._free[0].submit(inputs, batch, restored, dtype, self._k)
        self._waiting.append(self._free.popleft())

    def oldest(self) -> NDArray[Any]:
        """Wait for the oldest batch and return its result, which is valid until `drop_oldest`."""
        return self._waiting[0].result()

    def drop_oldest(self) -> None:
        """Make the slot of the oldest batch free."""
        self._free.append(self._waiting.popleft())

    def finish(self) -> None:
        """Wait for all batches."""
        while self._waiting:
            self._waiting[0].result()
            self.drop_oldest()

    def release(self) -> None:
        """Free all buffers; no work may be running."""
        release_all([*self._slots, self._k_buffer])


class TransferPipeline:
    """Runs batches with overlapped transfers, for any number of threads.

    Parameters
    ----------
    gpu
        The calls of CUDA.
    launch
        The computation. Launches run one after the other, whichever threads they come from.
    slots
        Batches of a run in flight at a time, at least 1. With 2, one batch is uploaded or read by the host while
        another is computed.
    """

    def __init__(self, gpu: TransferApi, launch: Launch, slots: int = 2) -> None:
        self._gpu, self._slots = gpu, slots
        self._compute = Compute(launch, gpu.stream(), threading.Lock())
        self._gate = Gate()
        self._opening = threading.Lock()
        self._numbers = itertools.count()
        #: All lanes, and those that no run uses. There are as many as there were runs at the same time.
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._idle.append(self._open_lane())

    def run(
        self,
        batches: Iterator[Sequence[NDArray[Any]]],
        together: Callable[[Sequence[int]], int],
        restored: Callable[[Sequence[int]], tuple[int, ...]],
        dtype: np.dtype[Any],
        k: int | None = None,
    ) -> Generator[NDArray[Any], None, None]:
        """Run batches.

        Parameters
        ----------
        batches
            The inputs of each launch, float[b, C, H, W] with the same b, the images first.
        together
            Returns the batch size of the computation for images of a shape [b, C, H, W].
        restored
            Returns [C, H, W] of a result for an image of [C, H, W].
        dtype
            Dtype of inputs and results on the GPU.
        k
            k of all these batches; None without one.

        Yields
        ------
        float[b, C, H, W]
            One result for each batch, in order, valid until the next one is requested.

        Raises
        ------
        ClosedError
            The pipeline has been released.
        """
        with self._working():
            lane = self._take()
        try:
            with self._working():
                lane.begin(k)
            for inputs in batches:
                if lane.full:
                    with self._working():
                        result = lane.oldest()
                    yield result
                    lane.drop_oldest()
                shape = inputs[0].shape
                with self._working():
                    lane.submit(inputs, together(shape), restored(shape[1:]), dtype)
            while lane.busy:
                with self._working():
                    result = lane.oldest()
                yield result
                lane.drop_oldest()
        except SessionMemoryError:
            # A smaller batch may follow, and needs the memory.
            with self._working():
                lane.finish()
                lane.release()
            raise
        finally:
            # A caller that stops early must not reuse buffers that the GPU still writes to.
            with contextlib.suppress(ClosedError), self._working():
                lane.finish()
                self._idle.append(lane)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Do something inside the block while nothing is launched; raises `ClosedError` after `release`."""
        with self._working(), self._compute.lock:
            yield

    def close(self) -> None:
        """Accept no more work, and wait for the calls in progress. A `run` that is not exhausted raises an error."""
        self._gate.close()

    def release(self) -> None:
        """Close, and free all buffers; no work may be running on the GPU."""
        self.close()
        release_all(self._lanes)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Call CUDA inside the block, in whichever thread that is."""
        with self._gate.inside(), self._gpu.current():
            yield

    def _take(self) -> Lane:
        """Return an idle lane, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._open_lane()

    def _open_lane(self) -> Lane:
        with self._opening:
            lane = Lane(self._gpu, self._compute, list(itertools.islice(self._numbers, self._slots)))
            self._lanes.append(lane)
        return lane
