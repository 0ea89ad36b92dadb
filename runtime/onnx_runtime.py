"""An exported ONNX file in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import plugins
from ..errors import InputError, KeygraphError, MissingDependencyError
from ..files import read_start
from ..manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, METADATA_KEY, Manifest, from_json
from .notices import warn
from .rounding import rounding
from .session import SessionMemoryError

try:
    import onnxruntime
except ImportError as error:
    raise MissingDependencyError(
        f"ONNX Runtime cannot be imported ({error}); install it with: pip install 'keygraph[cpu]'"
    ) from error

#: Phrases of ONNX Runtime's allocators: the arena, C++'s new, CUDA.
_OUT_OF_MEMORY = (
    "Failed to allocate memory",
    "bad_alloc",
    "out of memory",
    "smaller than requested bytes",
    "ALLOC_FAILED",
)

_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeSession:
    """Runs an ONNX file that keygraph exported.

    Parameters
    ----------
    path
        The file.
    library
        ``"auto"``: keygraph's operators from the installed library, else, announced, from the plain functions in the
        file. A path: from that library, or not at all. None: from the functions.
    threads
        Threads per operator, at least 1; None leaves it to ONNX Runtime (one per core).
    providers
        ONNX Runtime's execution providers, all of which must then really be there.
    notice
        Takes the one line that is said when the library does not load.

    Raises
    ------
    InputError
        The file is missing, damaged, or not ours; a newer keygraph wrote it; the library or a provider does not load.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        notice: Callable[[str], None] = warn,
    ) -> None:
        file = Path(path)
        read_start(file, "an exported .onnx file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # What matters comes back as an exception.
        if threads is not None:
            if threads < 1:
                raise InputError(f"threads is {threads}; it must be at least 1")
            options.intra_op_num_threads = threads
        operators = _register(options, library, notice)
        self._session, arithmetic = _open(file, options, providers)
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise InputError(
                f"{file} is an ONNX file, but not one that keygraph exported; make one with: export-model CHECKPOINT"
            )
        self.manifest: Manifest = from_json(text, str(file))
        runtime_k = self.manifest.neighbours is not None and self.manifest.neighbours.runtime
        inputs = {value.name: value.type for value in self._session.get_inputs()}
        outputs = [value.name for value in self._session.get_outputs()]
        if set(inputs) != {IMAGE_INPUT, *([K_INPUT] if runtime_k else [])} or IMAGE_OUTPUT not in outputs:
            raise InputError(
                f"{file}: inputs {', '.join(inputs)} and outputs {', '.join(outputs)} are not those of its manifest; "
                "export it again"
            )
        self._type = _TYPES[inputs[IMAGE_INPUT]]
        where = ", ".join(self._session.get_providers())
        self.description = f"ONNX Runtime {onnxruntime.__version__}, {where}, operators from {operators}{arithmetic}"

    def run(self, images: NDArray[np.float32], k: int | None) -> NDArray[np.float32]:
        """See `Session.run`."""
        feeds: dict[str, NDArray[Any]] = {IMAGE_INPUT: np.ascontiguousarray(images, dtype=self._type)}
        if k is not None:
            feeds[K_INPUT] = np.array([k], dtype=np.int64)
        try:
            (restored,) = self._session.run([IMAGE_OUTPUT], feeds)
        except MemoryError as error:
            raise SessionMemoryError("ONNX Runtime ran out of memory") from error
        except Exception as error:
            # ONNX Runtime's exceptions share no base class but Exception.
            if any(phrase in str(error) for phrase in _OUT_OF_MEMORY):
                raise SessionMemoryError("ONNX Runtime ran out of memory") from error
            raise KeygraphError(
                f"ONNX Runtime failed on an image tensor of shape {images.shape}: {_reason(error)}"
            ) from error
        return np.asarray(restored, dtype=np.float32)


def _register(
    options: onnxruntime.SessionOptions, library: str | os.PathLike[str] | None, notice: Callable[[str], None]
) -> str:
    """Register the operator library; return what the operators come from, in words."""
    functions = "the functions in the file"
    if library is None:
        return functions
    try:
        path = plugins.library("onnxruntime") if library == "auto" else Path(library)
        if not path.is_file():
            raise InputError(f"the operator library {path} does not exist")
        options.register_custom_ops_library(str(path))
    except Exception as error:
        reason = str(error) if isinstance(error, KeygraphError) else f"{path} does not load: {_reason(error)}"
        if library != "auto":
            raise InputError(f"{reason}; give another library, or none to use the functions in the file") from error
        notice(f"slower plain functions are used in place of keygraph's operators: {reason}")
        return functions
    return path.name


def _open(
    path: Path, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> tuple[onnxruntime.InferenceSession, str]:
    """Create the session, and make sure that it runs where it was asked to; with what to say of its arithmetic."""
    missing = [name for name in providers if name not in onnxruntime.get_available_providers()]
    if not missing:
        arithmetic = ""
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:
            rounded = _without_bfloat16(path, error) if list(providers) == ["CPUExecutionProvider"] else None
            if rounded is None:
                size = path.stat().st_size
                raise InputError(
                    f"{path} cannot be opened: it is no ONNX file, is cut off ({size:,} bytes), or needs a newer "
                    f"ONNX Runtime; export or download it again ({_reason(error)})"
                ) from error
            session = onnxruntime.InferenceSession(rounded, options, providers=list(providers))
            arithmetic = ", bfloat16 by rounding float32"
        missing = [name for name in providers if name not in session.get_providers()]
        if not missing:
            return session, arithmetic
    available = ", ".join(onnxruntime.get_available_providers())
    raise InputError(
        f"ONNX Runtime {onnxruntime.__version__} does not run on {', '.join(missing)} here (available: {available}); "
        "for CUDA install it with: pip install 'keygraph[gpu]'"
    )


def _without_bfloat16(path: Path, error: Exception) -> bytes | None:
    """The file in float32 that rounds to bfloat16, where the lack of such kernels is why it did not open."""
    if "bfloat16" not in str(error) and "NOT_IMPLEMENTED" not in str(error):
        return None
    try:
        import onnx
    except ModuleNotFoundError:
        raise MissingDependencyError(
            f"ONNX Runtime has no bfloat16 kernels for the CPU; to run {path} here nevertheless, in float32 that is "
            "rounded, install onnx with: pip install 'keygraph[export]'"
        ) from error
    model = onnx.load(path)
    if not any(weight.data_type == onnx.TensorProto.BFLOAT16 for weight in model.graph.initializer):
        return None
    return bytes(rounding(model).SerializeToString())


def _reason(error: Exception) -> str:
    """Put what ONNX Runtime says in one line, without its prefix."""
    text = " ".join(str(error).split())
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text
