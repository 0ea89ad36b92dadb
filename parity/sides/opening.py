"""Opening a model for comparison, whatever kind of file it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ...manifest import Manifest
from ...models import load_checkpoint
from ...runtime.device.spec import device_for
from ...runtime.notices import warn
from .base import Probe
from .engine_probe import EngineProbe
from .module_probe import open_module
from .onnx_probe import OnnxProbe
from .spec import ModelSpec, parse_spec
from .torch_probe import TorchProbe


def open_probe(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    library: Any = "auto",
    notice: Callable[[str], None] = warn,
    like: Manifest | None = None,
) -> Probe:
    """Open a checkpoint, an exported ONNX file, an engine or a network of a Python file for comparison.

    Parameters
    ----------
    model
        A model specification, see `spec.parse_spec`.
    library, notice
        As for `OnnxRuntimeSession`.
    like
        For a Python file: the manifest of a file that was exported from its network.

    Raises
    ------
    InputError
        The file is none of these, or cannot be used.
    """
    spec = model if isinstance(model, ModelSpec) else parse_spec(model)
    suffix, name = spec.path.suffix.lower(), str(spec)
    device = device_for(spec.device, spec.path, spec.provider)
    if spec.entry_point is not None:
        return open_module(spec, like, device, notice)
    library = None if spec.functions else library
    if spec.provider == "openvino":
        from ...runtime.backends.openvino import OpenVinoSession

        hint = "bf16" if spec.precision == "bf16" else "f32"
        session = OpenVinoSession(spec.path, library, None, device, hint, notice=notice)
        return EngineProbe(session, session.file, name)
    if suffix == ".onnx":
        return OnnxProbe(spec.path, library, device, spec.provider, name, notice)
    if suffix == ".plan":
        from ...runtime.backends.tensorrt import TensorRtSession

        engine = TensorRtSession(spec.path, device, notice=notice)
        return EngineProbe(engine, engine.metadata, name)
    loaded = load_checkpoint(spec.path)
    # Which of several sets of weights is compared decides the result.
    for line in loaded.notes:
        if "; the file also has " in line:
            notice(f"{spec.path}: {line}")
    return TorchProbe(loaded, spec.precision or "fp32", device, name)
