"""Every suspect, planted in a module and named by the comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from keygraph.parity import compare_modules
from keygraph.parity.rounding.arithmetic import ten_bits
from keygraph.parity.rounding.suspects import SUSPECTS
from keygraph.plugins.torch import key_graph, key_graph_attention
from torch import Tensor, nn
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = np.random.default_rng(0).standard_normal((1, 8, 6, 7)).astype(np.float32)


class Attention(nn.Module):
    """Attention with keygraph's operator, in which a fault can be planted."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.scale = nn.Linear(8, 24), 0.5
        self.exchanged = False
        self.arrange: Callable[[Tensor], Tensor] = lambda heads: heads

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, 8] -> [B, N, 8]."""
        q, k, v = self.qkv(x).chunk(3, -1)
        graph = key_graph(x[:, None], x[:, None], torch.tensor([6]))
        q, k = (k, q) if self.exchanged else (q, k)
        found = key_graph_attention(q, k, v, graph, scale=self.scale, heads=2)
        arranged: Tensor = self.arrange(found.unflatten(-1, (2, 4))).flatten(-2)
        return arranged


class Block(nn.Module):
    """One of everything that is suspected."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.group = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8, eps=1e-4)
        self.batch, self.norm = nn.BatchNorm2d(8, eps=1e-4), nn.LayerNorm(8, eps=1e-4)
        self.attention, self.linear, self.plain = Attention(), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.activation = nn.GELU()
        for parameter in self.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 8, H, W] -> [B, H * W, 8]."""
        x = self.batch(self.group(self.conv(x))).flatten(2).mT
        x = self.attention(self.norm(0.05 * x))
        result: Tensor = self.plain(self.activation(self.linear(x)))
        return result


class Planted(nn.Module):
    """A layer with both factors of its product in another precision."""

    def __init__(self, layer: nn.Linear, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.change = layer.weight, layer.bias, change

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C']."""
        return functional.linear(self.change(x), self.change(self.weight), self.bias)


def _set(module: str, **values: Any) -> Callable[[Block], None]:
    def plant(block: Block) -> None:
        for name, value in values.items():
            setattr(block.get_submodule(module), name, value)

    return plant


def _weight(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Block], None]:
    def plant(block: Block) -> None:
        parameter = block.get_parameter(name)
        parameter.data = change(parameter.data)

    return plant


def _padding(mode: Any) -> Callable[[Block], None]:
    def plant(block: Block) -> None:
        conv = nn.Conv2d(8, 8, 3, padding=1, padding_mode=mode)
        conv.load_state_dict(block.conv.state_dict())
        block.conv = conv

    return plant


def _product(change: Callable[[Tensor], Tensor]) -> Callable[[Block], None]:
    def plant(block: Block) -> None:
        block.linear = Planted(block.linear, change)  # type: ignore[assignment]

    return plant


#: What is planted, the module that is accused, and its name.
FAULTS: list[tuple[Callable[[Block], None], str, str]] = [
    (_set("activation", approximate="tanh"), "activation", "the other form of GELU (erf for tanh, or tanh for erf)"),
    *(
        (_set(module, eps=value), module, f"an epsilon of {value:g}")
        for module in ("norm", "batch", "group")
        for value in (1e-6, 1e-5, 1e-3)
    ),
    (_set("attention", exchanged=True), "attention", "q and k exchanged"),
    (_set("attention", scale=1.0), "attention", "no scale of the scores"),
    (_set("attention", scale=0.4), "attention", "the scale of the scores multiplied by 0.8"),
    (_set("attention", arrange=lambda x: x.flip(-2)), "attention", "heads in another order"),
    (
        _set("attention", arrange=lambda x: x.mT),
        "attention",
        "heads and their channels exchanged",
    ),
    (_set("linear", bias=None), "linear", "no bias"),
    (_set("conv", bias=None), "conv", "no bias"),
    (_weight("linear.weight", lambda w: w.mT.contiguous()), "linear", "a transposed weight"),
    (_weight("plain.weight", lambda w: w.mT.contiguous()), "plain", "a transposed weight"),
    (_weight("conv.weight", lambda w: w.roll(1, -2)), "conv", "a kernel moved by a pixel down"),
    (_weight("conv.weight", lambda w: w.roll(-1, -2)), "conv", "a kernel moved by a pixel up"),
    (_weight("conv.weight", lambda w: w.roll(1, -1)), "conv", "a kernel moved by a pixel to the right"),
    (_weight("conv.weight", lambda w: w.roll(-1, -1)), "conv", "a kernel moved by a pixel to the left"),
    (_weight("conv.weight", lambda w: w.flip(-2, -1)), "conv", "a kernel rotated by 180 degrees"),
    *((_padding(mode), "conv", f"padding of mode {mode}") for mode in ("reflect", "replicate", "circular")),
    (_weight("linear.weight", lambda w: w.half().float()), "linear", "weights in fp16 or TF32"),
    (_weight("linear.weight", ten_bits), "linear", "weights in fp16 or TF32"),
    (_weight("linear.weight", lambda w: w.bfloat16().float()), "linear", "weights in bf16"),
    (_weight("conv.weight", lambda w: w.bfloat16().float()), "conv", "weights in bf16"),
    (_product(ten_bits), "linear", "products in TF32"),
    (_product(lambda x: x.bfloat16().float()), "linear", "products in bf16"),
]


@pytest.mark.parametrize(("plant", "module", "suspect"), FAULTS, ids=[f"{name} in {at}" for _, at, name in FAULTS])
def test_a_suspect_is_named(plant: Callable[[Block], None], module: str, suspect: str) -> None:
    right, wrong = Block().eval(), Block().eval()
    plant(wrong)
    found = compare_modules(right, wrong.eval(), IMAGE)
    assert not found.passed
    (block,) = found.beyond_rounding
    assert (block.name, block.suspect) == (module, suspect)


def test_the_module_without_a_fault_passes() -> None:
    assert compare_modules(Block().eval(), Block().eval(), IMAGE).passed


def test_every_suspect_is_planted_here() -> None:
    """Two of them are the same with two heads: another order and the reverse."""
    named = {name for _, _, name in FAULTS} | {"heads in reverse order"}
    assert {suspect.name for suspect in SUSPECTS} <= named
