"""Fake Python bindings of TensorRT on a `FakeGpu`. An engine is JSON and adds k / 1000 and its extra inputs to images.

It checks TensorRT's rules: an engine runs only if every shape and address is set; k on the host is read when the engine
is launched, k on the device when it runs; a new shape invalidates captured graphs.
"""

from __future__ import annotations

import enum
import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_gpu import FakeGpu

__version__ = "10.99.1"

#: The GPU of the current test.
gpu = FakeGpu()

#: Settings of the engines that were opened, and paths of the libraries that were loaded.
opened: list[dict[str, Any]] = []
loaded: list[str] = []
creators: list[tuple[str, str, str]] = []


class ILogger:
    class Severity(enum.Enum):
        ERROR = 1
        INTERNAL_ERROR = 0
        INFO = 3

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    BF16 = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class Registry:
    @property
    def all_creators(self) -> list[Any]:
        return [SimpleNamespace(name=n, plugin_version=v, plugin_namespace=s) for n, v, s in creators]

    def load_library(self, path: str) -> Any:
        if b"broken" in Path(path).read_bytes():
            return None
        loaded.append(path)
        return object()


def get_plugin_registry() -> Registry:
    return Registry()


def watch(thing: Any, name: str) -> None:
    """Record when an object of TensorRT is freed."""
    weakref.finalize(thing, gpu.free_object, name).atexit = False


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, log: ILogger) -> None:
        self.log = log
        watch(self, "runtime")

    def deserialize_cuda_engine(self, blob: bytes) -> Any:
        opened.append({"host_code": self.engine_host_code_allowed})
        try:
            return Engine(json.loads(blob), self)
        except ValueError:
            self.log.log(ILogger.Severity.ERROR, "Serialization assertion failed")
            return None


class Engine:
    device_memory_size_v2 = 3 << 20

    def __init__(self, values: dict[str, Any], runtime: Runtime) -> None:
        self.values, self.runtime, self.log = values, runtime, runtime.log
        watch(self, "engine")
        self.names = values.get("tensors") or [
            "image",
            *values.get("extras", []),
            *(["k"] if values["k"] else []),
            "restored",
        ]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return str(self.names[index])

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.values.get("type", "FLOAT")]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name == "k" and self.values["k"] == "host" else TensorLocation.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return self.get_tensor_location(name) == TensorLocation.HOST

    def create_runtime_config(self) -> Any:
        return Config()

    def create_execution_context(self, config: Any = None) -> Any:
        if self.values.get("too_large"):
            self.log.log(ILogger.Severity.ERROR, "Requested size was not available")
            return None
        return Context(self, config)


class Config:
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
    cuda_graph_strategy = CudaGraphStrategy.DISABLED

    def create_runtime_cache(self) -> Any:
        return Cache()

    def set_runtime_cache(self, cache: Any) -> bool:
        self.cache = cache
        return True


class Cache:
    blob = b""

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"kernels"):
            return False
        self.blob = blob
        return True

    def serialize(self) -> bytes:
        return self.blob


class Context:
    def __init__(self, engine: Engine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profile, self.generation = 0, 0
        opened[-1]["config"] = config
        watch(self, "context")

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile, self.shapes = index, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, most = self.engine.values["profiles"][self.profile]
        if name == "image" and not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = tuple(shape)
        self.generation += 1
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        extras = self.engine.values.get("extras", [])
        if set(self.shapes) != {"image", *extras} or set(self.addresses) != set(self.engine.names):
            return False
        if self.engine.values.get("memory") and self.shapes["image"][0] > self.engine.values["memory"]:
            self.engine.log.log(ILogger.Severity.ERROR, "Cuda Runtime (out of memory)")
            return False
        if self.config is not None:
            self.config.cache.blob = b"kernels for " + str(self.shapes["image"]).encode()
        shapes, at, generation = dict(self.shapes), dict(self.addresses), self.generation
        dtype = np.float16 if self.engine.values.get("type") == "HALF" else np.float32
        on_host = None
        if self.engine.values["k"] == "host":
            import ctypes

            on_host = ctypes.c_int64.from_address(at["k"]).value

        def run() -> None:
            assert generation == self.generation, "a graph of an earlier shape"
            k = on_host if on_host is not None else int(gpu.read(at["k"], (1,), np.int64)[0]) if "k" in at else 0
            given = [gpu.read(at[name], shapes[name], dtype) for name in ("image", *extras)]
            # Inputs may be larger by a margin; the result has none.
            height, width = (min(values.shape[axis] for values in given) for axis in (2, 3))
            total = sum(values[:, :, :height, :width] for values in given)
            gpu.write(at["restored"], (total + dtype(k / 1000)).astype(dtype))

        gpu.submit("compute", stream, run)
        return True
