"""keygraph and the Python packages of its extras: installed, new enough, and importable."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from importlib import import_module

from ..installation import USE_GPU_RUNTIME
from .findings import BROKEN, MISSING, OK, Finding, one_line

#: The extras that users choose from -> what each is for.
EXTRAS = {
    "cli": "the command line",
    "cpu": "run exported files on the CPU",
    "gpu": "run exported files on an NVIDIA GPU",
    "export": "export checkpoints",
    "parity": "compare",
    "spectral": "spectral cubes and their previews",
    "triton": "compile the operators for NVIDIA GPUs",
    "rtx": "engines for TensorRT-RTX",
    "tensorrt": "engines for TensorRT",
}

#: Package -> the module it provides, where the names differ; None for packages of data or libraries only.
_MODULES = {
    "onnxruntime-gpu": "onnxruntime",
    "onnx-ir": "onnx_ir",
    "cuda-bindings": "cuda.bindings",
    "pillow": "PIL",
    "pyvips-binary": None,
    "scikit-image": "skimage",
    "tensorrt_rtx_cu13_libs": None,
    "tensorrt_rtx_cu13_bindings": "tensorrt_rtx_bindings",
}

#: Two packages that provide the same module: installing the second overwrites files of the first.
_CONFLICTING = ("onnxruntime", "onnxruntime-gpu")


def examine_packages() -> Iterator[Finding]:
    """Yield findings about keygraph itself and about the packages of every extra."""
    try:
        requirements = importlib.metadata.requires("keygraph") or []
        version = importlib.metadata.version("keygraph")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("keygraph", "keygraph", MISSING, "runs from a folder, not installed", "pip install keygraph")
        return
    yield Finding("keygraph", "keygraph", OK, version)
    for extra in ("", *EXTRAS):
        for requirement in requirements:
            name, minimum, of = parse_requirement(requirement)
            if of == extra and name != "keygraph":
                yield package(extra or "core", name, minimum)
    if all(map(is_installed, _CONFLICTING)):
        detail = f"{' and '.join(_CONFLICTING)} are both installed and overwrite each other"
        yield Finding("gpu", "onnxruntime", BROKEN, detail, USE_GPU_RUNTIME)


def parse_requirement(requirement: str) -> tuple[str, str, str]:
    """Split ``name>=1.2; extra == 'x'`` into the name, the minimum version or "", and the extra or ""."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    minimum = re.search(r">=\s*([0-9.]+)", requirement)
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
    return name[0] if name else "", minimum[1] if minimum else "", extra[1] if extra else ""


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
    remedy = "pip install keygraph" if extra == "core" else f"pip install 'keygraph[{extra}]'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name in _CONFLICTING and any(map(is_installed, _CONFLICTING)):
            remedy = USE_GPU_RUNTIME if extra == "gpu" else ""
            return Finding(extra, name, MISSING, "not installed; its rival is, and only one can be", remedy)
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


def is_installed(name: str) -> bool:
    """Return whether a package of this name is installed."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of the release segment; suffixes (rc1, +cpu) are ignored."""
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(number) for number in release[0].split(".")) if release else ()
