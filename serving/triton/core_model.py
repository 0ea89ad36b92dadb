"""The core of a repository: the network as the server's ONNX Runtime or TensorRT backend runs it.

A batch of the server has one item more for each request that it joins, along the first axis of every input. k, an
int64[1], has no such axis, so that a file with k as an input could not be batched. Two changes of the file cure that:

- k is fixed: a constant takes the place of the input.
- k is the length of an input: `K_LENGTH_INPUT`, uint8[B, k] of zeros, whose second size is read by Shape. The server
  joins requests of equal shapes only, so those with another k never meet in a batch, and k stays a choice of each
  request. An axis of k values to be joined (a ragged batch) would need operators with a k for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, MissingDependencyError
from ...files import CHECKPOINT_SUFFIXES, ENGINE_SUFFIX
from ...installation import install_line
from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, METADATA_KEY, Manifest
from ...runtime.backends import engine_metadata
from ...runtime.backends.base import resolve_k
from ...runtime.backends.onnx_file import read_onnx_file
from ...version import version
from .core import K_LENGTH_INPUT, Core
from .model_config import DATA_TYPES, ModelConfig, TensorConfig
from .settings import KINDS, Settings

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

#: Tiles that run together on a GPU by default. On a CPU a batch costs 3 to 12 %, so there it is 1.
_GPU_BATCH = 8

#: Name of the backend and platform, and of a model's file, in the server.
_ONNX_RUNTIME = ("onnxruntime", "onnxruntime_onnx", "model.onnx")
_TENSORRT = ("tensorrt", "tensorrt_plan", "model.plan")


@dataclass(frozen=True)
class CoreModel:
    """The core, ready to be written.

    Attributes
    ----------
    core
        What the image model knows of it.
    config
        Its configuration.
    content
        Its file, or the content of that.
    data
        Files that belong beside it, by their names there: weights, or an engine's metadata.
    library
        Library of keygraph's operators, or None.
    server_options
        What the server must be started with, as words of its command line.
    """

    core: Core
    config: ModelConfig
    content: Path | bytes
    data: dict[str, Path]
    library: Path | None
    server_options: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""
        content = self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)
        others = [*self.data.values(), *([self.library] if self.library else [])]
        return content + sum(file.stat().st_size for file in others)


def read_model(path: Path, settings: Settings, notice: Callable[[str], None]) -> CoreModel:
    """Read a model, and make a core of it.

    Parameters
    ----------
    path
        An exported ``.onnx`` file, or an engine.
    settings
        How it is served.
    notice
        Called with lines for the user: a file that was changed since it was exported, a library that is not installed.

    Raises
    ------
    InputError
        The model is of another kind, missing or damaged, or a setting does not fit it.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return _onnx_core(path, settings, notice)
    if suffix == ENGINE_SUFFIX:
        return _engine_core(path, settings, notice)
    if suffix in CHECKPOINT_SUFFIXES:
        raise InputError(f"{path} is a checkpoint, which the server does not run; export it: keygraph export {path}")
    raise InputError(f"{path} is neither an exported .onnx file nor an engine ({ENGINE_SUFFIX}); give one of the two")


