"""Create ONNX Runtime sessions on a named execution provider, or raise an error that says what is missing.

ONNX Runtime itself falls back to the CPU silently, both when a session is created and when a run fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import io
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnxruntime

from ...errors import InputError, KeygraphError, MissingDependencyError
from ...files import require_utf8
from ...installation import gpu_runtime_line, package_line, reinstall_line
from ..device.cuda_driver import require_gpu
from ..device.spec import Device
from .onnx_failures import explain
from .user_cache import cache_folder

#: keygraph's names of the execution providers -> ONNX Runtime's.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

#: Domain of keygraph's operators.
_DOMAIN = "keygraph"

#: Levels of ONNX Runtime's log. The current level cannot be queried, so the default is restored.
_DEFAULT, _FATAL = 2, 4

#: Microseconds for which an idle thread of a session spins before it sleeps: about the time between two operators.
#: ONNX Runtime's own default is much longer, and takes the core from decoding, encoding and other calls
#: (benchmarks/sessions_under_load.py).
SPIN = 50
#: The first version with a limit of spinning.
_LIMITS_SPINNING = (1, 26)

#: How many threads are inside `_loading`.
_loads = 0
_lock = threading.Lock()


def resolve(provider: str | None, device: Device) -> str:
    """Return the key of `PROVIDERS` for a requested provider, None meaning the device's own.

    Raises
    ------
    InputError
        There is no such provider, or it does not run on the device.
    """
    if provider is None:
        return device.kind
    if provider not in PROVIDERS:
        raise InputError(f"the provider is {provider!r}; give one of {', '.join((*PROVIDERS, 'openvino'))}")
    if (provider == "cpu") != (device.kind == "cpu"):
        valid = "cpu" if device.kind == "cpu" else "cuda or tensorrt"
        raise InputError(f"the provider {provider} does not run on the device {device}; give {valid}")
    return provider


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """Return options for a session that prints nothing (errors are raised as exceptions) and hardly spins.

    Parameters
    ----------
    threads
        Threads per operator; None for ONNX Runtime's default, one per core.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    # It would plan one block for all values from the second run of a size on, beside the memory that the first run left
    # in the arena: KGT and Restormer then take twice the memory, and no less time (docs/measurements/memory.md).
    options.enable_mem_pattern = False
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= _LIMITS_SPINNING:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(
    path: Path | bytes, options: onnxruntime.SessionOptions, provider: str, device: Device
) -> onnxruntime.InferenceSession:
    """Create a session, and check that it runs on the requested provider.

    Parameters
    ----------
    path
        An ONNX file, or the bytes of one.
    options
        The session's options. Recording the placement of nodes is enabled in them.
    provider
        What `resolve` returned.
    device
        The CPU or a GPU.

    Raises
    ------
    MissingDependencyError
        ONNX Runtime was built without this provider, or a library that the provider needs is missing.
    InputError
        The file cannot be opened, there is no such GPU, or keygraph's operators would not run on the GPU.
    KeygraphError
        The bytes cannot be opened.
    """
    wanted = PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        available = ", ".join(onnxruntime.get_available_providers())
        raise MissingDependencyError(
            f"this ONNX Runtime ({onnxruntime.__version__}) is built without {wanted} (it has {available}); "
            f"replace it by the package for GPUs with: {gpu_runtime_line()}"
        )
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider == "cpu":
        session = _create(path, options, [wanted])
    else:
        require_gpu(device)
        with _loading():
            session = _create(path, options, _chain(path, provider, device), provider)
    if wanted not in session.get_providers():
        raise _unavailable(provider)
    _check_placement(session, wanted)
    return session


def placement(session: onnxruntime.InferenceSession) -> Counter[tuple[str, str]] | None:
    """Count nodes by (provider, domain of the operator); None where ONNX Runtime cannot report it (before 1.24)."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:
        return None
    return Counter((part.ep_name, node.domain) for part in ask() for node in part.get_nodes())


def reason(error: Exception) -> str:
    """Return the message of an ONNX Runtime exception in one line, without its prefix."""
    text = " ".join(str(error).split())
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text


def loader_error(library: Path) -> str | None:
    """Load a library; return the loader's error, for instance which dependency is missing, or None on success."""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def _create(
    path: Path | bytes,
    options: onnxruntime.SessionOptions,
    providers: list[str | tuple[str, dict[str, str]]],
    gpu_provider: str | None = None,
) -> onnxruntime.InferenceSession:
    try:
        model = path if isinstance(path, bytes) else str(path)
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:
        if gpu_provider and any(word in str(error) for word in ("CUDA", "cuda", "TensorRT", "ExecutionProvider")):
            raise _unavailable(gpu_provider, reason(error)) from error
        if isinstance(path, bytes):
            raise KeygraphError(f"a part of the network does not open: {reason(error)}") from error
        require_utf8(path)
        if known := explain(path, str(error), onnxruntime.__version__):
            raise InputError(known) from error
        raise InputError(
            f"{path} cannot be opened: it is not an ONNX file, is truncated ({path.stat().st_size:,} bytes), or needs "
            f"a newer ONNX Runtime; export or download it again ({reason(error)})"
        ) from error


