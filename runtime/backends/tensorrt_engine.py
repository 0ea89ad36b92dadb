"""Launch a deserialized engine: shapes, k, addresses, and CUDA graphs of repeated launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, KeygraphError
from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT
from ..device.transfer_slot import Batch, TransferApi
from ..errors import SessionMemoryError
from .tensorrt_bindings import Backend
from .tensorrt_file import Deserialized


class LaunchApi(TransferApi, Protocol):
    """The calls of CUDA that an engine needs: those of the transfers, and graphs; see `cuda_runtime.Cuda`."""

    def capture(self, stream: int, launch: Callable[[], None]) -> Any:
        """Return a graph of the work that `launch` puts into a stream; None if capture fails."""

    def launch(self, graph: Any, stream: int) -> None:
        """Run a captured graph."""

    def free_graph(self, graph: Any) -> None:
        """Destroy a graph."""


#: Returns the number of the profile that accepts images of a shape [B, C, H, W].
ProfileOf = Callable[[tuple[int, ...]], int]


class Engine:
    """Launches batches on a deserialized engine.

    The first launch with a shape runs the engine directly, because the engine may still allocate or initialize for the
    shape. Then a CUDA graph of the same launch is captured where possible, and later launches run the graph. A new
    shape discards the graphs. TensorRT-RTX manages its own graphs, because it replaces kernels while it runs.

    An engine has one execution context, so it launches for one thread at a time: `TransferPipeline` holds a lock.

    Parameters
    ----------
    backend
        The backend that deserialized the engine.
    file
        TensorRT's objects.
    gpu
        The calls of CUDA.
    profile_of
        Returns the number of the profile for images of a shape, or raises `InputError` when there is none.
    extras
        Names of the inputs besides the image and k, in the order of `Batch.inputs`.
    source
        The engine file, for messages.

    Raises
    ------
    InputError
        The tensors are not those of an engine that keygraph built.
    """

    def __init__(
        self,
        backend: Backend,
        file: Deserialized,
        gpu: LaunchApi,
        profile_of: ProfileOf,
        extras: Sequence[str],
        source: Path,
    ) -> None:
        self._backend, self._file, self._gpu = backend, file, gpu
        self._profile_of = profile_of
        names = [file.engine.get_tensor_name(index) for index in range(file.engine.num_io_tensors)]
        self._inputs = (IMAGE_INPUT, *extras)
        ours = {*self._inputs, IMAGE_OUTPUT}
        if not ours <= set(names) <= {*ours, K_INPUT}:
            raise InputError(f"{source}: tensors {', '.join(names)} are not those of a keygraph engine; build it again")
        self.dtype = self._type(IMAGE_INPUT, source)
        if any(self._type(name, source) != self.dtype for name in (*extras, IMAGE_OUTPUT)):
            raise InputError(f"{source}: its inputs and its result have different types; build it again")
        self.takes_k = K_INPUT in names
        self._k_on_host = self.takes_k and (
            file.engine.get_tensor_location(K_INPUT) == backend.module.TensorLocation.HOST
            or file.engine.is_shape_inference_io(K_INPUT)
        )
        self._k_host: NDArray[np.int64] = np.zeros(1, np.int64)
        #: Number of times that a new shape was set.
        self.reshapes = 0
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._profile = 0
        self._captures = not backend.is_rtx
        self._graphs: dict[Batch, Any] = {}
        self._idle = gpu.event()

    def launch(self, batch: Batch, stream: int) -> None:
        """Start one batch; see `transfer_slot.Launch`.

        An engine that was built with the plugin reads k from device memory. One that was built from the plain
        functions reads it from host memory when it is launched, so that a CUDA graph contains its value.
        """
        key = batch if self._k_on_host else replace(batch, k=None)
        graph = self._graphs.get(key)
        if graph is not None:
            self._gpu.launch(graph, stream)
            return
        if batch.shapes != self._shapes:
            self._reshape(batch.shapes, stream)
        for name, address in zip(self._inputs, batch.inputs, strict=True):
            self._bind(name, address)
        self._bind(IMAGE_OUTPUT, batch.restored)
        if self.takes_k:
            assert batch.k is not None
            self._k_host[0] = batch.k
            self._bind(K_INPUT, self._k_host.ctypes.data if self._k_on_host else batch.k_address)
        self._enqueue(stream)
        if self._captures:
            graph = self._gpu.capture(stream, lambda: self._enqueue(stream))
            if graph is None:
                self._captures = False
                self._backend.errors()
            else:
                self._graphs[key] = graph

    def release(self) -> None:
        """Free the graphs; no launch may be running."""
        while self._graphs:
            self._gpu.free_graph(self._graphs.popitem()[1])

    def _reshape(self, shapes: tuple[tuple[int, ...], ...], stream: int) -> None:
        """Set new shapes, after all launches: they and existing graphs use the state of the previous shapes."""
        if self._shapes is not None:
            self._gpu.record(self._idle, stream)
            self._gpu.synchronize(self._idle)
        self.release()
        self._shapes = None
        profile = self._profile_of(shapes[0])
        if profile != self._profile and not self._file.context.set_optimization_profile_async(profile, stream):
            raise self._failure(f"it rejects its profile {profile}")
        self._profile = profile
        for name, shape in zip(self._inputs, shapes, strict=True):
            if not self._file.context.set_input_shape(name, shape):
                raise self._failure(f"it rejects the shape {shape} for {name}")
        self._shapes = shapes
        self.reshapes += 1

    def _bind(self, name: str, address: int) -> None:
        if not self._file.context.set_tensor_address(name, address):
            raise self._failure(f"it rejects an address for {name}")

    def _enqueue(self, stream: int) -> None:
        if not self._file.context.execute_async_v3(stream):
            raise self._failure(f"it does not run on inputs of shapes {self._shapes}")

    def _failure(self, what: str) -> KeygraphError:
        said = self._backend.errors()
        if "out of memory" in said.lower() or "outofmemory" in said.lower():
            return SessionMemoryError(f"{self._backend.name} ran out of memory")
        return KeygraphError(f"{self._backend.name} {self._backend.version} failed: {what}: {said}")

    def _type(self, name: str, source: Path) -> np.dtype[Any]:
        module = self._backend.module
        kinds = {module.DataType.FLOAT: np.float32, module.DataType.HALF: np.float16}
        kind = kinds.get(self._file.engine.get_tensor_dtype(name))
        if kind is None:
            raise InputError(f"{source}: {name} is neither float32 nor float16; build it again without --half-io")
        return np.dtype(kind)
