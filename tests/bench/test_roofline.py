"""The roofline: its formulas, and the data sheets by the names of GPUs."""

from __future__ import annotations

import pytest
from keygraph.bench.data_sheets import GPUS, known_gpu, measured_gpu
from keygraph.bench.problem import Problem
from keygraph.bench.roofline import attention_roofline, graph_roofline


def test_the_roofline_is_what_the_formulas_say() -> None:
    gpu = GPUS["H200"]
    problem = Problem(64, 6, 1024, 30, 256)
    roofline = attention_roofline(problem, gpu)
    scores = 64 * 6 * 1024 * 1024
    # Two products of 2 operations on heads of 32; the exponentials of 132 x 16 units.
    assert roofline.products == pytest.approx(scores * 2 * 2 * 32 / 989.4e12 * 1e3)
    assert roofline.exponentials == pytest.approx(scores / (132 * 16 * 1.83e9) * 1e3)
    assert roofline.memory == pytest.approx((4 * 64 * 6 * 1024 * 30 * 2 + 64 * 1024 * 128) / 4800e9 * 1e3)
    assert (roofline.limit, roofline.milliseconds) == ("exponentials", roofline.exponentials)
    graph = graph_roofline(problem, gpu)
    assert graph.products == pytest.approx(2 * 64 * 1024 * 1024 * 180 / 989.4e12 * 1e3)
    assert graph.memory == pytest.approx((64 * 1024 * 180 * 2 + 64 * 1024 * 128) / 4800e9 * 1e3)
    single = graph_roofline(Problem(64, 6, 1024, 30, 256, "float32"), gpu)
    assert single.limit == "products"
    assert single.products == pytest.approx(2 * 64 * 1024 * 1024 * 180 / 66.9e12 * 1e3)


def test_a_measured_gpu_has_the_clock_that_its_exponentials_tell() -> None:
    measured = measured_gpu(700.0, 50.0, 3000.0, 132, 3e12)
    assert measured.exponentials == pytest.approx(3e12)
    assert attention_roofline(Problem(64, 6, 1024, 30, 256), measured).exponentials == pytest.approx(
        64 * 6 * 1024**2 / 3e9
    )


def test_gpus_are_known_by_their_names() -> None:
    assert known_gpu("NVIDIA H200") is GPUS["H200"]
    assert known_gpu("NVIDIA H100 80GB HBM3") is GPUS["H100"]
    assert known_gpu("NVIDIA H100 PCIe") is GPUS["H100 PCIe"]
    assert known_gpu("NVIDIA A100-SXM4-40GB") is GPUS["A100"]
    assert known_gpu("NVIDIA A100 80GB PCIe") is GPUS["A100 80GB PCIe"]
    assert known_gpu("NVIDIA L40") is GPUS["L40"]
    assert known_gpu("NVIDIA GeForce RTX 4090") is GPUS["RTX 4090"]
    assert known_gpu("NVIDIA GeForce GT 1030") is None
    assert known_gpu("x86_64") is None
