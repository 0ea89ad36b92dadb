"""Whether this process can still use the GPU: after an invalid memory access in a kernel, every CUDA call fails."""

from __future__ import annotations

import sys


def is_lost() -> bool:
    """Wait for the GPU; return whether it failed. False if PyTorch has not used it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
