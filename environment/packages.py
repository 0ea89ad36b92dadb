"""keygraph and the Python packages of its extras: installed, new enough, and importable."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from importlib import import_module

from .. import installation
from .findings import BROKEN, MISSING, OK, Finding, one_line

#: The extras that users choose from -> what each is for.
EXTRAS = {
    "cli": "the command line",
    "cpu": "run exported files on the CPU",
    "gpu": "run exported files on an NVIDIA GPU",
    "openvino": "run exported files on the CPU in OpenVINO",
    "export": "export checkpoints",
    "parity": "compare",
    "plots": "drawings of key graphs",
    "spectral": "spectral cubes and their previews",
    "slides": "slides of microscopes other than Aperio's",
    "zarr": "Zarr and OME-Zarr",
    "video": "videos",
    "serve": "the service over HTTP",
    "triton": "compile the operators for NVIDIA GPUs",
    "rtx": "engines for TensorRT-RTX",
    "tensorrt": "engines for TensorRT",
}

#: Package -> the module it provides, where the names differ; None for packages of data or libraries only.
_MODULES = {
    "onnxruntime-gpu": "onnxruntime",
    "onnx-ir": "onnx_ir",
    "openslide-bin": "openslide_bin",
    "openslide-python": "openslide",
    "cuda-bindings": "cuda.bindings",
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "python-multipart": "python_multipart",
    "pyvips-binary": None,
    "scikit-image": "skimage",
    "tensorrt_rtx_cu13_libs": None,
    "tensorrt_rtx_cu13_bindings": "tensorrt_rtx_bindings",
}


def examine_packages() -> Iterator[Finding]:
    """Yield findings about keygraph itself and about the packages of every extra."""
    keygraph = installation.distribution()
    if keygraph is None:
        line = installation.install_line()
        yield Finding("keygraph", "keygraph", MISSING, "runs from a folder, not installed", line)
        return
    yield Finding("keygraph", "keygraph", OK, keygraph.version)
    if hidden := installation.shadowing():
        yield Finding("keygraph", "import", BROKEN, hidden)
    required = installation.requirements(keygraph)
    for extra in ("", *EXTRAS):
        for one in required:
            if one.extra == extra and one.name != "keygraph":
                yield package(extra or "core", one.name, one.minimum)
    rivals = installation.providers("onnxruntime")
    if len(rivals) > 1:
        detail = f"{' and '.join(rivals)} are installed together and overwrite each other's files"
        yield Finding("gpu", "onnxruntime", BROKEN, detail, installation.gpu_runtime_line())


def package(extra: str, name: str, minimum: str) -> Finding:
    """Return whether one package is installed, new enough and importable.

    Parameters
    ----------
    extra
        The extra of keygraph that requires it, or ``"core"``.
    name
        Its name on the package index.
    minimum
        The oldest version that is accepted; empty for any.
    """
    remedy = installation.install_line("" if extra == "core" else extra)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        rivals = installation.providers(_MODULES.get(name, name) or name)
        if rivals:
            remedy = installation.gpu_runtime_line() if extra == "gpu" else ""
            detail = f"not installed; {' and '.join(rivals)} is, in its place: only one can be"
            return Finding(extra, name, MISSING, detail, remedy)
        # The core is not optional: an installation without it is broken.
        return Finding(extra, name, BROKEN if extra == "core" else MISSING, "not installed", remedy)
    if _release(version) < _release(minimum):
        return Finding(extra, name, BROKEN, f"{version} is too old, {minimum} is needed", f"{remedy} --upgrade")
    module = _MODULES.get(name, name)
    if module is not None:
        try:
            import_module(module)
        except Exception as error:  # Whatever an import raises, the other packages are examined.
            return Finding(
                extra, name, BROKEN, f"{version} cannot be imported: {one_line(error)}", f"{remedy} --force-reinstall"
            )
    return Finding(extra, name, OK, version)


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of the release segment; suffixes (rc1, +cpu) are ignored."""
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(number) for number in release[0].split(".")) if release else ()
