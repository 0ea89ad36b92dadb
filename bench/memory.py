"""Peak memory of a way on a GPU, beyond what was there before."""

from __future__ import annotations

import torch

from .implementations import Way
from .problem import Inputs


def peak_extra(way: Way, inputs: Inputs) -> int:
    """Bytes that a way needs at most beyond its inputs, its preparations and its output among them.

    Raises
    ------
    torch.OutOfMemoryError
        The GPU has not so much.
    """
    # What is made only once (compiled kernels, a choice of variant, a library's workspace) is not the operator's.
    way(inputs)()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    output = way(inputs)()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del output
    return peak
