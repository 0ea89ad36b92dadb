"""Python, the operating system and the processor."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ..runtime.device.processor import usable_cores
from .findings import BROKEN, OK, Finding

#: Features of /proc/cpuinfo that the CPU kernels are compiled for, or that matter for ONNX Runtime.
_CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")


def examine_machine() -> Iterator[Finding]:
    """Yield findings about Python, the operating system and the processor."""
    group = "machine"
    new_enough = sys.version_info >= (3, 10)
    yield Finding(group, "Python", OK if new_enough else BROKEN, f"{platform.python_version()} ({sys.executable})")
    yield Finding(group, "system", OK, f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Finding(group, "cores", OK, f"{usable_cores()} usable of {os.cpu_count()}")
    model, features = processor(Path("/proc/cpuinfo"))
    yield Finding(group, "CPU", OK, f"{model}: {' '.join(features) or 'no vector instructions known'}")


def processor(cpuinfo: Path) -> tuple[str, list[str]]:
    """Return the processor's name, and those of its instruction sets that keygraph's kernels or ONNX Runtime use.

    `cpuinfo` is ``/proc/cpuinfo`` or a file of that format; where it cannot be read, the list is empty.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", text, re.MULTILINE))
    found = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", platform.machine()), [feature for feature in _CPU_FEATURES if feature in found]