def _onnx_core(path: Path, settings: Settings, notice: Callable[[str], None]) -> CoreModel:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the package onnx, which changes the file for the server, is not installed; install it with: "
            f"{install_line('export')}"
        ) from error
    file = read_onnx_file(path)
    file.require_valid()
    manifest = file.manifest
    for line in file.notices:
        notice(line)
    device = settings.device or "cpu"
    if manifest.precision == "bf16" and device == "cpu":
        raise InputError(
            f"{path} computes in bfloat16, for which ONNX Runtime has no kernels on a CPU; give --device cuda, or "
            "export the checkpoint again with: export-model CHECKPOINT --precision fp32"
        )
    batch_axis = file.inputs.get(IMAGE_INPUT, (None,))[0]
    fixed_batch = batch_axis if isinstance(batch_axis, int) else None
    batch = _batch(path, settings, 0 if fixed_batch else None, _GPU_BATCH if device == "cuda" else 1)
    model = onnx.load(path, load_external_data=False)
    served, k_input = manifest, ""
    k = resolve_k(manifest, settings.k)
    if k is not None and settings.k is not None:
        served = _with_fixed_k(model, manifest, k)
    elif k is not None:
        k_input = K_LENGTH_INPUT if batch else K_INPUT
        if batch:
            _take_k_from_length(model)
    library = settings.find_library("onnxruntime", notice) if file.count("keygraph") else None
    inputs = tuple(_tensors(model.graph.input, path, batched=batch > 0))
    outputs = (_result(manifest, inputs[0]),)
    unchanged = served is manifest and k_input != K_LENGTH_INPUT
    return CoreModel(
        core=_core(settings, served, device, batch, k_input, library),
        config=_config(settings, _ONNX_RUNTIME, device, batch, inputs, outputs, library),
        content=path if unchanged else model.SerializeToString(deterministic=True),
        data={str(weights.relative_to(path.parent)): weights for weights in file.data},
        library=library,
    )


def _engine_core(path: Path, settings: Settings, notice: Callable[[str], None]) -> CoreModel:
    metadata = engine_metadata.read(path)
    engine_metadata.check_digest(path, metadata)
    for line in metadata.notices:
        notice(line)
    if metadata.backend != "tensorrt":
        raise InputError(
            f"{path} is an engine of {engine_metadata.BACKENDS.get(metadata.backend, metadata.backend)}, which the "
            f"server has no backend for; build one with: {metadata.command(backend='tensorrt')}"
        )
    if metadata.stripped:
        raise InputError(
            f"{path} was built without its weights, which the server does not put in; rebuild with: "
            + metadata.command(**{"strip-weights": []})
        )
    if settings.device == "cpu":
        raise InputError(f"{path} is an engine, which runs on a GPU; leave --device out")
    manifest = metadata.manifest
    k = resolve_k(manifest, settings.k)
    if k is not None and settings.k is not None:
        raise InputError(
            f"k is an input of {path}, and cannot be fixed in an engine; leave --k out, or export the checkpoint with "
            f"--k {k} and build the engine again"
        )
    # With k as an input, the first axis of the inputs is no batch; the image model then sends whole batches.
    image = next(tensor for tensor in metadata.tensors if tensor.name == IMAGE_INPUT)
    joined = k is None and image.shape[0] == -1 and all(profile.batch[0] == 1 for profile in manifest.profiles)
    most = min((profile.batch[2] for profile in manifest.profiles), default=1) if joined else 0
    batch = _batch(path, settings, most, most)
    library = None
    options: list[str] = []
    if metadata.plugin is not None:
        library = settings.find_library("tensorrt", notice)
        engine_metadata.check_plugin(path, metadata, library)
    if library is not None:
        options.append(f"--backend-config=tensorrt,plugins={settings.on_server(library)}")
    if metadata.host_code:
        options.append("--backend-config=tensorrt,version-compatible=true")
    tensors: list[list[TensorConfig]] = [[], []]
    for tensor in metadata.tensors:
        _check_dtype(path, tensor.name, tensor.dtype)
        dims = tensor.shape[1:] if batch else tensor.shape
        tensors[tensor.output].append(TensorConfig(tensor.name, tensor.dtype, dims, shape_tensor=tensor.host))
    config = _config(settings, _TENSORRT, "cuda", batch, tuple(tensors[0]), tuple(tensors[1]), None)
    return CoreModel(
        core=_core(settings, manifest, "cuda", batch, "" if k is None else K_INPUT, library),
        config=replace(config, profiles=tuple(range(len(manifest.profiles)))),
        content=path,
        data={engine_metadata.metadata_path(Path(_TENSORRT[2])).name: engine_metadata.metadata_path(path)},
        library=library,
        server_options=tuple(options),
    )


