"""Peak rates of GPUs from NVIDIA's data sheets, for the roofline."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Of a multiprocessor, on all GPUs from Turing to Hopper.
_EXPONENTIALS_PER_CLOCK = 16


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a GPU, without sparsity.

    Attributes
    ----------
    tensor_tflops
        float16 on tensor cores with float32 accumulation, TFLOP/s.
    single_tflops
        float32 on the CUDA cores, TFLOP/s.
    gigabytes
        Memory bandwidth, GB/s.
    multiprocessors
        Number of streaming multiprocessors.
    gigahertz
        Their boost clock.
    """

    tensor_tflops: float
    single_tflops: float
    gigabytes: float
    multiprocessors: int
    gigahertz: float

    @property
    def exponentials(self) -> float:
        """Exponentials per second."""
        return self.multiprocessors * _EXPONENTIALS_PER_CLOCK * self.gigahertz * 1e9


#: Part of the name that PyTorch reports -> rates; the first part that the name contains is used.
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
    """Return a GPU with measured rates in place of its data sheet's.

    Parameters
    ----------
    tensor_tflops, single_tflops, gigabytes, multiprocessors
        As the attributes of `Gpu`.
    exponentials
        Exponentials per second, from which the clock follows, at 16 per clock and multiprocessor.
    """
    clock = exponentials / (multiprocessors * _EXPONENTIALS_PER_CLOCK) / 1e9
    return Gpu(tensor_tflops, single_tflops, gigabytes, multiprocessors, clock)


def known_gpu(name: str) -> Gpu | None:
    """Return a GPU's data sheet by the name that PyTorch reports; None if it is not in `GPUS`."""
    return next((gpu for part, gpu in GPUS.items() if re.search(rf"\b{part}\b", name)), None)
