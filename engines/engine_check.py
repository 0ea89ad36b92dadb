"""Load an engine after it was built, to verify its types and shapes, or to list its layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import KeygraphError, MissingDependencyError
from ..manifest import Manifest, Profile
from ..runtime.backends.base import image_inputs
from ..runtime.backends.engine_metadata import EngineMetadata, Tensor
from ..runtime.backends.tensorrt_bindings import Backend, load_backend
from ..runtime.device.cuda_driver import Gpu
from .network import TYPES, profile_shapes
from .targets import Target


def read_back(
    backend: Backend,
    data: memoryview | bytes,
    tensors: tuple[Tensor, ...],
    manifest: Manifest,
    profiles: tuple[Profile, ...],
    target: Target,
    gpu: Gpu | None,
    *,
    stripped: bool,
    host_code: bool,
) -> str:
    """Deserialize an engine that was just built, and compare it with the network.

    Parameters
    ----------
    backend
        The backend that built the engine.
    data
        The serialized engine.
    tensors
        Inputs and outputs of the network.
    manifest
        The model's manifest.
    profiles
        The profiles that were requested.
    target
        The target of the engine; only a GPU of this capability can load it.
    gpu
        This machine's GPU, or None.
    stripped
        Whether the weights were left out.
    host_code
        Whether the engine contains code for the host, which loading it may then run.

    Returns
    -------
    str
        What was verified, or why the engine could not be loaded here.

    Raises
    ------
    KeygraphError
        The engine does not load, or its types, shapes or profiles differ.
    """
    if reason := _unreadable(target.capability, gpu, stripped):
        return f"not read back: {reason}"
    engine = _deserialize(backend, data, host_code)
    for tensor in tensors:
        dtype = engine.get_tensor_dtype(tensor.name).name
        found = (TYPES.get(dtype, dtype.lower()), tuple(engine.get_tensor_shape(tensor.name)))
        if found != (tensor.dtype, tensor.shape):
            raise KeygraphError(
                f"the engine's {tensor.name} is {found[0]}{list(found[1])}, but the file's is "
                f"{tensor.dtype}{list(tensor.shape)}; this is a fault of {backend.name} {backend.version}"
            )
    for i, profile in enumerate(profiles):
        for given in image_inputs(manifest):
            shapes = [tuple(shape) for shape in engine.get_tensor_profile_shape(given.name, i)]
            if shapes != (asked := profile_shapes(given, profile)):
                raise KeygraphError(
                    f"profile {i} of the engine takes {shapes} for {given.name}, but {asked} was asked for"
                )
    return f"read back on {gpu.name if gpu else ''}: types, shapes and profiles are those of the file"


def inspect(engine: Path, metadata: EngineMetadata, gpu: Gpu | None) -> dict[str, Any]:
    """Describe an engine with TensorRT's engine inspector.

    Parameters
    ----------
    engine
        The engine file.
    metadata
        Its metadata.
    gpu
        This machine's GPU, or None.

    Returns
    -------
    dict
        ``"layers"``, a line for each with its name and, where the inspector reports them, type and precision, and
        ``"device memory"``, the bytes that an execution context needs. Or only ``"not inspected"`` with the reason.
    """
    if reason := _unreadable(metadata.capability, gpu, metadata.stripped):
        return {"not inspected": reason}
    if metadata.host_code:
        return {"not inspected": "the engine holds code for the host, which loading would run"}
    try:
        backend = load_backend(metadata.backend)
    except MissingDependencyError as error:
        return {"not inspected": str(error)}
    if metadata.plugin is not None:
        return {"not inspected": "the engine needs a plugin library"}
    if backend.version != metadata.version:
        return {"not inspected": f"built by {metadata.version}, here is {backend.version}"}
    loaded = _deserialize(backend, engine.read_bytes(), False)
    inspector = loaded.create_engine_inspector()
    text = inspector.get_engine_information(backend.module.LayerInformationFormat.JSON)
    return {
        "layers": [_layer(layer) for layer in json.loads(text).get("Layers", [])],
        "device memory": loaded.device_memory_size_v2,
    }


def _unreadable(capability: tuple[int, int], gpu: Gpu | None, stripped: bool) -> str:
    if gpu is None:
        return "no GPU"
    if gpu.capability != capability:
        return f"the GPU here is {gpu.target}"
    return "its weights were left out" if stripped else ""


def _deserialize(backend: Backend, data: memoryview | bytes, host_code: bool) -> Any:
    runtime = backend.module.Runtime(backend.log)
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise KeygraphError(f"the engine does not load on this machine's GPU: {backend.errors()}")
    return engine


def _layer(layer: Any) -> str:
    """Return one layer in a line. Some versions report names only."""
    if not isinstance(layer, dict):
        return str(layer)
    kinds = sorted({output.get("Format/Datatype", output.get("Format", "")) for output in layer.get("Outputs", [])})
    return "  ".join(filter(None, [layer.get("Name", ""), layer.get("LayerType", ""), ", ".join(kinds)]))
