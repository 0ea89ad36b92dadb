"""What is installed on this machine and whether it works. Needs the core only; everything else is looked for."""

from __future__ import annotations

import base64
import ctypes
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import plugins
from ..errors import MissingDependencyError

OK, MISSING, BROKEN = "ok", "missing", "broken"

#: The extras that users choose from, and what each is for.
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

#: Package -> its module, where they differ; None for packages that hold data or libraries only.
_MODULES = {
    "onnxruntime-gpu": "onnxruntime",
    "onnx-ir": "onnx_ir",
    "cuda-bindings": "cuda.bindings",
    "pillow": "PIL",
    "pyvips-binary": None,
    "tensorrt_rtx_cu13_libs": None,
    "tensorrt_rtx_cu13_bindings": "tensorrt_rtx_bindings",
}

#: Two packages of one module: installing the second damages the first.
_RIVALS = ("onnxruntime", "onnxruntime-gpu")
_GPU_REMEDY = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'keygraph[gpu]'"

_CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")

#: graph = KeyGraph(query [1,1,2,2], key [1,1,3,2], k [1]), as an ONNX file without our functions: only the library can
#: run it. Made by `tests/cli/test_doctor.py`, since the package onnx may not be installed here.
TINY_KEY_GRAPH = base64.b64decode(
    "CAo6pQEKKgoFcXVlcnkKA2tleQoBaxIFZ3JhcGgiCEtleUdyYXBoOghrZXlncmFwaBIFY2hlY2taHwoFcXVlcnkSFgoUCAESEAoCCAEKAggBCgII"
    "AgoCCAJaHQoDa2V5EhYKFAgBEhAKAggBCgIIAQoCCAMKAggCWg8KAWsSCgoICAcSBAoCCAFiHwoFZ3JhcGgSFgoUCAYSEAoCCAEKAggBCgIIAgoC"
    "CAFCBAoAEBRCDAoIa2V5Z3JhcGgQAQ=="
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes
    ----------
    group, name
        Where it belongs, and what it is.
    state
        ``"ok"``, ``"missing"`` or ``"broken"``: installed, but of no use as it is.
    detail
        What was found.
    remedy
        The line that installs or mends it; empty when there is nothing to do.
    """

    group: str
    name: str
    state: str
    detail: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, one finding at a time; nothing is raised."""
    yield from machine()
    yield from packages()
    yield from libraries()
    yield from providers()
    yield from gpus()


def machine() -> Iterator[Finding]:
    """Python and the processor."""
    group = "machine"
    new_enough = sys.version_info >= (3, 10)
    yield Finding(group, "Python", OK if new_enough else BROKEN, f"{platform.python_version()} ({sys.executable})")
    yield Finding(group, "system", OK, f"{platform.system()} {platform.release()}, {platform.machine()}")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(group, "cores", OK, f"{usable} usable of {os.cpu_count()}")
    model, features = processor(Path("/proc/cpuinfo"))
    yield Finding(group, "CPU", OK, f"{model}: {' '.join(features) or 'no vector instructions known'}")


def processor(cpuinfo: Path) -> tuple[str, list[str]]:
    """The processor's name, and which of the features that kernels look for it has."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", text, re.MULTILINE))
    found = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", platform.machine()), [feature for feature in _CPU_FEATURES if feature in found]


def packages() -> Iterator[Finding]:
    """keygraph itself, and the packages of every extra."""
    try:
        requirements = importlib.metadata.requires("keygraph") or []
        version = importlib.metadata.version("keygraph")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("keygraph", "keygraph", MISSING, "runs from a folder, not installed", "pip install keygraph")
        return
    yield Finding("keygraph", "keygraph", OK, version)
    for extra in ("", *EXTRAS):
        for requirement in requirements:
            name, least, of = parse(requirement)
            if of == extra and name != "keygraph":
                yield package(extra or "core", name, least)
    if all(map(is_installed, _RIVALS)):
        detail = f"{' and '.join(_RIVALS)} are both installed and overwrite each other"
        yield Finding("gpu", "onnxruntime", BROKEN, detail, _GPU_REMEDY)


def parse(requirement: str) -> tuple[str, str, str]:
    """Read ``name>=1.2; extra == 'x'`` as name, least version or "", extra or ""."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    least = re.search(r">=\s*([0-9.]+)", requirement)
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
    return name[0] if name else "", least[1] if least else "", extra[1] if extra else ""


def package(extra: str, name: str, least: str) -> Finding:
    """One package: there, new enough, and importable."""
    remedy = "pip install keygraph" if extra == "core" else f"pip install 'keygraph[{extra}]'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if any(is_installed(rival) for rival in _RIVALS if name in _RIVALS):
            remedy = _GPU_REMEDY if extra == "gpu" else ""
            return Finding(extra, name, MISSING, "not installed; its rival is, and only one can be", remedy)
        # The core is no option: without it, something is broken.
        return Finding(extra, name, BROKEN if extra == "core" else MISSING, "not installed", remedy)
    if _numbers(version) < _numbers(least):
        return Finding(extra, name, BROKEN, f"{version} is too old, {least} is needed", f"{remedy} --upgrade")
    module = _MODULES.get(name, name)
    if module is not None:
        try:
            import_module(module)
        except Exception as error:
            return Finding(
                extra, name, BROKEN, f"{version} cannot be imported: {_line(error)}", f"{remedy} --force-reinstall"
            )
    return Finding(extra, name, OK, version)


def libraries() -> Iterator[Finding]:
    """Our compiled libraries, each really used."""
    for host, check in {"cpu": _check_cpu, "onnxruntime": _check_onnxruntime, "cuda": _check_cuda}.items():
        name = plugins.LIBRARIES[host]
        try:
            path = plugins.library(host)
        except MissingDependencyError as error:
            _, _, remedy = str(error).rpartition(": ")
            where = "on NVIDIA GPUs, " if host == "cuda" else ""
            detail = f"not installed: {where}exported files run from their own functions, several times slower"
            yield Finding("libraries", name, MISSING, detail, remedy)
            continue
        try:
            detail = check(path)
        except ModuleNotFoundError as error:
            yield Finding("libraries", name, OK, f"installed; not tried, since {error.name} is missing")
        except Exception as error:
            remedy = "pip install --force-reinstall --no-deps keygraph"
            yield Finding("libraries", name, BROKEN, f"does not work: {_line(error)}", remedy)
        else:
            yield Finding("libraries", name, OK, detail)


def _check_cpu(path: Path) -> str:
    """Load the C library and ask for its instruction set."""
    library = ctypes.CDLL(str(path))
    library.keygraph_cpu_isa.restype = ctypes.c_char_p
    isa = library.keygraph_cpu_isa()
    if isa is None:
        raise RuntimeError(
            f"KEYGRAPH_CPU_ISA is {os.environ.get('KEYGRAPH_CPU_ISA')!r}, which this machine or library does not have"
        )
    return f"loads; uses its {isa.decode()} kernels"


def _check_onnxruntime(path: Path) -> str:
    """Run a KeyGraph from the library in ONNX Runtime: two rows, three nodes, a tie."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(path))
    session = onnxruntime.InferenceSession(TINY_KEY_GRAPH, options, providers=["CPUExecutionProvider"])
    feeds = {
        "query": np.array([[[[1, 0], [0, 1]]]], np.float32),
        "key": np.array([[[[1, 0], [1, 0], [0, 1]]]], np.float32),
        "k": np.array([2], np.int64),
    }
    (graph,) = session.run(["graph"], feeds)
    if graph.reshape(-1).tolist() != [0b011, 0b101]:
        raise RuntimeError(f"KeyGraph gives {graph.reshape(-1).tolist()} where [3, 5] is right")
    return f"loads in ONNX Runtime {onnxruntime.__version__}; KeyGraph runs"


def _check_cuda(path: Path, driver: str = "libcuda.so.1") -> str:
    """Load the C library and ask what it was built for, and what each GPU of this machine uses of it."""
    library = ctypes.CDLL(str(path))
    count = library.keygraph_cuda_targets(None, 0)
    targets = (ctypes.c_int32 * count)()
    library.keygraph_cuda_targets(targets, count)
    said = f"loads; built for {', '.join(map(_target, targets))}"
    for index, capability in enumerate(_capabilities(driver)):
        used = library.keygraph_cuda_target(capability)
        said += f"; GPU {index} uses {_target(used)}" if used else f"; nothing for GPU {index}, an sm_{capability}"
    return said


def _target(number: int) -> str:
    """A target as `keygraph_cuda_targets` numbers them."""
    return f"PTX of {(number - 1000) / 10}" if number >= 1000 else f"sm_{number}"


def _capabilities(driver: str) -> list[int]:
    """Compute capabilities of this machine's GPUs, 90 for 9.0; empty where the driver cannot be asked."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_capability(cuda, index) for index in range(count.value)]


def providers() -> Iterator[Finding]:
    """What ONNX Runtime was built for; whether a GPU's provider starts, only a session tells."""
    try:
        import onnxruntime
    except Exception:  # Said under its package.
        return
    yield Finding("ONNX Runtime", "providers", OK, ", ".join(onnxruntime.get_available_providers()))


def gpus(driver: str = "libcuda.so.1") -> Iterator[Finding]:
    """NVIDIA's driver and what it drives, asked through its C interface."""
    try:
        cuda = ctypes.CDLL(driver)
    except OSError as error:
        if "cannot open shared object" in str(error):
            yield Finding(
                "GPU", "NVIDIA driver", MISSING, f"no {driver}: no NVIDIA GPU is used, everything runs on the CPU"
            )
        else:
            yield Finding("GPU", "NVIDIA driver", BROKEN, f"{driver} does not load: {error}", "reinstall the driver")
        return
    status = cuda.cuInit(0)
    if status == 100:  # CUDA_ERROR_NO_DEVICE
        yield Finding("GPU", "NVIDIA driver", MISSING, f"{driver} is there, but no GPU")
        return
    if status != 0:
        remedy = "reboot, or reinstall the driver so that its library and kernel module match"
        yield Finding("GPU", "NVIDIA driver", BROKEN, f"cuInit fails with error {status}", remedy)
        return
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    major, minor = divmod(version.value, 1000)
    yield Finding("GPU", "NVIDIA driver", OK, f"up to CUDA {major}.{minor // 10}, {count.value} GPU(s)")
    for index in range(count.value):
        yield Finding("GPU", f"GPU {index}", OK, _gpu(cuda, index))


def _gpu(cuda: Any, index: int) -> str:
    name = ctypes.create_string_buffer(256)
    memory = ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), index)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), index)
    return f"{name.value.decode()}, sm_{_capability(cuda, index)}, {memory.value / 2**30:.0f} GiB"


def _capability(cuda: Any, index: int) -> int:
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, index)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, index)  # and _MINOR
    return major.value * 10 + minor.value


def is_installed(name: str) -> bool:
    """Whether there is a package of this name."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The release's numbers; what follows them (rc1, +cpu) plays no part."""
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(number) for number in release[0].split(".")) if release else ()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
