"""KeyGraph, PackGraph, TopKGraph and KeyGraphAttention, one folder per host, and where their compiled libraries are."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from ..errors import MissingDependencyError
from ..installation import reinstall_line, shadowing

#: host -> file name, as CMake installs it into `plugins/lib/`.
LIBRARIES = {
    "cpu": "libkeygraph_cpu.so",
    "onnxruntime": "libkeygraph_ort.so",
    "cuda": "libkeygraph_cuda.so",
    "tensorrt": "libkeygraph_trt.so",
    "openvino": "libkeygraph_openvino.so",
}

#: host -> packages and settings that its library is built with, where keygraph alone is not enough.
_BUILT_WITH: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cuda": (("triton",), ()),
    "tensorrt": (("triton",), ("TENSORRT_ROOT=<a TensorRT SDK>",)),
    "openvino": (("openvino",), ("KEYGRAPH_OPENVINO=ON",)),
}

#: What C++ programs need -> its folder, below the one of this package.
DEVELOPMENT_FOLDERS = {"include": "include", "lib": "lib", "cmake": "lib/cmake/keygraph", "pkgconfig": "lib/pkgconfig"}


def development_folder(what: str) -> Path:
    """Return the folder with what C++ programs need; `python -m keygraph.plugins` prints it.

    Parameters
    ----------
    what : {"include", "lib", "cmake", "pkgconfig"}
        The headers, the libraries, the files for CMake's ``find_package(keygraph)``, or those for pkg-config.

    Raises
    ------
    ValueError
        There is no such folder.
    MissingDependencyError
        keygraph was installed without the C++ runtime.
    """
    if what not in DEVELOPMENT_FOLDERS:
        raise ValueError(f"no folder {what!r}; choose one of {', '.join(DEVELOPMENT_FOLDERS)}")
    for folder in __path__:
        if Path(folder, DEVELOPMENT_FOLDERS["cmake"]).is_dir():
            return Path(folder, DEVELOPMENT_FOLDERS[what])
    raise MissingDependencyError(f"the C++ runtime is not installed beside keygraph{_cure('')}")


def library(host: str) -> Path:
    """Return the compiled library of a host, for use in a session of one's own.

    Parameters
    ----------
    host : {"cpu", "onnxruntime", "cuda", "tensorrt", "openvino"}
        ``"onnxruntime"`` goes to `SessionOptions.register_custom_ops_library`, ``"tensorrt"`` to
        `IPluginRegistry.load_library`, ``"openvino"`` to `openvino.Core.add_extension`; ``"cpu"`` and ``"cuda"`` are
        the C interface of `plugins/include/keygraph/`.

    Raises
    ------
    ValueError
        There is no such host.
    MissingDependencyError
        keygraph was installed without this library: ``"cuda"`` is built where Triton is installed only, ``"tensorrt"``
        where TensorRT's headers are besides, ``"openvino"`` where OpenVINO is. Or the installed OpenVINO is not the
        version that ``"openvino"`` was built with.
    """
    if host not in LIBRARIES:
        raise ValueError(f"no host {host!r}; choose one of {', '.join(LIBRARIES)}")
    for folder in __path__:
        path = Path(folder) / "lib" / LIBRARIES[host]
        if path.is_file():
            if host == "openvino":
                _check_openvino(path)
            return path
    raise MissingDependencyError(f"{LIBRARIES[host]} is not installed beside keygraph{_cure(host)}")


def _cure(host: str) -> str:
    if hidden := shadowing():
        return f": {hidden}"
    packages, settings = _BUILT_WITH.get(host, ((), ()))
    return f"; build it with: {reinstall_line(*settings, build_requirements=packages)}"


def _check_openvino(path: Path) -> None:
    """Check that the installed package has the library that an extension was linked to, whose name has the version.

    The loader's own message does not say what to do. Without the package, the user has an OpenVINO of another kind.
    """
    package = find_spec("openvino")
    folders = list(package.submodule_search_locations or ()) if package else []
    installed = {file.name for folder in folders for file in Path(folder, "libs").glob("libopenvino.so.*")}
    needed = {name.decode() for name in re.findall(rb"libopenvino\.so\.\d+", path.read_bytes())}
    if installed and not needed & installed:
        raise MissingDependencyError(
            f"{path.name} was built with the OpenVINO of {', '.join(needed)}, and the installed one has "
            f"{', '.join(sorted(installed))}{_cure('openvino')}"
        )
