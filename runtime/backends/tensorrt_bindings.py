"""TensorRT's Python bindings and its plugin registry: one place that imports the former and fills the latter."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...errors import InputError, MissingDependencyError

#: Backend -> (its modules, the first that there is counts; the extra that brings it).
_BACKENDS = {
    "tensorrt": (("tensorrt",), "tensorrt"),
    "tensorrt-rtx": (("tensorrt_rtx", "tensorrt_rtx_bindings"), "rtx"),
}

#: Our operators in TensorRT's registry: (name, version, namespace).
PLUGINS = (("KeyGraph", "1", "keygraph"), ("KeyGraphAttention", "1", "keygraph"))


@dataclass(frozen=True)
class Backend:
    """TensorRT or TensorRT-RTX.

    Attributes
    ----------
    name
        ``"tensorrt"`` or ``"tensorrt-rtx"``.
    module
        Its Python bindings.
    version
        Theirs, in full.
    log
        Its logger, the only one of the process; it keeps the last errors.
    """

    name: str
    module: Any
    version: str
    log: Any

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX, which compiles its kernels where they run."""
        return self.name == "tensorrt-rtx"

    def errors(self) -> str:
        """What the log holds of errors since this was last asked, in one line."""
        lines = list(dict.fromkeys(self.log.errors))
        self.log.errors.clear()
        return "; ".join(lines) or "it gives no reason"


@functools.cache
def load_backend(name: str) -> Backend:
    """Import a backend.

    Parameters
    ----------
    name
        ``"tensorrt"`` or ``"tensorrt-rtx"``.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    InputError
        There is no such backend.
    """
    if name not in _BACKENDS:
        raise InputError(f"there is no backend {name!r}; this keygraph has {', '.join(_BACKENDS)}: upgrade it")
    modules, extra = _BACKENDS[name]
    names = [module for module in modules if find_spec(module) is not None]
    try:
        module = import_module(names[0] if names else modules[0])
        return Backend(name, module, str(module.__version__), _logger(module))
    except (ImportError, OSError, AttributeError) as error:  # OSError: a library of NVIDIA's does not load.
        raise MissingDependencyError(
            f"{name} cannot be imported ({' '.join(str(error).split())}); install it with: "
            f"pip install 'keygraph[{extra}]'"
        ) from error


@contextmanager
def loader_path(backend: str) -> Iterator[dict[str, str]]:
    """Yield the environment of a process in which the backend works; it is gone when the block ends.

    TensorRT-RTX's ONNX parser opens ``libtensorrt_rtx.so``, a name that its package does not have, and ends the process
    when there is none on the loader's path, which cannot be changed from within a process.
    """
    spec = find_spec("tensorrt_rtx_libs") if backend == "tensorrt-rtx" else None
    if spec is None or spec.origin is None:
        yield dict(os.environ)
        return
    library = next(Path(spec.origin).parent.glob("libtensorrt_rtx.so*"), None)
    with TemporaryDirectory(prefix="keygraph-") as folder:
        if library is not None:
            Path(folder, "libtensorrt_rtx.so").symlink_to(library)
        search = os.pathsep.join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))
        yield {**os.environ, "LD_LIBRARY_PATH": search}


def load_plugins(backend: Backend, library: Path) -> None:
    """Register our operators with a backend, once for a process.

    Raises
    ------
    InputError
        The library does not load, or does not register them.
    """
    _load_once(backend, library.resolve())


@functools.cache
def _load_once(backend: Backend, library: Path) -> None:
    registry = backend.module.get_plugin_registry()
    remedy = "pip install --force-reinstall --no-deps keygraph -C cmake.define.TENSORRT_ROOT=<the TensorRT SDK>"
    try:
        handle = registry.load_library(str(library))
    except Exception as error:
        handle, reason = None, " ".join(str(error).split())
    else:
        reason = backend.errors()
    if handle is None:
        raise InputError(
            f"{backend.name} {backend.version} cannot load the plugin library {library}: {reason}; build it with: "
            f"{remedy}"
        )
    registered = {(creator.name, creator.plugin_version, creator.plugin_namespace) for creator in registry.all_creators}
    missing = [plugin for plugin in PLUGINS if plugin not in registered]
    if missing:
        ours = [plugin for plugin in sorted(registered) if plugin[0] in {name for name, _, _ in PLUGINS}]
        raise InputError(
            f"{library} does not register {_names(missing)} with {backend.name} {backend.version} (registered of these "
            f"names: {_names(ours) or 'none'}); build it with: {remedy}"
        )


def _names(plugins: Iterable[tuple[str, str, str]]) -> str:
    return ", ".join(
        f"{namespace or '(no namespace)'}::{name} version {version}" for name, version, namespace in plugins
    )


def _logger(module: Any) -> Any:
    """A logger that keeps the last errors and prints nothing."""

    class Log(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()
