"""A session whose network is another model of the server: each batch of tiles is a request to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import KeygraphError
from ...manifest import IMAGE_OUTPUT, Manifest
from ...runtime.backends.base import Inputs, WithBlock, image_inputs
from ...runtime.backends.onnx_failures import is_out_of_memory
from ...runtime.device.spec import Device
from ...runtime.errors import ClosedError, SessionMemoryError
from .core import K_LENGTH_INPUT, Core


class CoreSession(WithBlock):
    """Runs tiles in the core of a repository, for any number of threads.

    `run_batches` keeps so many requests in flight that the server can fill a batch while another one runs.

    Parameters
    ----------
    core
        The core.
    utils
        The module `triton_python_backend_utils` of the process.
    """

    def __init__(self, core: Core, utils: Any) -> None:
        self._core, self._utils = core, utils
        self._in_flight = 2 * self.streams
        # A request is sent by a thread that waits for its response; `async_exec` does the same with asyncio's threads.
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(self._in_flight, "keygraph-core")
        self.device = Device(core.device)
        self.runs_library = bool(core.library)
        operators = f", operators from {core.library}" if core.library else ""
        self.description = f"Triton Inference Server, model {core.model}, {core.device}{operators}"

    @property
    def manifest(self) -> Manifest:
        """See `Session.manifest`."""
        return self._core.manifest

    @property
    def streams(self) -> int:
        """Tiles, or batches that the server does not join, that the core computes at a time."""
        return max(1, self._core.max_batch) * self._core.instances

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Session.run`."""
        most = self._core.max_batch or len(images)
        inputs = (images, *extras)
        parts = [
            self._request([values[start : start + most] for values in inputs], k)
            for start in range(0, len(images), most)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def run_batches(self, batches: Iterator[Inputs], k: int | None) -> Generator[NDArray[np.float32], None, None]:
        """See `StreamingSession.run_batches`."""
        pool = self._pool
        if pool is None:
            raise ClosedError
        running: deque[Future[NDArray[np.float32]]] = deque()
        try:
            for images, *extras in batches:
                if len(running) == self._in_flight:
                    yield running.popleft().result()
                running.append(pool.submit(self.run, images, k, *extras))
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            wait(running)

    def close(self) -> None:
        """See `ClosableSession.close`."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def _request(self, inputs: list[NDArray[np.float32]], k: int | None) -> NDArray[np.float32]:
        utils, core = self._utils, self._core
        dtype = np.float16 if core.half else np.float32
        named = zip(image_inputs(core.manifest), inputs, strict=True)
        tensors = [utils.Tensor(given.name, np.ascontiguousarray(values, dtype)) for given, values in named]
        if k is not None:
            tensors.append(utils.Tensor(core.k_input, _k_tensor(core.k_input, k, len(inputs[0]))))
        request = utils.InferenceRequest(
            model_name=core.model,
            requested_output_names=[IMAGE_OUTPUT],
            inputs=tensors,
            # Else the result of a core on a GPU stays there, where NumPy does not reach it.
            preferred_memory=utils.PreferredMemory(utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            message = response.error().message()
            if is_out_of_memory(message):
                raise SessionMemoryError(f"the model {core.model} ran out of memory")
            raise KeygraphError(f"the model {core.model} failed: {message}")
        result = utils.get_output_tensor_by_name(response, IMAGE_OUTPUT)
        # A copy, because the tensor's memory is the server's.
        return np.array(result.as_numpy(), np.float32)


def _k_tensor(name: str, k: int, batch: int) -> NDArray[Any]:
    return np.zeros((batch, k), np.uint8) if name == K_LENGTH_INPUT else np.array([k], np.int64)