def _batch(path: Path, settings: Settings, most: int | None, default: int) -> int:
    """Return the most tiles that the server runs together; `most` is what the model takes, None for any number."""
    if settings.batch is None:
        return default if most is None else min(default, most)
    if most == 0:
        raise InputError(
            f"the server cannot join tiles for {path}, whose batch is fixed or which has k as an input; "
            "leave --batch out"
        )
    if most is not None and settings.batch > most:
        raise InputError(f"--batch is {settings.batch}, and {path} was built for at most {most}; give {most} or less")
    return settings.batch


def _core(settings: Settings, manifest: Manifest, device: str, batch: int, k_input: str, library: Path | None) -> Core:
    return Core(
        model=settings.core_name,
        manifest=manifest,
        k_input=k_input,
        half=manifest.half is not None and manifest.half.half_io,
        max_batch=batch,
        instances=settings.core_instances,
        device=device,
        library="" if library is None else library.name,
        keygraph=version(),
    )


def _config(
    settings: Settings,
    backend: tuple[str, str, str],
    device: str,
    batch: int,
    inputs: tuple[TensorConfig, ...],
    outputs: tuple[TensorConfig, ...],
    library: Path | None,
) -> ModelConfig:
    return ModelConfig(
        settings.core_name,
        *backend,
        max_batch_size=batch,
        inputs=inputs,
        outputs=outputs,
        kind=KINDS[device],
        instances=settings.core_instances,
        libraries=() if library is None else (settings.on_server(library),),
    )


def _with_fixed_k(model: ModelProto, manifest: Manifest, k: int) -> Manifest:
    """Make k a constant, in the file and in the manifest, which is returned."""
    from onnx import TensorProto, helper

    _remove_k(model)
    model.graph.initializer.append(helper.make_tensor(K_INPUT, TensorProto.INT64, [1], [k]))
    neighbours = manifest.neighbours
    assert neighbours is not None
    return replace(manifest, neighbours=replace(neighbours, default=k, runtime=False))


def _take_k_from_length(model: ModelProto) -> None:
    """Make k the length of an input."""
    from onnx import TensorProto, helper

    _remove_k(model)
    model.graph.input.append(helper.make_tensor_value_info(K_LENGTH_INPUT, TensorProto.UINT8, ["batch", "k"]))
    node = helper.make_node("Shape", [K_LENGTH_INPUT], [K_INPUT], "keygraph_k", start=1, end=2)
    model.graph.node.insert(0, node)


def _remove_k(model: ModelProto) -> None:
    """Remove the input k, and the manifest, which describes the file as it was."""
    model.graph.input.remove(next(value for value in model.graph.input if value.name == K_INPUT))
    model.metadata_props.remove(next(entry for entry in model.metadata_props if entry.key == METADATA_KEY))


def _tensors(values: Iterable[ValueInfoProto], path: Path, *, batched: bool) -> Iterator[TensorConfig]:
    """Yield inputs of an ONNX file, without the batch where the server has one."""
    from onnx import helper

    for value in values:
        tensor = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        _check_dtype(path, value.name, dtype)
        dims = tuple(axis.dim_value or -1 for axis in tensor.shape.dim)
        yield TensorConfig(value.name, dtype, dims[1:] if batched else dims)


def _result(manifest: Manifest, image: TensorConfig) -> TensorConfig:
    """Return the output for an image. What the file says may be less than what ONNX Runtime infers from its nodes."""
    sides = zip(image.dims[-2:], manifest.margin, strict=True)
    height, width = (-1 if side == -1 else (side - margin) * manifest.scale for side, margin in sides)
    return TensorConfig(IMAGE_OUTPUT, image.dtype, (*image.dims[:-3], manifest.out_channels, height, width))


def _check_dtype(path: Path, name: str, dtype: str) -> None:
    if dtype not in DATA_TYPES:
        raise InputError(
            f"{path}: its {name} is {dtype}, which the server cannot send; export it again without --half-io"
        )
