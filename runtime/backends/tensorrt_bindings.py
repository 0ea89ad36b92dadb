"""Import the Python bindings of TensorRT or TensorRT-RTX, and register the plugin library with them."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
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
from ...installation import install_line, reinstall_line

#: Backend -> (names of its Python module, of which the first installed one is used; the extra that installs it).
_BACKENDS = {
    "tensorrt": (("tensorrt",), "tensorrt"),
    "tensorrt-rtx": (("tensorrt_rtx", "tensorrt_rtx_bindings"), "rtx"),
}

#: keygraph's operators in TensorRT's plugin registry: (name, version, namespace).
PLUGINS = tuple((name, "1", "keygraph") for name in ("KeyGraph", "KeyGraphAttention", "PackGraph", "TopKGraph"))

#: Held while something is made that a process has once, because `functools.cache` makes it again for another thread.
_once = threading.Lock()


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
        Full version of the bindings.
    log
        The process's only logger of this backend; it keeps the latest errors.
    """

    name: str
    module: Any
    version: str
    log: Any

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX, which compiles kernels just in time on the GPU that runs them."""
        return self.name == "tensorrt-rtx"

    def errors(self) -> str:
        """Return the errors that were logged since the last call, in one line, and forget them."""
        lines = []
        with contextlib.suppress(IndexError):
            while True:  # TensorRT may add lines meanwhile, from another thread.
                lines.append(self.log.errors.popleft())
        return "; ".join(dict.fromkeys(lines)) or "no reason given"


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
        The backend is not installed, or one of its libraries does not load.
    InputError
        There is no backend with this name.
    """
    if name not in _BACKENDS:
        raise InputError(f"there is no backend {name!r}; this keygraph has {', '.join(_BACKENDS)}: upgrade it")
    modules, extra = _BACKENDS[name]
    names = [module for module in modules if find_spec(module) is not None]
    try:
        module = import_module(names[0] if names else modules[0])
        with _once:
            log = _logger(module)
        return Backend(name, module, str(module.__version__), log)
    except (ImportError, OSError, AttributeError) as error:  # OSError: one of NVIDIA's libraries does not load.
        raise MissingDependencyError(
            f"{name} cannot be imported ({' '.join(str(error).split())}); install it with: {install_line(extra)}"
        ) from error


@contextmanager
def loader_path(backend: str) -> Iterator[dict[str, str]]:
    """Yield environment variables for a process that uses the backend; valid until the block ends.

    TensorRT-RTX's ONNX parser loads ``libtensorrt_rtx.so``, a file name that its Python package does not contain, and
    terminates the process when the loader does not find it. A process cannot change its own loader path.
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
    """Register keygraph's operators with a backend, once per process.

    Raises
    ------
    InputError
        The library does not load, or does not register the operators.
    """
    with _once:
        _load_once(backend, library.resolve())


@functools.cache
def _load_once(backend: Backend, library: Path) -> None:
    registry = backend.module.get_plugin_registry()
    remedy = reinstall_line("TENSORRT_ROOT=<a TensorRT SDK>", build_requirements=("triton",))
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


@functools.cache
def _logger(module: Any) -> Any:
    """Create a logger that keeps the latest errors and prints nothing."""

    class Log(module.ILogger):  # type: ignore[misc]  # the module is chosen at run time
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.Severity.ERROR, module.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()
