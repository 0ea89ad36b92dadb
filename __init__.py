"""Take trained image-restoration transformers to production.

>>> import keygraph
>>> restore = keygraph.load("kgt.onnx")
>>> restored = restore(image)  # H x W x C, uint8, uint16 or float; the result has the same type
>>> for restored in restore.many(images): ...  # In order, two at a time.
>>> cube = restore(measurement, inputs={"mask": mask})  # For models with extra inputs.
>>> restore.close()  # Or: with keygraph.load("kgt.onnx") as restore
>>> keygraph.export_module(network, "network.onnx")  # Any PyTorch module that maps images to images.
>>> y = keygraph.attend(q, k, v, similarity=(x, x), k=64)  # In such a module: attention to the most similar nodes.

Importing this package sets ``ORT_DISABLE_TELEMETRY=1`` in the environment, unless the variable is set. ONNX Runtime
reads it when it is imported.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Registers what a forked process must know. Not relative, because pytest imports this file on its own.
from keygraph import forks as _forks  # noqa: F401

if TYPE_CHECKING:
    from . import errors, manifest, runtime
    from .errors import InputError, KeygraphError, MissingDependencyError
    from .export.custom.module import export_module as export_module
    from .plugins.torch.attend import attend as attend
    from .plugins.torch.attend import key_graph as key_graph
    from .plugins.torch.replace import replace as replace
    from .runtime.backends.base import Session
    from .runtime.backends.onnxruntime import OnnxRuntimeSession
    from .runtime.backends.openvino import OpenVinoSession
    from .runtime.backends.pytorch import TorchSession
    from .runtime.device.spec import Device
    from .runtime.notices import KeygraphWarning
    from .runtime.restorer import Restorer

# ONNX Runtime's wheels look up a name server and keep an event queue in the user's cache, in which the model's metadata
# is. After ONNX Runtime has been imported nothing stops that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_log = logging.getLogger("keygraph")
_log.addHandler(logging.NullHandler())  # A program that wants the records adds its own.

__all__ = [
    "InputError",
    "KeygraphError",
    "KeygraphWarning",
    "MissingDependencyError",
    "Restorer",
    "__version__",
    "errors",
    "load",
    "manifest",
    "plugins",
    "runtime",
]

#: Name -> the module that defines it. What needs PyTorch is not in `__all__`.
_HOMES = {
    "InputError": ".errors",
    "KeygraphError": ".errors",
    "KeygraphWarning": ".runtime.notices",
    "MissingDependencyError": ".errors",
    "Restorer": ".runtime.restorer",
    "attend": ".plugins.torch.attend",
    "export_module": ".export.custom.module",
    "key_graph": ".plugins.torch.attend",
    "replace": ".plugins.torch.replace",
}

#: Module that is an attribute of this one under another name -> where it is.
_RENAMED = {"vapoursynth": ".runtime.video.vapoursynth_filter"}

#: Modules that are attributes of this one without an import, as in `keygraph.plugins.library("onnxruntime")`. Those
#: that are not in `__all__` need packages that may not be installed.
_MODULES = frozenset(
    (
        *("bench", "cli", "engines", "environment", "errors", "export", "instrumentation", "manifest", "models"),
        *("parity", "plugins", "runtime", "serving"),
    )
)


def load(
    model: str | os.PathLike[str],
    *,
    device: str | None = None,
    provider: str | None = None,
    library: str | os.PathLike[str] | None = "auto",
    threads: int | None = None,
    precision_hint: str | None = None,
    streams: int | None = None,
    memory: int | str | None = None,
    allow_host_code: bool = False,
    notice: Callable[[str], None] | None = None,
) -> Restorer:
    """Load a model that restores images.

    Parameters
    ----------
    model
        An exported ``.onnx`` file, an engine (``.plan``), or a PyTorch checkpoint (``.ckpt``, ``.pth``, ``.pt``,
        ``.safetensors``).
    device
        ``"cpu"``, ``"cuda"`` (the first GPU) or ``"cuda:1"``; with OpenVINO also ``"intel-gpu"``, which is untried.
        None for the first GPU with engines and with a GPU `provider`, else for the CPU. There is no fallback from one
        device to another.
    provider
        For ONNX files: execution provider of ONNX Runtime, ``"cpu"``, ``"cuda"`` or ``"tensorrt"``, or
        ``"openvino"`` for OpenVINO on the CPU; ``"auto"`` for the fastest of those that are installed (see
        `fastest_provider`); None for the device's default, which is one of ONNX Runtime's.
    library
        Library of keygraph's operators: ``"auto"`` for the installed one, or a path. ONNX files fall back to their own
        functions where no library is installed; None chooses these. An engine needs the library that it was built
        with, if any.
    threads
        Threads per operator on the CPU, from 1 to 1024; None for the engine's default.
    precision_hint
        For OpenVINO: type that the network computes in, ``"f32"`` (the default), ``"bf16"`` or ``"auto"``; see
        `OpenVinoSession`.
    streams
        For OpenVINO: tiles that are computed at a time, each by a part of the threads; None for 1.
    memory
        Most memory that all calls in progress need together, as far as it can be estimated: bytes, or text such as
        ``"4G"``; see `Restorer`. None for no limit but what is free.
    allow_host_code
        For engines: allow the engine to run code on the host, as version-compatible engines do. Only for engines from
        somebody you trust.
    notice
        Called with lines for the user: choices made in reading a checkpoint and of the provider, a file that was
        changed since it was exported, a library that could not be loaded. With None, all but the choices become Python
        warnings (`KeygraphWarning`).

    Returns
    -------
    Restorer
        Call it with an image.

    Raises
    ------
    InputError
        The file is missing, damaged or of an unknown type, a required package or library is not installed, there is no
        such device, or `memory` is no size.
    """
    from .errors import InputError
    from .files import CHECKPOINT_SUFFIXES
    from .runtime.device.budget import parse_size
    from .runtime.device.spec import device_for
    from .runtime.notices import warn
    from .runtime.restorer import Restorer

    if not isinstance(model, str | os.PathLike) or not isinstance(os.fspath(model), str):
        raise InputError(f"the model is {model!r}; give the path of a file, as a str or a pathlib.Path")
    path = Path(model)
    suffix = path.suffix.lower()
    if suffix not in (".onnx", ".plan", *CHECKPOINT_SUFFIXES):
        suffixes = ", ".join((".onnx", ".plan", *CHECKPOINT_SUFFIXES))
        raise InputError(f"cannot tell the model type from the file name {path}; give a file that ends with {suffixes}")
    if provider is not None and suffix != ".onnx":
        raise InputError(f"the provider {provider} applies to .onnx files only, and {path} is not one; leave it out")
    if provider == "auto":
        provider, precision_hint = _fastest(path, device, precision_hint, notice)
    if precision_hint is not None and provider != "openvino":
        raise InputError("the precision hint applies to the provider openvino only; leave it out")
    if streams is not None and provider != "openvino":
        raise InputError("streams apply to the provider openvino only; leave them out")
    budget = None if memory is None else parse_size(memory)
    where = device_for(device, path, provider)
    session: Session
    if suffix == ".onnx":
        opened: OnnxRuntimeSession | OpenVinoSession
        if provider == "openvino":
            from .runtime.backends.openvino import OpenVinoSession

            hint, tell = precision_hint or "f32", notice or warn
            opened = OpenVinoSession(path, library, threads, where, hint, 1 if streams is None else streams, tell)
        else:
            from .runtime.backends.onnxruntime import OnnxRuntimeSession

            opened = OnnxRuntimeSession(path, library, threads, where, provider, notice or warn)
        for line in opened.file.notices:
            (notice or warn)(line)
        session = opened
    elif suffix == ".plan":
        from .runtime.backends.tensorrt import TensorRtSession

        engine = TensorRtSession(path, where, library, allow_host_code, notice or warn)
        for line in engine.metadata.notices:
            (notice or warn)(line)
        session = engine
    else:
        session = _checkpoint(path, where, threads, notice)
    _log.info("opened %s: %s", path, session.description)
    return Restorer(session, budget)


def _fastest(
    path: Path, device: str | None, precision_hint: str | None, notice: Callable[[str], None] | None
) -> tuple[str, str | None]:
    """Return the fastest provider for an ONNX file, and the precision hint for it."""
    from .errors import InputError
    from .runtime.backends.fastest import fastest_provider
    from .runtime.backends.onnx_file import read_onnx_file
    from .runtime.device.spec import parse_device

    provider, why = fastest_provider(read_onnx_file(path), parse_device(device or "cpu"), precision_hint)
    if provider != "openvino" and precision_hint == "bf16":
        raise InputError(
            f"bf16 is what OpenVINO computes in, and the provider is {provider}: {why}; leave the precision hint out"
        )
    if notice is not None:
        notice(f"the provider is {provider}: {why}")
    return provider, precision_hint if provider == "openvino" else None


def _checkpoint(path: Path, device: Device, threads: int | None, notice: Callable[[str], None] | None) -> TorchSession:
    """Open a checkpoint in PyTorch."""
    from .errors import MissingDependencyError
    from .installation import install_line

    try:
        from .models import load_checkpoint
        from .runtime.backends.pytorch import TorchSession, prepare
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path} is a PyTorch checkpoint, which needs {error.name}; install it with: {install_line('export')}; or "
            "give an exported .onnx file"
        ) from error
    prepare(threads)
    loaded = load_checkpoint(path)
    if notice is not None:
        for note in loaded.notes:
            notice(note)
    return TorchSession(loaded.module, loaded.manifest(), threads, device)


def __getattr__(name: str) -> Any:
    # Imported on demand, to keep `import keygraph` fast.
    if name == "__version__":
        from .version import version

        return version()
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _RENAMED:
        return import_module(_RENAMED[name], __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
