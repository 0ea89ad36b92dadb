"""The operators KeyGraph and KeyGraphAttention, one folder per host, and where their compiled libraries are."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingDependencyError
from ..installation import reinstall_line, shadowing

#: host -> file name, as CMake installs it into `plugins/lib/`.
LIBRARIES = {
    "cpu": "libkeygraph_cpu.so",
    "onnxruntime": "libkeygraph_ort.so",
    "cuda": "libkeygraph_cuda.so",
    "tensorrt": "libkeygraph_trt.so",
}

#: host -> packages and settings that its library is built with, where keygraph alone is not enough.
_BUILT_WITH: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cuda": (("triton",), ()),
    "tensorrt": (("triton",), ("TENSORRT_ROOT=<a TensorRT SDK>",)),
}


def library(host: str) -> Path:
    """Return the compiled library of a host, for use in a session of one's own.

    Parameters
    ----------
    host : {"cpu", "onnxruntime", "cuda", "tensorrt"}
        ``"onnxruntime"`` goes to `SessionOptions.register_custom_ops_library`, ``"tensorrt"`` to
        `IPluginRegistry.load_library`; ``"cpu"`` and ``"cuda"`` are the C interface of `plugins/include/keygraph/`.

    Raises
    ------
    ValueError
        There is no such host.
    MissingDependencyError
        keygraph was installed without this library: ``"cuda"`` is built where Triton is installed only, ``"tensorrt"``
        where TensorRT's headers are besides.
    """
    if host not in LIBRARIES:
        raise ValueError(f"no host {host!r}; choose one of {', '.join(LIBRARIES)}")
    for folder in __path__:
        path = Path(folder) / "lib" / LIBRARIES[host]
        if path.is_file():
            return path
    if hidden := shadowing():
        raise MissingDependencyError(f"{LIBRARIES[host]} is not installed beside keygraph: {hidden}")
    packages, settings = _BUILT_WITH.get(host, ((), ()))
    line = reinstall_line(*settings, build_requirements=packages)
    raise MissingDependencyError(f"{LIBRARIES[host]} is not installed beside keygraph; build it with: {line}")
