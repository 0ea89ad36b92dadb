"""An engine file in TensorRT: the objects that it becomes, in one place that can let go of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import atomic_path
from .tensorrt_bindings import Backend


class RuntimeCache:
    """The kernels that TensorRT-RTX compiled for an engine on this GPU, kept from process to process.

    Parameters
    ----------
    cache
        TensorRT-RTX's object; `object` is it.
    path
        The file. One that does not fit this GPU, driver or version is not used, and written anew.
    """

    def __init__(self, cache: Any, path: Path) -> None:
        self.object, self._path, self._size = cache, path, 0
        with contextlib.suppress(OSError):
            blob = path.read_bytes()
            if cache.deserialize(blob):
                self._size = len(blob)

    def save(self) -> None:
        """Write the cache where it has grown. It only saves time: what cannot be written is left."""
        blob = bytes(self.object.serialize())
        if len(blob) == self._size:
            return
        with contextlib.suppress(OSError, InputError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(blob)
            self._size = len(blob)


class Deserialized:
    """TensorRT's objects for one engine file. Nobody else keeps a reference to them, so that `release` frees them.

    Parameters
    ----------
    backend
        What deserializes it.
    path
        The engine.
    allow_host_code
        See `TensorRtSession`.
    gpu
        CUDA, to say how much memory there is.
    digest
        The engine's SHA-256, which kernels that TensorRT-RTX compiles are kept under.

    Raises
    ------
    InputError
        It does not load, or needs more memory than the GPU has.
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
        """Free everything; nothing may be running, and the GPU must be the calling thread's."""
        # In the reverse order of their making: TensorRT wants what made an object to outlive it.
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
            # Tiles have one shape: its kernels are worth compiling at once, and worth keeping.
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


def cache_folder() -> Path:
    """Where keygraph keeps what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keygraph"
