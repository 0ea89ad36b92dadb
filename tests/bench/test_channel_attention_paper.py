"""Counting on paper what channel attention costs: against sums done by hand, and on small networks."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from keygraph.bench.data_sheets import Gpu
from keygraph.models.channel_attention import Mixer, split_heads
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import RestormerConfig
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"

#: 1 GB/s and 1 Tflop/s.
GPU = Gpu(tensor_tflops=1, single_tflops=1, gigabytes=1, multiprocessors=1, gigahertz=1)


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("channel_attention_paper")


class Small(nn.Module):
    """x + project(attention(GELU(qkv(x)))), 4 channels in 2 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(4, 12, 1, bias=False)
        self.temperature = nn.Parameter(torch.ones(2, 1, 1))
        self.mixer = Mixer()
        self.project = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(y, 2) for y in nn.functional.gelu(self.qkv(x)).chunk(3, dim=1))
        projected: Tensor = self.project(self.mixer(q, k, v, self.temperature).reshape(x.shape))
        return x + projected


def test_bytes_and_operations_are_those_done_by_hand(paper: ModuleType) -> None:
    with torch.device("meta"):
        operators = paper.count(Small().half(), torch.empty(1, 4, 8, 8, dtype=torch.float16))
    image, products = 4 * 64 * 2, 2 * 2 * 2 * 2  # bytes of 4 channels, and of the Gram products of both heads
    lengths, temperature = 2 * 2 * 2, 2 * 2
    convolutions = [12 * 4 * 2, 4 * 4 * 2]  # bytes of the weights
    eager = {
        "convolution": [image + convolutions[0] + 3 * image, 2 * image + convolutions[1]],
        "gelu": [6 * image],
        "bmm": [2 * image + products, products + 2 * image],
        "linalg_vector_norm": [image + lengths] * 2,
        "clamp": [2 * lengths] * 2,
        "mul": [2 * lengths + products, products + temperature + products],
        "div": [3 * products],
        "_softmax": [2 * products],
        "add": [3 * image],
    }
    found: dict[str, list[int]] = {}
    for operator in operators:
        found.setdefault(operator.name.removeprefix("aten::"), []).append(operator.bytes)
    assert found == eager
    gram = 2 * 2 * 2 * 2 * 64  # heads x d x d x pixels, a multiplication and an addition each
    assert [operator.operations for operator in operators if operator.attention and operator.operations] == [gram] * 2
    assert sum(operator.operations for operator in operators) == 2 * gram + 2 * 64 * (4 * 12 + 4 * 4)

    kernels = paper.fused(operators)
    assert [kernel.bytes for kernel in kernels] == [
        4 * image + convolutions[0],  # with GELU
        2 * image + products,
        image + lengths,
        # The second norm, and everything value by value behind it.
        image + lengths + products + temperature + products,
        2 * products,
        products + 2 * image,
        image + convolutions[1] + image + image,  # with the skip
    ]
    assert [kernel.attention for kernel in kernels] == [False, True, True, True, True, True, False]
    (roofline,) = paper.attention_roofline(operators)
    assert roofline.bytes == 4 * image + temperature
    assert roofline.operations == 2 * gram


def test_times_and_what_they_say(paper: ModuleType) -> None:
    kernels = [
        paper.Kernel({(0, 0): 6_000_000}, {1: 2_000_000}),  # 8 ms of memory
        paper.Kernel(operations=2_000_000_000, attention=True),  # 2 ms of products
    ]
    estimate = paper.estimate(kernels, [paper.Kernel(operations=1_000_000_000)], GPU)
    assert (estimate.network, estimate.attention, estimate.roofline) == pytest.approx((10, 2, 1))
    assert estimate.most == pytest.approx(10 / 9)
    assert estimate.bound == pytest.approx(10 / 8)
    # If the attention takes 1.85 times as long: 8 + 3.7 against 8 + 1.
    assert (8 + 2 * estimate.slack) / (8 + 1) == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("name", "config", "layers"),
    [
        ("restormer", RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1), 8),
        ("mst_plus_plus", MSTPlusPlusConfig(in_channels=3, out_channels=4, channels=4, stages=1), 5),
    ],
)
def test_small_networks(paper: ModuleType, name: str, config: object, layers: int) -> None:
    operators = paper.operators_of(name, config, (16, 24))
    kernels, rooflines = paper.fused(operators), paper.attention_roofline(operators)
    assert len(rooflines) == layers
    assert sum(kernel.operations for kernel in kernels) == sum(operator.operations for operator in operators)
    assert sum(kernel.bytes for kernel in kernels) < sum(operator.bytes for operator in operators)
    for way in (operators, kernels):
        estimate = paper.estimate(way, rooflines, GPU)
        assert 0 < estimate.roofline < estimate.attention < estimate.network
        assert 1 < estimate.most < estimate.bound


@pytest.mark.slow
def test_the_script_prints_its_table() -> None:
    script = [sys.executable, str(BENCHMARKS / "channel_attention_paper.py")]
    table = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert table.count("| restormer, 480 x 720, ") == table.count("| mst_plus_plus, 488 x 512, ") == 4
