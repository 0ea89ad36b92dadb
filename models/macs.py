"""Count the parameters and multiply-accumulates of a network, without weights or data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .architecture import Architecture

#: Operators whose factors both depend on the image: products of attention. Others are convolutions and linear layers.
_ATTENTION = ("bmm", "baddbmm", "key_graph", "key_graph_attention")


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates for one image.

    Attributes
    ----------
    layers
        Those of convolutions and linear layers.
    attention
        Those of the products in attention.
    norms
        Operations of layer normalisations, five for each value. They are not in `total`, but in the published figures
        of MST and MST++, whose counter (fvcore) counts `nn.LayerNorm`; Restormer has norms of its own.
    """

    layers: int
    attention: int
    norms: int = 0

    @property
    def total(self) -> int:
        """Those of layers and attention."""
        return self.layers + self.attention


def count_parameters(architecture: Architecture, config: Any) -> int:
    """Count the trainable parameters of a configuration."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in architecture.build(config).parameters())


def count_macs(architecture: Architecture, config: Any, height: int = 256, width: int = 256) -> Macs:
    """Count the multiply-accumulates of a network for one image.

    Element-wise operations are not counted, as is usual. A key graph counts the similarities of all nodes, its
    attention those of the default k.

    Parameters
    ----------
    architecture, config
        The network; no weights are needed.
    height, width
        Size of the input in pixels, without margins; multiples of the interface's `size_multiple`.

    Returns
    -------
    Macs
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
    """Return formulas for what `FlopCounterMode` does not know: layer norms, and keygraph's operators with this k."""

    def key_graph(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * query.numel() * key[2]

    def attention(q: torch.Size, key: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
        # The same for both forms, [B, N, H d] and [B, H, N, d].
        return 2 * min(k, key[-2]) * (q.numel() + v.numel() // key[-2] * q[-2])

    def layer_norm(x: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * 5 * x.numel()

    operators = torch.ops.keygraph
    return {
        operators.key_graph: key_graph,
        operators.key_graph_attention: attention,
        torch.ops.aten.native_layer_norm: layer_norm,
    }
