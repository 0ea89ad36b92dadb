"""A deserialized engine: its shapes, its k, its launches, and a CUDA graph of what it does again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, KeygraphError
from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT
from ..device import transfer_pipeline
from ..errors import SessionMemoryError
from .tensorrt_bindings import Backend
from .tensorrt_file import Deserialized


class Gpu(transfer_pipeline.Gpu, Protocol):
    """What is needed of CUDA, graphs too; see `Cuda`, which has it."""

    def capture(self, stream: int, launch: Callable[[], None]) -> Any: ...
    def launch(self, graph: Any, stream: int) -> None: ...
    def free_graph(self, graph: Any) -> None: ...


#: Shape of images -> number of the profile that takes them. Extra inputs follow the images.
ProfileOf = Callable[[tuple[int, ...]], int]


class Engine:
    """Launches batches.

    The first launch of a batch runs the engine, which may still prepare itself for the shape; then a graph of the same
    launch is captured, if that can be, and runs from there on. Another shape begins anew. TensorRT-RTX keeps graphs by
    itself, since it exchanges kernels while it runs.

    Parameters
    ----------
    backend
        What deserialized it.
    file
        TensorRT's objects.
    gpu
        CUDA.
    profile_of
        Number of the profile for images of a shape; raises `InputError` when there is none.
    extras
        Names of the inputs beside image and k, in the order of a batch's.
    source
        The file, for messages.

    Raises
    ------
    InputError
        Its tensors are not those of an engine that keygraph built.
    """

    def __init__(
        self,
        backend: Backend,
        file: Deserialized,
        gpu: Gpu,
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
        self._k_buffer: transfer_pipeline.Buffer | None = None
        #: How often it was prepared for another shape.
        self.shapes = 0
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._profile = 0
        self._captures = not backend.is_rtx
        self._graphs: dict[tuple[transfer_pipeline.Batch, int], Any] = {}
        self._idle = gpu.event()

    def set_k(self, k: int, stream: int) -> None:
        """Let the launches from here on use this k; nothing may be on its way.

        An engine that was built with our plugin reads k on the GPU, one that was built from the plain functions needs
        it on the host: there it is a part of the graph.
        """
        if self._k_on_host:
            self._k_host[0] = k
            return
        if self._k_buffer is None:
            self._k_buffer = transfer_pipeline.Buffer(self._gpu)
            self._k_buffer.fit(8)
        value = self._k_buffer.host((1,), np.dtype(np.int64))
        value[0] = k
        self._gpu.upload(self._k_buffer.address, value, stream)

    def launch(self, batch: transfer_pipeline.Batch, stream: int) -> None:
        """Start one batch; see `overlap.Launch`."""
        key = batch, int(self._k_host[0])
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
            assert self._k_on_host or self._k_buffer is not None
            self._bind(K_INPUT, self._k_host.ctypes.data if self._k_on_host else self._k_buffer.address)  # type: ignore[union-attr]
        self._enqueue(stream)
        if self._captures:
            graph = self._gpu.capture(stream, lambda: self._enqueue(stream))
            if graph is None:
                self._captures = False
                self._backend.errors()
            else:
                self._graphs[key] = graph

    def release(self) -> None:
        """Free the graphs and k's buffer; nothing may be on its way."""
        self._free_graphs()
        if self._k_buffer is not None:
            self._k_buffer.release()
            self._k_buffer = None

    def _reshape(self, shapes: tuple[tuple[int, ...], ...], stream: int) -> None:
        """Prepare for another shape. Graphs hold what the context had prepared for the last one."""
        if self._graphs:
            self._gpu.record(self._idle, stream)
            self._gpu.synchronize(self._idle)
        self._free_graphs()
        self._shapes = None
        profile = self._profile_of(shapes[0])
        if profile != self._profile and not self._file.context.set_optimization_profile_async(profile, stream):
            raise self._failure(f"it does not take its profile {profile}")
        self._profile = profile
        for name, shape in zip(self._inputs, shapes, strict=True):
            if not self._file.context.set_input_shape(name, shape):
                raise self._failure(f"it does not take the shape {shape} for {name}")
        self._shapes = shapes
        self.shapes += 1

    def _bind(self, name: str, address: int) -> None:
        if not self._file.context.set_tensor_address(name, address):
            raise self._failure(f"it does not take an address for {name}")

    def _enqueue(self, stream: int) -> None:
        if not self._file.context.execute_async_v3(stream):
            raise self._failure(f"it does not run on inputs of shapes {self._shapes}")

    def _failure(self, what: str) -> KeygraphError:
        said = self._backend.errors()
        if "out of memory" in said.lower() or "outofmemory" in said.lower():
            return SessionMemoryError(f"{self._backend.name} ran out of memory")
        return KeygraphError(f"{self._backend.name} {self._backend.version} failed: {what}: {said}")

    def _free_graphs(self) -> None:
        while self._graphs:
            self._gpu.free_graph(self._graphs.popitem()[1])

    def _type(self, name: str, source: Path) -> np.dtype[Any]:
        module = self._backend.module
        kinds = {module.DataType.FLOAT: np.float32, module.DataType.HALF: np.float16}
        kind = kinds.get(self._file.engine.get_tensor_dtype(name))
        if kind is None:
            raise InputError(f"{source}: {name} is neither float32 nor float16; build it again without --half-io")
        return np.dtype(kind)
