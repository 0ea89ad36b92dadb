"""What the benchmarks on the CPU have in common."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

#: Every contender gets this many.
THREADS = 2


def features() -> dict[str, Any]:
    """What the figures depend on: the processor and the versions."""
    import onnxruntime
    import torch

    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
