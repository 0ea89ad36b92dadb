"""Parameters and multiply-accumulates of a network, counted by PyTorch on shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .architecture import Architecture

#: Products of two tensors that both depend on the image: attention's. Convolutions and linear layers are the others.
_ATTENTION = ("bmm", "baddbmm", "key_graph", "key_graph_attention")


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates for one image.

    Attributes
    ----------
    layers
        Of convolutions and linear layers.
    attention
        Of attention's products.
    norms
        Operations of layer normalisations, five for each value. Not in `total`; the published figures of MST and MST++
        hold them, as the counter that made these (fvcore) knows the layer, while Restormer's code hides it from it.
    """

    layers: int
    attention: int
    norms: int = 0

    @property
    def total(self) -> int:
        """With attention's products, without normalisations."""
        return self.layers + self.attention


def count_parameters(architecture: Architecture, config: Any) -> int:
    """Count the numbers that training changes."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in architecture.build(config).parameters())


def count_macs(architecture: Architecture, config: Any, height: int = 256, width: int = 256) -> Macs:
    """Count what a network computes for one result of `height` x `width` (over its scale).

    Sums, activations and other element-wise work are not counted, as is usual. A key graph counts the similarities of
    all nodes, its attention those that the default k selects.

    Parameters
    ----------
    architecture, config
        The network; no weights are needed.
    height, width
        Pixels, multiples of the interface's `size_multiple`.
    """
    interface = architecture.interface(config)
    inputs = [(interface.in_channels, interface.margin), *((e.channels, e.margin) for e in interface.extra_inputs)]
    k = interface.neighbours.default if interface.neighbours else 0
    counter = FlopCounterMode(display=False, custom_mapping=_formulas(k))
    with torch.device("meta"), torch.no_grad():
        module = architecture.build(config).eval()
        tensors = [torch.empty(1, c, height + rows, width + columns) for c, (rows, columns) in inputs]
        with counter:
            module(*tensors)
    # PyTorch counts a multiply-accumulate as two operations.
    counted = counter.get_flop_counts()["Global"]
    counts = {str(operator).rpartition(".")[2]: flops // 2 for operator, flops in counted.items()}
    norms = counts.pop("native_layer_norm", 0)
    attention = sum(counts.get(operator, 0) for operator in _ATTENTION)
    return Macs(sum(counts.values()) - attention, attention, norms)


def _formulas(k: int) -> dict[Any, Callable[..., int]]:
    """What `FlopCounterMode` does not count by itself: norms, and keygraph's operators for a number k."""

    def key_graph(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * query.numel() * key[2]

    def attention(q: torch.Size, key: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
        # Heads stand side by side, [B, N, H d], or apart, [B, H, N, d]: the count is the same.
        return 2 * min(k, key[-2]) * (q.numel() + v.numel() // key[-2] * q[-2])

    def layer_norm(x: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * 5 * x.numel()

    operators = torch.ops.keygraph
    return {
        operators.key_graph: key_graph,
        operators.key_graph_attention: attention,
        torch.ops.aten.native_layer_norm: layer_norm,
    }
