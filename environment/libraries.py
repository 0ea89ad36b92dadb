"""keygraph's native libraries, each loaded and run, and what ONNX Runtime was built for."""

from __future__ import annotations

import base64
import ctypes
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import plugins
from ..errors import MissingDependencyError
from ..installation import reinstall_line
from .findings import BROKEN, MISSING, OK, Finding, one_line
from .gpus import available_gpus

#: graph = KeyGraph(query [1,1,2,2], key [1,1,3,2], k [1]) as an ONNX file without the operator's function body, so that
#: only the library can run it. Stored as bytes because the package onnx may not be installed; the test of this module
#: makes the same bytes.
TINY_KEY_GRAPH = base64.b64decode(
    "CAo6pQEKKgoFcXVlcnkKA2tleQoBaxIFZ3JhcGgiCEtleUdyYXBoOghrZXlncmFwaBIFY2hlY2taHwoFcXVlcnkSFgoUCAESEAoCCAEKAggBCgII"
    "AgoCCAJaHQoDa2V5EhYKFAgBEhAKAggBCgIIAQoCCAMKAggCWg8KAWsSCgoICAcSBAoCCAFiHwoFZ3JhcGgSFgoUCAYSEAoCCAEKAggBCgIIAgoC"
    "CAFCBAoAEBRCDAoIa2V5Z3JhcGgQAQ=="
)


def examine_libraries() -> Iterator[Finding]:
    """Yield one finding for each native library, after running something from it."""
    checks = {"cpu": _check_cpu, "onnxruntime": _check_onnxruntime, "cuda": _check_cuda}
    if find_spec("openvino"):
        checks["openvino"] = _check_openvino
    for host, check in checks.items():
        name = plugins.LIBRARIES[host]
        try:
            path = plugins.library(host)
        except MissingDependencyError as error:
            _, _, remedy = str(error).rpartition(": ")
            where = {"cuda": "on NVIDIA GPUs, ", "openvino": "in OpenVINO, "}.get(host, "")
            detail = f"not installed: {where}exported files run from their own functions, several times slower"
            yield Finding("libraries", name, MISSING, detail, remedy)
            continue
        try:
            detail = check(path)
        except ModuleNotFoundError as error:
            yield Finding("libraries", name, OK, f"installed; not tried, since {error.name} is missing")
        except Exception as error:
            remedy = reinstall_line()
            yield Finding("libraries", name, BROKEN, f"does not work: {one_line(error)}", remedy)
        else:
            yield Finding("libraries", name, OK, detail)


def _check_cpu(path: Path) -> str:
    """Load the CPU library and return which instruction set it chose."""
    library = ctypes.CDLL(str(path))
    library.keygraph_cpu_isa.restype = ctypes.c_char_p
    isa = library.keygraph_cpu_isa()
    if isa is None:
        raise RuntimeError(
            f"KEYGRAPH_CPU_ISA is {os.environ.get('KEYGRAPH_CPU_ISA')!r}, which this machine or library does not have"
        )
    return f"loads; uses its {isa.decode()} kernels"


def _check_onnxruntime(path: Path) -> str:
    """Run KeyGraph from the library in ONNX Runtime."""
    import onnxruntime

    from ..runtime.backends.onnx_providers import session_options

    options = session_options()
    options.register_custom_ops_library(str(path))
    session = onnxruntime.InferenceSession(TINY_KEY_GRAPH, options, providers=["CPUExecutionProvider"])
    (graph,) = session.run(["graph"], _tiny_feeds())
    _check_graph(graph)
    return f"loads in ONNX Runtime {onnxruntime.__version__}; KeyGraph runs"


def _check_openvino(path: Path) -> str:
    """Run KeyGraph from the library in OpenVINO."""
    from ..runtime.backends.openvino_import import without_telemetry

    with without_telemetry():
        import openvino

    core = openvino.Core()
    core.add_extension(path)
    feeds = _tiny_feeds()
    _check_graph(core.compile_model(core.read_model(TINY_KEY_GRAPH), "CPU")(feeds)["graph"])
    return f"loads in OpenVINO {openvino.__version__.split('-', 1)[0]}; KeyGraph runs"


def _tiny_feeds() -> dict[str, Any]:
    """Return inputs of `TINY_KEY_GRAPH`: two rows, three nodes, one tie."""
    import numpy as np

    return {
        "query": np.array([[[[1, 0], [0, 1]]]], np.float32),
        "key": np.array([[[[1, 0], [1, 0], [0, 1]]]], np.float32),
        "k": np.array([2], np.int64),
    }


def _check_graph(graph: Any) -> None:
    """Check the graph of `_tiny_feeds`."""
    if graph.reshape(-1).tolist() != [0b011, 0b101]:
        raise RuntimeError(f"KeyGraph gives {graph.reshape(-1).tolist()} where [3, 5] is right")


def _check_cuda(path: Path, driver: str = "libcuda.so.1") -> str:
    """Load the CUDA library; return the targets it was built for, and which of them each GPU here uses."""
    library = ctypes.CDLL(str(path))
    count = library.keygraph_cuda_targets(None, 0)
    targets = (ctypes.c_int32 * count)()
    library.keygraph_cuda_targets(targets, count)
    said = f"loads; built for {', '.join(map(_target, targets))}"
    for index, gpu in enumerate(available_gpus(driver)):
        major, minor = gpu.capability
        used = library.keygraph_cuda_target(10 * major + minor)
        said += f"; GPU {index} uses {_target(used)}" if used else f"; nothing for GPU {index}, an {gpu.target}"
    return said


def _target(number: int) -> str:
    """Return the name of a target: 89 is sm_89, 1080 is PTX for compute capability 8.0."""
    return f"PTX of {(number - 1000) / 10}" if number >= 1000 else f"sm_{number}"


def examine_providers() -> Iterator[Finding]:
    """Yield ONNX Runtime's execution providers. A GPU's may still fail to start, which only a session shows."""
    try:
        import onnxruntime
    except Exception:  # Reported with its package.
        return
    yield Finding("ONNX Runtime", "providers", OK, ", ".join(onnxruntime.get_available_providers()))
