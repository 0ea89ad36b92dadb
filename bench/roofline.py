"""The roofline: the shortest time in which a GPU's peak rates allow the operators to run.

It is counted from the shapes alone, with B windows, H heads, N nodes, C channels of the graph, and D channels of a
head, padded to the 16 that tensor cores multiply at a time (D' = 16 ceil(D / 16)):

KeyGraphAttention, in the dense form (the selected nodes may lie anywhere, so that nearly every block contains some)
    products     2 x 2 B H N^2 D' operations: scores, and weights times values
    exponentials B H N^2, one per score, 16 per clock and multiprocessor on all GPUs from Turing to Hopper
    memory       q, k, v and the output once each, and the graph once
KeyGraph
    products     2 B N^2 C operations
    memory       the nodes once, the graph once; selecting the k largest similarities is not counted

The roofline is the largest of the three times, as if they overlapped perfectly. float16 and bfloat16 multiply on tensor
cores with float32 accumulation, float32 on the CUDA cores (TF32 is off).
"""

from __future__ import annotations

from dataclasses import dataclass

from .data_sheets import Gpu
from .problem import Problem

_TENSOR_CORE_STEP = 16


@dataclass(frozen=True)
class Roofline:
    """Time that each resource alone would take.

    Attributes
    ----------
    products, exponentials, memory
        Milliseconds; 0 where nothing of this kind is counted.
    """

    products: float
    exponentials: float
    memory: float

    @property
    def milliseconds(self) -> float:
        """The largest of the three."""
        return max(self.products, self.exponentials, self.memory)

    @property
    def limit(self) -> str:
        """Which of the three is the largest: ``"products"``, ``"exponentials"`` or ``"memory"``."""
        return next(name for name in ("products", "exponentials", "memory") if getattr(self, name) == self.milliseconds)


def attention_roofline(problem: Problem, gpu: Gpu) -> Roofline:
    """Return the roofline of KeyGraphAttention, counted as the module says."""
    scores = problem.windows * problem.heads * problem.nodes**2
    channels = -(-problem.channels // _TENSOR_CORE_STEP) * _TENSOR_CORE_STEP
    return Roofline(
        products=4 * scores * channels / _operations(problem, gpu) * 1e3,
        exponentials=scores / gpu.exponentials * 1e3,
        memory=problem.attention_bytes / (gpu.gigabytes * 1e9) * 1e3,
    )


def graph_roofline(problem: Problem, gpu: Gpu) -> Roofline:
    """Return the roofline of KeyGraph, counted as the module says."""
    nodes = problem.windows * problem.nodes
    read = nodes * problem.graph_channels * problem.itemsize
    return Roofline(
        products=2 * nodes * problem.nodes * problem.graph_channels / _operations(problem, gpu) * 1e3,
        exponentials=0.0,
        memory=(read + problem.graph_bytes) / (gpu.gigabytes * 1e9) * 1e3,
    )


def _operations(problem: Problem, gpu: Gpu) -> float:
    """Return the peak rate of multiplications and additions, per second."""
    return (gpu.single_tflops if problem.dtype == "float32" else gpu.tensor_tflops) * 1e12
