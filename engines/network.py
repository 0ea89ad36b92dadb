"""One attempt at an engine: parse, set types and profiles, build. Written against what all TensorRTs share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, KeygraphError
from ..manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, ExtraInput, Manifest, Profile
from ..runtime.backends.engine_metadata import Tensor
from ..runtime.backends.tensorrt_bindings import Backend
from .fallbacks import BuilderError, Rung
from .fp32_matmul_rewrite import check_products, without_products
from .model import Model
from .options import Options
from .targets import Target

#: TensorRT's names of types -> NumPy's.
TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}

#: What builders say of an engine's memory, among their other lines.
_MEMORY = {
    "weights": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "activations": re.compile(r"Total Activation Memory: (\d+) bytes"),
}

#: Gets the done part of the work, from 0 to 1.
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Built:
    """An engine in memory.

    Attributes
    ----------
    data
        The serialized engine, a buffer.
    tensors
        The network's inputs and outputs.
    """

    data: memoryview
    tensors: tuple[Tensor, ...]


def build(
    backend: Backend,
    model: Model,
    options: Options,
    target: Target,
    rung: Rung,
    timing_cache: Path | None,
    progress: Progress,
) -> Built:
    """Build once.

    Parameters
    ----------
    backend
        What builds; plugins are registered already.
    model, options, target
        What is built.
    rung
        How, this time.
    timing_cache
        A file of TensorRT's timings to start from and to add to, or None.
    progress
        Gets the done part of the work.

    Raises
    ------
    BuilderError
        The builder gave nothing.
    InputError
        The parser does not take the file; the message names the module.
    KeygraphError
        The network's inputs and outputs are not those of the manifest.
    """
    trt = backend.module
    backend.errors()  # What was there before is not of this attempt.
    builder = trt.Builder(backend.log)
    # Always strongly typed: the types are the file's. TensorRT 11 knows nothing else.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, backend.log)
    if backend.is_rtx and not target.rtx_fp32_products:
        check_products(model, target.name)
        parsed = parser.parse(without_products(model.proto).SerializeToString(), str(model.path))
    else:
        parsed = parser.parse_from_file(str(model.path))
    if not parsed:
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        reason = "; ".join(dict.fromkeys(errors)) or backend.errors()
        raise InputError(f"{backend.name} {backend.version} does not take {model.path}: {reason}")
    tensors = network_tensors(network)
    check_tensors(model, options, tensors)
    config = builder.create_builder_config()
    configure(trt, config, options, rung)
    if backend.is_rtx:
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, target.name.replace("_", "").upper(), None)
        if capability is None:
            raise InputError(f"{backend.name} {backend.version} does not build for {target.name}; upgrade it")
        config.set_compute_capability(capability, 0)
    _add_profiles(builder, config, model, options, tensors)
    cache = _load_timing_cache(config, timing_cache)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise BuilderError(_brief(backend.errors()))
    if timing_cache is not None:
        _save_timing_cache(cache, timing_cache)
    return Built(memoryview(data), tensors)


def network_tensors(network: Any) -> tuple[Tensor, ...]:
    """Inputs, then outputs."""
    inputs = [(network.get_input(i), False) for i in range(network.num_inputs)]
    outputs = [(network.get_output(i), True) for i in range(network.num_outputs)]
    return tuple(
        Tensor(
            name=tensor.name,
            dtype=TYPES.get(tensor.dtype.name, tensor.dtype.name.lower()),
            shape=tuple(tensor.shape),
            output=output,
            host=bool(tensor.is_shape_tensor),
        )
        for tensor, output in inputs + outputs
    )


def check_tensors(model: Model, options: Options, tensors: tuple[Tensor, ...]) -> None:
    """Hold what was parsed against the manifest; raises `KeygraphError`."""
    expected = {given.name: given.channels for given in image_inputs(model.manifest)}
    expected[IMAGE_OUTPUT] = model.manifest.out_channels
    found = {tensor.name: tensor for tensor in tensors}
    names = {*expected, *([K_INPUT] if options.k else [])}
    if set(found) != names or any(found[n].shape[1] != channels for n, channels in expected.items()):
        words = ", ".join(f"{t.name} {list(t.shape)}" for t in tensors)
        raise KeygraphError(f"{model.path}: its tensors ({words}) are not those of its manifest; export it again")


def image_inputs(manifest: Manifest) -> tuple[ExtraInput, ...]:
    """Everything that a file takes but k: the image, then what stands beside it."""
    return (ExtraInput(IMAGE_INPUT, manifest.in_channels, manifest.margin), *manifest.extra_inputs)


def profile_shapes(given: ExtraInput, sizes: Profile) -> list[tuple[int, int, int, int]]:
    """The least, best and most [B, C, H, W] of an input: profiles count without its margin."""
    return [
        (batch, given.channels, height + given.margin[0], width + given.margin[1])
        for batch, height, width in zip(sizes.batch, sizes.height, sizes.width, strict=True)
    ]


def memory_of(lines: list[str]) -> dict[str, int]:
    """What a builder's last engine needs, in bytes, as far as its lines say so."""
    text = "\n".join(lines)
    found = {name: pattern.findall(text) for name, pattern in _MEMORY.items()}
    return {name: int(sizes[-1]) for name, sizes in found.items() if sizes}


