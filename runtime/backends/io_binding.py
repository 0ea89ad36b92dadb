"""Run an ONNX Runtime session with I/O binding to device buffers that are reused between runs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...manifest import IMAGE_OUTPUT, K_INPUT
from ..device.spec import Device


class BoundBuffers:
    """Runs a session through I/O binding, for any number of threads.

    There is one set of buffers, because all tiles have the same shape; a new shape replaces it. So runs wait for each
    other, from the copy of the inputs to the copy of the result. A GPU would compute them one after the other anyway,
    and needs memory for one at a time in this way.

    Parameters
    ----------
    session
        A session of an exported file.
    device
        The session's device, where the buffers are allocated.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: Device) -> None:
        self._session, self._device = session, device
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._inputs: dict[str, Any] = {}
        self._restored: Any = None
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, NDArray[Any]], k: int | None, restored: tuple[int, ...]) -> NDArray[Any]:
        """Run the session once. A failed run frees the buffers, for a smaller one that may follow.

        Parameters
        ----------
        feeds
            float[B, C, H, W] in the session's dtype for every input except k.
        k
            None for a file without this input. It is bound on the host: ONNX Runtime copies it to the device for
            keygraph's operators and leaves it on the host for shape computations.
        restored
            Shape of the result, which has the dtype of the inputs.

        Returns
        -------
        float[B, C, H, W]
            The caller's own array, on the host.
        """
        with self._lock:
            try:
                return self._run(feeds, k, restored)
            except BaseException:
                self._release()
                raise

    def release(self) -> None:
        """Free the buffers, after the run in progress."""
        with self._lock:
            self._release()

    def _run(self, feeds: Mapping[str, NDArray[Any]], k: int | None, restored: tuple[int, ...]) -> NDArray[Any]:
        shapes = {name: values.shape for name, values in feeds.items()} | {IMAGE_OUTPUT: restored}
        if self._shapes != shapes:
            self._release()
            self._inputs = {name: self._empty(values.shape, values.dtype) for name, values in feeds.items()}
            self._restored = self._empty(restored, next(iter(feeds.values())).dtype)
            self._shapes = shapes
        binding = self._session.io_binding()
        for name, values in feeds.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(values))
            binding.bind_ortvalue_input(name, self._inputs[name])
        if k is not None:
            binding.bind_cpu_input(K_INPUT, np.array([k], dtype=np.int64))
        binding.bind_ortvalue_output(IMAGE_OUTPUT, self._restored)
        self._session.run_with_iobinding(binding)
        result: NDArray[Any] = self._restored.numpy()
        # `numpy` copies from a GPU, but gives a view of a buffer on the CPU.
        return result.copy() if self._device.kind == "cpu" else result

    def _release(self) -> None:
        self._shapes, self._inputs, self._restored = {}, {}, None

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype, self._device.kind, self._device.index
        )
