"""Size of a network: parameters and multiply-accumulates, counted by PyTorch on shapes alone."""

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
class Size:
    """What a network holds, and what it computes for one image.

    Attributes
    ----------
    parameters
        Numbers that training changes.
    layers
        Multiply-accumulates of convolutions and linear layers.
    attention
        Multiply-accumulates of attention's products.
    """

    parameters: int
    layers: int
    attention: int

    @property
    def macs(self) -> int:
        """All multiply-accumulates."""
        return self.layers + self.attention


def count(architecture: Architecture, config: Any, height: int = 256, width: int = 256) -> Size:
    """Count what a network has and computes.

    Sums, norms, activations and other element-wise work are not counted, as is usual. A key graph counts the
    similarities of all nodes, its attention those that the default k selects.

    Parameters
    ----------
    architecture, config
        The network; no weights are needed.
    height, width
        Pixels of the result over its scale, multiples of the interface's `size_multiple`.
    """
    interface = architecture.interface(config)
    inputs = [(interface.in_channels, interface.margin), *((e.channels, e.margin) for e in interface.extra_inputs)]
    k = interface.neighbours.default if interface.neighbours else 0
    counter = FlopCounterMode(display=False, custom_mapping=_key_graph_formulas(k))
    with torch.device("meta"), torch.no_grad():
        module = architecture.build(config).eval()
        tensors = [torch.empty(1, c, height + rows, width + columns) for c, (rows, columns) in inputs]
        with counter:
            module(*tensors)
    # PyTorch counts a multiply-accumulate as two operations.
    counts = {str(operator): flops // 2 for operator, flops in counter.get_flop_counts()["Global"].items()}
    attention = sum(macs for operator, macs in counts.items() if operator.rpartition(".")[2] in _ATTENTION)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Size(parameters, sum(counts.values()) - attention, attention)


def _key_graph_formulas(k: int) -> dict[Any, Callable[..., int]]:
    """Operations of keygraph's own operators; `FlopCounterMode` shows their tensors' shapes, but not the number k."""

    def key_graph(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * query.numel() * key[2]

    def attention(q: torch.Size, key: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
        # Heads stand side by side, [B, N, H d], or apart, [B, H, N, d]: the count is the same.
        return 2 * min(k, key[-2]) * (q.numel() + v.numel() // key[-2] * q[-2])

    operators = torch.ops.keygraph
    return {operators.key_graph: key_graph, operators.key_graph_attention: attention}