def configure(trt: Any, config: Any, options: Options, rung: Rung) -> None:
    """Enter everything into a builder's configuration but targets, profiles and caches."""
    config.builder_optimization_level = rung.optimization
    pool = trt.MemoryPoolType.WORKSPACE
    workspace = rung.workspace or (config.get_memory_pool_limit(pool) if rung.half_workspace else None)
    if workspace:
        config.set_memory_pool_limit(pool, workspace // 2 if rung.half_workspace else workspace)
    if not rung.all_tactics:
        config.set_tactic_sources(0)
    # TensorRT rounds FP32 products to 10 bits unless told not to: in FP32 files, and where half-precision ones keep it.
    config.clear_flag(trt.BuilderFlag.TF32)
    # So that the inspector can say more than names.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.compatible != "none":
        level = options.compatible.upper().replace("-", "_")
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)


def _add_profiles(builder: Any, config: Any, model: Model, options: Options, tensors: tuple[Tensor, ...]) -> None:
    for i, sizes in enumerate(options.profiles):
        profile = builder.create_optimization_profile()
        for given in image_inputs(model.manifest):
            profile.set_shape(given.name, *profile_shapes(given, sizes))
        for tensor in tensors:
            if tensor.name == K_INPUT and tensor.host and options.k:
                # Without the plugin, k decides shapes, so its values are what the profile holds.
                profile.set_shape_input(tensor.name, *([k] for k in options.k))
            elif tensor.name == K_INPUT:
                profile.set_shape(tensor.name, (1,), (1,), (1,))
        if config.add_optimization_profile(profile) != i:
            raise KeygraphError(f"the builder does not take the profile with batch {sizes.batch} and {sizes.height}")


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"cannot read the timing cache {path}: {error.strerror}") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise InputError(f"{path} is no timing cache of this TensorRT and GPU; name another file with --timing-cache")
    return cache


def _save_timing_cache(cache: Any, path: Path) -> None:
    from ..files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_bytes(bytes(cache.serialize()))


def _brief(reason: str) -> str:
    """A builder's reason without the names of its functions, and not without end: the log has it all."""
    text = re.sub(r"IBuilder::\w+: Error Code \d+: ", "", reason)
    text = re.sub(r" In \w+ at /\S+", "", text)
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _parser_error(error: Any) -> str:
    """One error of the parser, with the module and the operator."""
    calls = [name for name in getattr(error, "local_function_stack", lambda: [])() if name]
    inside = f" in {calls[-1]}" if calls else ""
    where = f"{error.node_name()} ({error.node_operator()}{inside})" if error.node_name() else ""
    return ": ".join(filter(None, [where, " ".join(error.desc().split())]))


def _monitor(trt: Any, progress: Progress) -> Any:
    """A progress monitor that makes one number of the builder's nested phases."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, tuple[str | None, int, int]] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = (parent, max(steps, 1), 0)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self.phases:
                parent, steps, _ = self.phases[name]
                self.phases[name] = (parent, steps, min(step + 1, steps))
                progress(self.done())
            return True

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def done(self) -> float:
            part, scale, at = 0.0, 1.0, None
            for _ in range(8):  # Phases are a handful of levels deep.
                inner = next(((n, p) for n, p in self.phases.items() if p[0] == at), None)
                if inner is None:
                    break
                at, (_, steps, done) = inner
                part += scale * done / steps
                scale /= steps
            return min(part, 1.0)

    return Monitor()
