"""An ONNX Runtime session whose image and result stay in device buffers that are kept from run to run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT
from .device import Device


class BoundBuffers:
    """Runs a session through I/O binding.

    Tiles have one shape, so one pair of buffers serves them all; another shape takes the place of the former.

    Parameters
    ----------
    session
        Of an exported file.
    device
        Where the buffers are: the session's own device.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: Device) -> None:
        self._session, self._device = session, device
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._image: Any = None
        self._restored: Any = None

    def run(self, images: NDArray[Any], k: int | None, restored: tuple[int, ...]) -> NDArray[Any]:
        """Run once.

        Parameters
        ----------
        images
            [B, C, H, W] of the session's own type.
        k
            None for a file without this input. It is given on the host: ONNX Runtime brings it to where its consumers
            want it, which is the device for our operators and the host for shape computations.
        restored
            Shape of the result, which has the images' type.

        Returns
        -------
        A copy on the host; with buffers on the CPU, a view that the next run changes.
        """
        if self._shapes != (images.shape, restored):
            self.release()
            self._image = self._empty(images.shape, images.dtype)
            self._restored = self._empty(restored, images.dtype)
            self._shapes = images.shape, restored
        self._image.update_inplace(np.ascontiguousarray(images))
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(IMAGE_INPUT, self._image)
        if k is not None:
            binding.bind_cpu_input(K_INPUT, np.array([k], dtype=np.int64))
        binding.bind_ortvalue_output(IMAGE_OUTPUT, self._restored)
        self._session.run_with_iobinding(binding)
        result: NDArray[Any] = self._restored.numpy()
        return result

    def release(self) -> None:
        """Give the buffers back."""
        self._shapes = self._image = self._restored = None

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype, self._device.kind, self._device.index
        )
