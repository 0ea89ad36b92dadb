"""The rule behind the provider ``auto``: which engine runs an exported ONNX file fastest, results being equal.

Fixed, so that the same machine gives the same pixels every time; a race at the first image would not. The rule sums up
docs/measurements/cpu-engines.md, which ``benchmarks/cpu_engines.py`` measures.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ... import plugins
from ...errors import InputError
from ..device.spec import Device
from .onnx_file import OnnxFile

#: Features of a CPU that computes faster in bfloat16 than in float32.
_BF16_FEATURES = ("amx_bf16", "avx512_bf16")


def fastest_provider(
    file: OnnxFile, device: Device, precision_hint: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")
) -> tuple[str, str]:
    """Return the provider that is fastest for a file, and why, in words.

    Parameters
    ----------
    file
        An exported file.
    device
        Where it runs.
    precision_hint
        As for `OpenVinoSession`; bfloat16 is computed by OpenVINO only.
    cpuinfo
        Describes the CPU in the format of ``/proc/cpuinfo``.
    """
    if device.kind == "intel-gpu":
        return "openvino", "it alone runs on an Intel GPU"
    if device.kind == "cuda":
        return "cuda", "it needs no engine to be built"
    if find_spec("openvino") is None:
        return "cpu", "OpenVINO is not installed"
    key_graph = file.count("keygraph") > 0
    if key_graph and not _has_operators():
        return "cpu", "keygraph was built without its library for OpenVINO"
    vendor, features = _processor(cpuinfo)
    if precision_hint in ("bf16", "auto") and any(feature in features for feature in _BF16_FEATURES):
        return "openvino", "it computes in bf16, which is faster on this CPU"
    if key_graph:
        return "cpu", "for a key graph it is as fast as OpenVINO or faster"
    if vendor == "GenuineIntel":
        return "openvino", "it is faster than ONNX Runtime on Intel's CPUs"
    return "cpu", "it is as fast as OpenVINO or faster on this CPU"


def _has_operators() -> bool:
    """Return whether keygraph's library for OpenVINO is there, for the version that is installed."""
    try:
        return plugins.library("openvino").is_file()
    except InputError:
        return False


def _processor(cpuinfo: Path) -> tuple[str, frozenset[str]]:
    """Return the vendor and the features of the CPU; empty where they are not known."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", frozenset()
    lines = [line.partition(":") for line in text.splitlines()]
    values = {name.strip(): value.strip() for name, _, value in lines}
    return values.get("vendor_id", ""), frozenset(values.get("flags", "").split())
