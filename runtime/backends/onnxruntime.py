"""A session that runs an exported ONNX file in ONNX Runtime."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ... import forks
from ...errors import InputError, KeygraphError, MissingDependencyError
from ...files import read_start
from ...installation import install_line, onnx_runtime_remedy
from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, Manifest
from ..device.spec import Device
from ..errors import ClosedError, SessionMemoryError
from ..notices import warn
from .base import WithBlock, check_number, check_tensors, result_shape
from .emulated_half import emulate_half
from .onnx_failures import is_out_of_memory
from .onnx_file import OnnxFile, load_onnx, read_onnx_file
from .operator_library import load_library

if TYPE_CHECKING:
    from ..tiling.exact.executor import Run
    from ..tiling.exact.model import ExactModel

try:
    import onnxruntime
except ImportError as error:
    raise MissingDependencyError(f"ONNX Runtime cannot be imported ({error}); {onnx_runtime_remedy()}") from error

from .io_binding import BoundBuffers
from .onnx_providers import PROVIDERS, open_session, placement, reason, resolve, session_options

_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeSession(WithBlock):
    """Runs an ONNX file that keygraph exported, for any number of threads.

    On the CPU threads compute at the same time. On a GPU they wait for each other (`BoundBuffers`).

    Parameters
    ----------
    path
        The file.
    library
        Source of keygraph's operators. ``"auto"``: the installed library, or with a notice the plain functions in the
        file. A path: that library. None: the plain functions.
    threads
        Threads per operator, at least 1; None for ONNX Runtime's default, one per core.
    device
        The CPU or a GPU.
    provider
        ``"cpu"``, ``"cuda"`` or ``"tensorrt"``; None for the device's own. There is no silent fallback to another one.
    notice
        Called with a message when the installed library does not load.

    Raises
    ------
    InputError
        The file is missing, damaged or not exported by keygraph; a newer keygraph wrote it; the library or the
        provider does not load.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        threads: int | None = None,
        device: Device = Device(),  # noqa: B008 - frozen
        provider: str | None = None,
        notice: Callable[[str], None] = warn,
    ) -> None:
        file = Path(path)
        check_number("threads", threads)
        options = session_options(threads)
        provider = resolve(provider, device)
        plain: list[str] = []
        loaded = register_operators(options, library, plain.append)
        self.file, (session, arithmetic) = _open(file, options, provider, device)
        self._session: onnxruntime.InferenceSession | None = session
        self._provider, self._threads, self._emulated = provider, threads, bool(arithmetic)
        self._exact: ExactModel | None = None
        self._dividing = threading.Lock()
        self._process = os.getpid()
        self.device = device
        self.manifest: Manifest = self.file.manifest
        try:
            inputs = {value.name: value.type for value in session.get_inputs()}
            outputs = [value.name for value in session.get_outputs()]
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is damaged: its names are not UTF-8 text; export it again") from error
        self._extras = [extra.name for extra in self.manifest.extra_inputs]
        check_tensors(self.manifest, file, inputs, outputs)
        if inputs[IMAGE_INPUT] not in _TYPES:
            raise InputError(
                f"{file}: its image is a {inputs[IMAGE_INPUT]}, not one of {', '.join(_TYPES)}; export it again"
            )
        self._type = _TYPES[inputs[IMAGE_INPUT]]
        self._buffers = None if device.kind == "cpu" else BoundBuffers(session, device)
        where = f"{PROVIDERS[provider]}{_elsewhere(session, PROVIDERS[provider])}"
        if device.kind != "cpu":
            where = f"{device}, {where}"
        used = self.file.count("keygraph") > 0
        #: Whether keygraph's operators run from its library, which takes several times less memory than the functions.
        self.runs_library = used and loaded is not None
        operators = f"operators from {loaded or 'the functions in the file'}" if used else "standard operators"
        for line in plain if used else ():
            notice(line)
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {where}, {operators}{arithmetic}"

    @property
    def content(self) -> str:
        """See `IdentifiedSession.content`."""
        return self.file.digest.of_content

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Session.run`."""
        named = zip((IMAGE_INPUT, *self._extras), (images, *extras), strict=True)
        feeds = {name: np.ascontiguousarray(values, dtype=self._type) for name, values in named}
        try:
            restored = self._run(feeds, k)
        except KeygraphError:
            raise
        except Exception as error:
            raise _failure(error, images.shape) from error
        return np.asarray(restored, dtype=np.float32)

    def close(self) -> None:
        """See `ClosableSession.close`."""
        buffers, self._session, self._buffers = self._buffers, None, None
        with self._dividing:
            self._exact = None
        if buffers is not None:
            buffers.release()

    def exact(self) -> ExactModel:
        """See `DivisibleSession.exact`."""
        from ..tiling.exact.model import ExactModel

        if self._provider == "tensorrt":
            raise InputError("TensorRT would build an engine for every part of the network; use the provider cuda")
        with self._dividing:
            if self._session is None:
                raise ClosedError
            if self._exact is None:
                # Binds no method of the session: a reference cycle would delay freeing its memory.
                open_model = functools.partial(_open_part, self._threads, self._provider, self.device)
                self._exact = ExactModel(self.file.path, self.manifest, open_model, self._emulated)
            return self._exact

    def _run(self, feeds: dict[str, NDArray[Any]], k: int | None) -> NDArray[Any]:
        buffers, session = self._buffers, self._session  # `close` of another thread may remove them.
        if session is None:
            raise ClosedError
        if buffers is not None:
            forks.require_process(self._process)
            return buffers.run(feeds, k, result_shape(self.manifest, feeds[IMAGE_INPUT].shape))
        if k is not None:
            feeds[K_INPUT] = np.array([k], dtype=np.int64)
        (restored,) = session.run([IMAGE_OUTPUT], feeds)
        result: NDArray[Any] = restored
        return result


def _open(
    path: Path, options: onnxruntime.SessionOptions, provider: str, device: Device
) -> tuple[OnnxFile, tuple[onnxruntime.InferenceSession, str]]:
    """Open a file, and read its structure and its digest while ONNX Runtime loads it, which takes longer."""
    read_start(path, "an exported .onnx file")  # ONNX Runtime would wait for ever on a named pipe.
    with ThreadPoolExecutor(1) as pool:
        structure = pool.submit(read_onnx_file, path)
        try:
            opened = open_file(path, options, provider, device)
        except Exception:
            # What is wrong with the file itself comes first: missing weights, a manifest that it does not agree with.
            file = structure.result()
            file.require_valid()
            _ = file.manifest
            raise
        return structure.result(), opened


def _open_part(threads: int | None, provider: str, device: Device, model: bytes) -> Run:
    """Open a part of a network with the settings of the network's session."""
    session = open_session(model, session_options(threads), provider, device)
    names = {value.name for value in session.get_inputs()}

    def run(outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        given = {name: values for name, values in feeds.items() if name in names}
        try:
            results: Sequence[NDArray[Any]] = session.run(list(outputs), given)
        except Exception as error:
            largest = max((values.shape for values in given.values()), key=math.prod)
            raise _failure(error, largest) from error
        return results

    return run


def _failure(error: Exception, shape: tuple[int, ...]) -> KeygraphError:
    """Return the error for an exception of ONNX Runtime, whose exceptions have no common base but Exception."""
    if isinstance(error, MemoryError) or is_out_of_memory(str(error)):
        return SessionMemoryError("ONNX Runtime ran out of memory")
    return KeygraphError(f"ONNX Runtime failed on an image tensor of shape {shape}: {reason(error)}")


def register_operators(
    options: onnxruntime.SessionOptions, library: str | os.PathLike[str] | None, notice: Callable[[str], None]
) -> str | None:
    """Register the operator library with a session; return its name, or None where the file's functions are used.

    Parameters
    ----------
    options
        The options of the session.
    library, notice
        As for `load_library`; errors are those of `load_library`, too.
    """

    def load(path: Path) -> None:
        options.register_custom_ops_library(str(path))

    return load_library("onnxruntime", library, load, reason, notice)


def open_file(
    path: Path, options: onnxruntime.SessionOptions, provider: str, device: Device
) -> tuple[onnxruntime.InferenceSession, str]:
    """Open a file; on a CPU without kernels for its bfloat16, emulate it in float32.

    Parameters
    ----------
    path
        The file.
    options
        The options of the session.
    provider
        What `onnx_providers.resolve` returned.
    device
        The CPU or a GPU.

    Returns
    -------
    session : InferenceSession
        The session.
    arithmetic : str
        Empty, or a note for the session's description when bfloat16 is emulated.

    Raises
    ------
    InputError
        The file or the provider cannot be used.
    """
    try:
        return open_session(path, options, provider, device), ""
    except InputError as error:
        emulated = _without_bfloat16(path, error.__cause__ or error) if provider == "cpu" else None
        if emulated is None:
            raise
    session = onnxruntime.InferenceSession(emulated, options, providers=[PROVIDERS["cpu"]])
    return session, ", bfloat16 by rounding float32"


def _without_bfloat16(path: Path, error: BaseException) -> bytes | None:
    """Return the file with bfloat16 emulated, or None when missing bfloat16 kernels are not why it did not open."""
    if "bfloat16" not in str(error) and "NOT_IMPLEMENTED" not in str(error):
        return None
    try:
        import onnx
        import onnx_ir  # noqa: F401 - `emulate_half` needs it
    except ModuleNotFoundError as missing:
        raise MissingDependencyError(
            f"ONNX Runtime has no bfloat16 kernels for the CPU; to run {path} on it with emulated bfloat16, install "
            f"{missing.name} with: {install_line('export')}"
        ) from error
    model = load_onnx(path)
    if not any(weight.data_type == onnx.TensorProto.BFLOAT16 for weight in model.graph.initializer):
        return None
    return bytes(emulate_half(model).SerializeToString())


def _elsewhere(session: onnxruntime.InferenceSession, provider: str) -> str:
    """Return how many nodes run on another provider than the requested one, in words; empty if none."""
    counts = placement(session)
    if counts is None:
        return ""
    others = sum(count for (name, _), count in counts.items() if name != provider)
    return f" ({others} of {sum(counts.values())} nodes elsewhere)" if others else ""