def cuda_provider(device: Device) -> tuple[str, dict[str, str]]:
    """Return the CUDA provider with its options for a GPU. TensorFloat-32, ONNX Runtime's default, is off."""
    return PROVIDERS["cuda"], {"device_id": str(device.index), "use_tf32": "0"}


def _chain(path: Path | bytes, provider: str, device: Device) -> list[str | tuple[str, dict[str, str]]]:
    """Return providers by preference, with options. ONNX Runtime appends the CPU, which computes shapes."""
    where = {"device_id": str(device.index)}
    chain: list[str | tuple[str, dict[str, str]]] = [cuda_provider(device)]
    if provider == "tensorrt":
        cache = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(_engine_cache(path)),
            "trt_timing_cache_enable": "1",
        }
        chain.insert(0, (PROVIDERS["tensorrt"], where | cache))
    return chain


def _engine_cache(path: Path | bytes) -> Path:
    """Return a folder for this file's engines, because ONNX Runtime names engines by graph and not by weights."""
    key = hashlib.sha256(path if isinstance(path, bytes) else path.read_bytes()).hexdigest()
    folder = cache_folder() / "onnxruntime-tensorrt" / key[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make {folder}, where TensorRT's engines are kept ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
    return folder


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """Suppress ONNX Runtime's log while a provider is loaded, after its libraries.

    The log's level is a setting of the process, so the last of several threads restores it.
    """
    global _loads
    with _lock:
        _preload()
        if _loads == 0:
            onnxruntime.set_default_logger_severity(_FATAL)
        _loads += 1
    try:
        yield
    finally:
        with _lock:
            _loads -= 1
            if _loads == 0:
                onnxruntime.set_default_logger_severity(_DEFAULT)


@functools.cache
def _preload() -> None:
    """Load the CUDA libraries that are installed as Python packages, without printing which ones are missing."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _unavailable(provider: str, said: str = "") -> KeygraphError:
    """Return the error for a provider that did not start: the missing library and the installed versions."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    lacking = loader_error(folder / f"libonnxruntime_providers_{provider}.so")
    cuda = getattr(onnxruntime, "cuda_version", "") or "unknown"
    what = f"ONNX Runtime {onnxruntime.__version__}, built for CUDA {cuda}, cannot use {PROVIDERS[provider]}"
    if lacking is None:
        return InputError(f"{what}: {said or 'it does not say why'}; see keygraph doctor, or give --device cpu")
    if "libnv" in lacking:
        # ONNX Runtime needs a specific major version of TensorRT, which the library's name ends with.
        remedy = "put the libraries of that TensorRT on LD_LIBRARY_PATH, or use --provider cuda"
    elif "libcuda.so" in lacking:
        remedy = "install NVIDIA's driver, or give --device cpu"
    else:
        needed = package_line("onnxruntime-gpu[cuda,cudnn]")
        remedy = f"{_cuda_packages()}; install what it needs with: {needed}"
    return MissingDependencyError(f"{what}: {lacking}; {remedy}")


def _cuda_packages() -> str:
    """Return which of NVIDIA's libraries are installed as Python packages, with versions, in words."""
    names = {package.metadata["Name"]: package.version for package in importlib.metadata.distributions()}
    found = [f"{name} {version}" for name, version in sorted(names.items()) if (name or "").startswith("nvidia-")]
    return f"of NVIDIA's packages there are {', '.join(found)}" if found else "none of NVIDIA's packages is installed"


def _check_placement(session: onnxruntime.InferenceSession, wanted: str) -> None:
    """Refuse a session that runs keygraph's operators on the CPU, which would copy their tensors across the bus."""
    cpu = PROVIDERS["cpu"]
    if wanted != cpu and (cpu, _DOMAIN) in (placement(session) or ()):
        raise InputError(
            f"keygraph's operators would run on {cpu}, not beside {wanted}: the installed library is built without "
            f"its GPU kernels; build it with: {reinstall_line(build_requirements=('triton',))}"
        )
