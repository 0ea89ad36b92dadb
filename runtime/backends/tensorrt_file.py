"""Deserialize an engine file and own TensorRT's objects for it, so that they can be released in order."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import atomic_path
from .tensorrt_bindings import Backend
from .user_cache import cache_folder


class RuntimeCache:
    """The kernels that TensorRT-RTX compiled for an engine on this GPU, saved to a file for later processes.

    Parameters
    ----------
    cache
        TensorRT-RTX's cache object, available as `object`.
    path
        The file. If it does not match this GPU, driver or version, it is ignored and overwritten.
    """

    def __init__(self, cache: Any, path: Path) -> None:
        self.object, self._path, self._size = cache, path, 0
        with contextlib.suppress(OSError):
            blob = path.read_bytes()
            if cache.deserialize(blob):
                self._size = len(blob)

    def save(self) -> None:
        """Write the cache if its size has changed. A failure is ignored, because the cache only saves time."""
        blob = bytes(self.object.serialize())
        if len(blob) == self._size:
            return
        with contextlib.suppress(OSError, InputError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(blob)
            self._size = len(blob)


class Deserialized:
    """TensorRT's objects for one engine file. No other object may keep references to them, so `release` frees them.

    Parameters
    ----------
    backend
        The backend that deserializes the engine.
    path
        The engine.
    allow_host_code
        As for `TensorRtSession`.
    gpu
        The `Cuda` object, which reports free memory for the error message.
    digest
        SHA-256 of the engine, which names the file of TensorRT-RTX's compiled kernels.

    Raises
    ------
    InputError
        The engine does not load, or needs more memory than the GPU has.
    """

    def __init__(self, backend: Backend, path: Path, allow_host_code: bool, gpu: Any, digest: str) -> None:
        self.runtime: Any = None
        self.engine: Any = None
        self.context: Any = None
        self.cache: RuntimeCache | None = None
        self._config: Any = None
        try:
            self._open(backend, path, allow_host_code, gpu, digest)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Free all objects; no launch may be running, and the GPU must be the calling thread's current device."""
        # In reverse order of creation, because TensorRT requires that an object's creator outlives it.
        self.context = None
        self.cache = self._config = None
        self.engine = None
        self.runtime = None

    def _open(self, backend: Backend, path: Path, allow_host_code: bool, gpu: Any, digest: str) -> None:
        module = backend.module
        self.runtime = module.Runtime(backend.log)
        self.runtime.engine_host_code_allowed = allow_host_code
        backend.errors()
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise InputError(
                f"{path} does not load in {backend.name} {backend.version}: {backend.errors()}; build it again with: "
                "keygraph build MODEL.onnx"
            )
        if backend.is_rtx:
            self._config = self.engine.create_runtime_config()
            # All tiles have the same shape, so compile its specialized kernels immediately and keep them.
            self._config.dynamic_shapes_kernel_specialization_strategy = (
                module.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            self._config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self.cache = RuntimeCache(
                self._config.create_runtime_cache(), cache_folder() / "tensorrt-rtx" / f"{digest[:32]}.cache"
            )
            self._config.set_runtime_cache(self.cache.object)
            self.context = self.engine.create_execution_context(self._config)
        else:
            self.context = self.engine.create_execution_context()
        if self.context is None:
            free, total = gpu.free_memory()
            raise InputError(
                f"{path} needs {self.engine.device_memory_size_v2 / 2**20:,.0f} MiB for its activations, and the GPU "
                f"has {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB free ({backend.errors()}); build an engine with "
                "smaller tiles or batches"
            )
