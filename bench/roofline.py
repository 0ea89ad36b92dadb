"""The least time that a GPU needs for the operators: what a perfect kernel of this kind would take.

Counted from the shapes alone, with B windows, H heads, N nodes, C channels of the graph, and D channels of a head,
padded to the 16 that tensor cores multiply at a time (D' = 16 ceil(D / 16)):

KeyGraphAttention, in the dense form (the selected nodes lie anywhere, so that nearly every block of scores has some)
    products     2 x 2 B H N^2 D' operations: scores, and weights times values
    exponentials B H N^2, one per score, 16 per clock and multiprocessor on all GPUs from Turing to Hopper
    memory       q, k, v and the output once each, and the graph once
KeyGraph
    products     2 B N^2 C operations
    memory       the nodes once, the graph once; choosing the k-th similarity counts nothing

The floor is the largest of them: they overlap at best. float16 and bfloat16 multiply on tensor cores with sums in
float32, float32 on the ordinary units (TF32 is off).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .problem import Problem

_TENSOR_CORE_STEP = 16
_EXPONENTIALS_PER_CLOCK = 16


@dataclass(frozen=True)
class Gpu:
    """Figures from the maker's data sheets, without sparsity.

    Attributes
    ----------
    tensor_tflops
        float16 on tensor cores, sums in float32.
    single_tflops
        float32 on the ordinary units.
    gigabytes
        Memory's, per second.
    multiprocessors, gigahertz
        How many, and their boost clock.
    """

    tensor_tflops: float
    single_tflops: float
    gigabytes: float
    multiprocessors: int
    gigahertz: float

    @property
    def exponentials(self) -> float:
        """Per second."""
        return self.multiprocessors * _EXPONENTIALS_PER_CLOCK * self.gigahertz * 1e9


#: Words of the name that PyTorch gives -> figures; the first that are in the name hold.
GPUS = {
    "H200": Gpu(989.4, 66.9, 4800, 132, 1.83),
    "H100 PCIe": Gpu(756.4, 51.2, 2039, 114, 1.755),
    "H100 NVL": Gpu(835.5, 60.3, 3938, 132, 1.785),
    "H100": Gpu(989.4, 66.9, 3352, 132, 1.83),
    "A100-SXM4-80GB": Gpu(312, 19.5, 2039, 108, 1.41),
    "A100 80GB PCIe": Gpu(312, 19.5, 1935, 108, 1.41),
    "A100": Gpu(312, 19.5, 1555, 108, 1.41),
    "L40S": Gpu(362, 91.6, 864, 142, 2.52),
    "L40": Gpu(181, 90.5, 864, 142, 2.49),
    "L4": Gpu(121, 30.3, 300, 58, 2.04),
    "A10G": Gpu(70, 31.5, 600, 80, 1.71),
    "A10": Gpu(125, 31.2, 600, 72, 1.695),
    "RTX 4090": Gpu(165.2, 82.6, 1008, 128, 2.52),
    "RTX 3090": Gpu(71, 35.6, 936, 82, 1.695),
    "T4": Gpu(65, 8.1, 320, 40, 1.59),
}


def measured_gpu(
    tensor_tflops: float, single_tflops: float, gigabytes: float, multiprocessors: int, exponentials: float
) -> Gpu:
    """Return what a GPU was measured to reach, in place of its data sheet.

    Parameters
    ----------
    tensor_tflops, single_tflops, gigabytes, multiprocessors
        As `Gpu`'s.
    exponentials
        Per second: they give the clock, at 16 per clock and multiprocessor.
    """
    clock = exponentials / (multiprocessors * _EXPONENTIALS_PER_CLOCK) / 1e9
    return Gpu(tensor_tflops, single_tflops, gigabytes, multiprocessors, clock)


def known_gpu(name: str) -> Gpu | None:
    """A GPU's figures by the name that PyTorch gives it; None where they are not in the table."""
    return next((gpu for part, gpu in GPUS.items() if re.search(rf"\b{part}\b", name)), None)


@dataclass(frozen=True)
class Floor:
    """Milliseconds; what is not counted is 0."""

    products: float
    exponentials: float
    memory: float

    @property
    def milliseconds(self) -> float:
        """The floor."""
        return max(self.products, self.exponentials, self.memory)

    @property
    def limit(self) -> str:
        """Which of the three it is."""
        return next(name for name in ("products", "exponentials", "memory") if getattr(self, name) == self.milliseconds)


def attention_floor(problem: Problem, gpu: Gpu) -> Floor:
    """KeyGraphAttention's, see the module."""
    scores = problem.windows * problem.heads * problem.nodes**2
    channels = -(-problem.channels // _TENSOR_CORE_STEP) * _TENSOR_CORE_STEP
    return Floor(
        products=4 * scores * channels / _operations(problem, gpu) * 1e3,
        exponentials=scores / gpu.exponentials * 1e3,
        memory=problem.attention_bytes / (gpu.gigabytes * 1e9) * 1e3,
    )


def graph_floor(problem: Problem, gpu: Gpu) -> Floor:
    """KeyGraph's, see the module."""
    nodes = problem.windows * problem.nodes
    read = nodes * problem.graph_channels * problem.itemsize
    return Floor(
        products=2 * nodes * problem.nodes * problem.graph_channels / _operations(problem, gpu) * 1e3,
        exponentials=0.0,
        memory=(read + problem.graph_bytes) / (gpu.gigabytes * 1e9) * 1e3,
    )


def _operations(problem: Problem, gpu: Gpu) -> float:
    """Per second."""
    return (gpu.single_tflops if problem.dtype == "float32" else gpu.tensor_tflops) * 1e12
