"""The operators KeyGraph and KeyGraphAttention, one folder per host, and where their compiled libraries are."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingDependencyError

#: host -> file name, as CMake installs it into `plugins/lib/`.
LIBRARIES = {
    "cpu": "libkeygraph_cpu.so",
    "onnxruntime": "libkeygraph_ort.so",
    "cuda": "libkeygraph_cuda.so",
    "tensorrt": "libkeygraph_trt.so",
}

_REINSTALL = "pip install --force-reinstall --no-deps keygraph"
_WITH_TRITON = (
    "pip install triton scikit-build-core ninja && "
    "pip install --force-reinstall --no-deps --no-build-isolation keygraph"
)

#: host -> what builds its library, where keygraph alone is not enough.
_BUILT_WITH = {
    "cuda": _WITH_TRITON,
    "tensorrt": f"{_WITH_TRITON} -C cmake.define.TENSORRT_ROOT=<a TensorRT SDK>",
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
    raise MissingDependencyError(
        f"{LIBRARIES[host]} is not installed beside keygraph; build it with: {_BUILT_WITH.get(host, _REINSTALL)}"
    )
