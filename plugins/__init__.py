"""The operators KeyGraph and KeyGraphAttention, one folder per host, and where their compiled libraries are."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingDependencyError

#: host -> file name, as CMake installs it into `plugins/lib/`.
LIBRARIES = {
    "cpu": "libkeygraph_cpu.so",
    "onnxruntime": "libkeygraph_ort.so",
    "tensorrt": "libkeygraph_trt.so",
}

#: host -> what `pip install` must be told besides, for the hosts whose library is not always built.
_BUILD_OPTIONS = {"tensorrt": " -C cmake.define.TENSORRT_ROOT=<the TensorRT SDK>"}


def library(host: str) -> Path:
    """Return the compiled library of a host, for use in a session of one's own.

    Parameters
    ----------
    host : {"cpu", "onnxruntime", "tensorrt"}
        ``"onnxruntime"`` goes to `SessionOptions.register_custom_ops_library`, ``"tensorrt"`` to
        `IPluginRegistry.load_library`; ``"cpu"`` is the C interface of `plugins/include/keygraph/`.

    Raises
    ------
    ValueError
        There is no such host.
    MissingDependencyError
        keygraph was installed without this library; ``"tensorrt"`` is built only where TensorRT's headers are.
    """
    if host not in LIBRARIES:
        raise ValueError(f"no host {host!r}; choose one of {', '.join(LIBRARIES)}")
    for folder in __path__:
        path = Path(folder) / "lib" / LIBRARIES[host]
        if path.is_file():
            return path
    raise MissingDependencyError(
        f"{LIBRARIES[host]} is not installed beside keygraph; build it with: "
        f"pip install --force-reinstall --no-deps keygraph{_BUILD_OPTIONS.get(host, '')}"
    )
