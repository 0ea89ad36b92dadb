"""Build an engine once: parse, set types and profiles, build. Works with TensorRT and TensorRT-RTX."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, KeygraphError
from ..files import atomic_path
from ..manifest import IMAGE_OUTPUT, K_INPUT, ExtraInput, Profile
from ..runtime.backends.base import image_inputs
from ..runtime.backends.engine_metadata import Tensor
from ..runtime.backends.tensorrt_bindings import Backend
from .fallbacks import Attempt, BuilderError
from .fp32_matmul_rewrite import check_precision, rewrite_fp32_matmuls
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

#: Lines of a builder's log that report an engine's memory.
_MEMORY = {
    "weights": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "activations": re.compile(r"Total Activation Memory: (\d+) bytes"),
}

#: Called with the completed part of the work, from 0 to 1.
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Built:
    """A serialized engine in memory.

    Attributes
    ----------
    data
        The serialized engine.
    tensors
        Inputs and outputs of the network.
    """

    data: memoryview
    tensors: tuple[Tensor, ...]


def build(
    backend: Backend,
    model: Model,
    options: Options,
    target: Target,
    attempt: Attempt,
    timing_cache: Path | None,
    progress: Progress,
) -> Built:
    """Build an engine with the settings of one attempt.

    Parameters
    ----------
    backend
        The backend, with plugins registered.
    model
        The exported file.
    options
        The user's options.
    target
        The GPU to build for.
    attempt
        Settings of this attempt.
    timing_cache
        File of TensorRT's tactic timings that is read and extended, or None.
    progress
        Called with the completed part of the work, from 0 to 1.

    Raises
    ------
    BuilderError
        The builder returned no engine.
    InputError
        The parser rejects the file; the message names the module.
    KeygraphError
        The network's inputs and outputs are not those of the manifest.
    """
    trt = backend.module
    backend.errors()  # Forget the errors of earlier attempts.
    builder = trt.Builder(backend.log)
    # Strongly typed, so that the file decides the types. TensorRT 11 has no other mode.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, backend.log)
    if backend.is_rtx and not target.rtx_fp32_matmul:
        check_precision(model, target.name)
        parsed = parser.parse(rewrite_fp32_matmuls(model.proto).SerializeToString(), str(model.path))
    else:
        parsed = parser.parse_from_file(str(model.path))
    if not parsed:
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        reason = "; ".join(dict.fromkeys(errors)) or backend.errors()
        raise InputError(f"{backend.name} {backend.version} does not parse {model.path}: {reason}")
    tensors = network_tensors(network)
    check_tensors(model, options, tensors)
    config = builder.create_builder_config()
    configure(trt, config, options, attempt)
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
    """Return the inputs of a parsed network, then its outputs."""
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
    """Compare the tensors of a parsed network with the manifest.

    Parameters
    ----------
    model
        The exported file.
    options
        The user's options; they say whether the network has the input k.
    tensors
        The network's inputs and outputs.

    Raises
    ------
    KeygraphError
        Names or channels differ.
    """
    expected = {given.name: given.channels for given in image_inputs(model.manifest)}
    expected[IMAGE_OUTPUT] = model.manifest.out_channels
    found = {tensor.name: tensor for tensor in tensors}
    names = {*expected, *([K_INPUT] if options.k else [])}
    if set(found) != names or any(found[n].shape[1] != channels for n, channels in expected.items()):
        words = ", ".join(f"{t.name} {list(t.shape)}" for t in tensors)
        raise KeygraphError(f"{model.path}: its tensors ({words}) are not those of its manifest; export it again")


def profile_shapes(given: ExtraInput, sizes: Profile) -> list[tuple[int, int, int, int]]:
    """Return the minimum, optimum and maximum shape [B, C, H, W] of an input with its margin for a profile."""
    return [
        (batch, given.channels, height + given.margin[0], width + given.margin[1])
        for batch, height, width in zip(sizes.batch, sizes.height, sizes.width, strict=True)
    ]


def memory_of(lines: list[str]) -> dict[str, int]:
    """Return the bytes that a builder's latest engine needs, by kind, as far as its log reports them."""
    text = "\n".join(lines)
    found = {name: pattern.findall(text) for name, pattern in _MEMORY.items()}
    return {name: int(sizes[-1]) for name, sizes in found.items() if sizes}


def configure(trt: Any, config: Any, options: Options, attempt: Attempt) -> None:
    """Set everything in a builder's configuration except targets, profiles and caches.

    Parameters
    ----------
    trt
        TensorRT's Python module.
    config
        The builder's configuration.
    options
        The user's options.
    attempt
        Settings of this attempt.
    """
    config.builder_optimization_level = attempt.optimization
    pool = trt.MemoryPoolType.WORKSPACE
    workspace = attempt.workspace or (config.get_memory_pool_limit(pool) if attempt.half_workspace else None)
    if workspace:
        config.set_memory_pool_limit(pool, workspace // 2 if attempt.half_workspace else workspace)
    if not attempt.all_tactics:
        config.set_tactic_sources(0)
    # TensorFloat-32 is TensorRT's default for FP32 products, also for those in half-precision files.
    config.clear_flag(trt.BuilderFlag.TF32)
    # Lets the engine inspector report more than names.
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
                # Without the plugin, k determines shapes, so the profile contains its values.
                profile.set_shape_input(tensor.name, *([k] for k in options.k))
            elif tensor.name == K_INPUT:
                profile.set_shape(tensor.name, (1,), (1,), (1,))
        if config.add_optimization_profile(profile) != i:
            raise KeygraphError(f"the builder rejects the profile with batch {sizes.batch} and height {sizes.height}")


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InputError(f"cannot read the timing cache {path}: {error.strerror}") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        raise InputError(
            f"{path} is not a timing cache of this TensorRT and GPU; give another file with --timing-cache"
        )
    return cache


def _save_timing_cache(cache: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(bytes(cache.serialize()))


def _brief(reason: str) -> str:
    """Shorten a builder's error: without names of functions and at most 300 characters. The log has all of it."""
    text = re.sub(r"IBuilder::\w+: Error Code \d+: ", "", reason)
    text = re.sub(r" In \w+ at /\S+", "", text)
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _parser_error(error: Any) -> str:
    """Return one error of the parser in words, with the node and the operator."""
    calls = [name for name in getattr(error, "local_function_stack", lambda: [])() if name]
    inside = f" in {calls[-1]}" if calls else ""
    where = f"{error.node_name()} ({error.node_operator()}{inside})" if error.node_name() else ""
    return ": ".join(filter(None, [where, " ".join(error.desc().split())]))


def _monitor(trt: Any, progress: Progress) -> Any:
    """Create a progress monitor that combines the builder's nested phases into one number."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is chosen at run time
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
            for _ in range(8):  # Phases are nested a few levels deep.
                inner = next(((n, p) for n, p in self.phases.items() if p[0] == at), None)
                if inner is None:
                    break
                at, (_, steps, done) = inner
                part += scale * done / steps
                scale /= steps
            return min(part, 1.0)

    return Monitor()
