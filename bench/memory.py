"""Peak GPU memory of an implementation, beyond what was allocated before."""

from __future__ import annotations

import torch

from .implementations import Implementation
from .problem import Inputs


def peak_extra(implementation: Implementation, inputs: Inputs) -> int:
    """Return the peak bytes beyond the inputs, the implementation's preparation and its output included.

    Raises
    ------
    torch.OutOfMemoryError
        The GPU has not that much memory.
    """
    # The first call allocates what is kept (compiled kernels, the chosen variant, a library's workspace).
    implementation(inputs)()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    output = implementation(inputs)()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del output
    return peak
