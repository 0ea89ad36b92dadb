"""An ONNX Runtime session whose inputs and result stay in device buffers that are kept from run to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ...manifest import IMAGE_OUTPUT, K_INPUT
from ..device.spec import Device


class BoundBuffers:
    """Runs a session through I/O binding.

    Tiles have one shape, so one set of buffers serves them all; another shape takes the place of the former.

    Parameters
    ----------
    session
        Of an exported file.
    device
        Where the buffers are: the session's own device.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: Device) -> None:
        self._session, self._device = session, device
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._inputs: dict[str, Any] = {}
        self._restored: Any = None

    def run(self, feeds: Mapping[str, NDArray[Any]], k: int | None, restored: tuple[int, ...]) -> NDArray[Any]:
        """Run once.

        Parameters
        ----------
        feeds
            [B, C, H, W] of the session's own type for every input but k.
        k
            None for a file without this input. It is given on the host: ONNX Runtime brings it to where its consumers
            want it, which is the device for our operators and the host for shape computations.
        restored
            Shape of the result, which has the inputs' type.

        Returns
        -------
        A copy on the host; with buffers on the CPU, a view that the next run changes.
        """
        shapes = {name: values.shape for name, values in feeds.items()} | {IMAGE_OUTPUT: restored}
        if self._shapes != shapes:
            self.release()
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
        return result

    def release(self) -> None:
        """Give the buffers back."""
        self._shapes, self._inputs, self._restored = {}, {}, None

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype, self._device.kind, self._device.index
        )
