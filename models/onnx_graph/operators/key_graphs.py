"""The operators of the domain keygraph."""

from __future__ import annotations

import torch
from torch import Tensor

from ....plugins.torch import key_graph, key_graph_attention, pack_graph, top_k_graph
from ..call import Call, Operator


def _packed(call: Call) -> Tensor:
    # The operator has no float64: the scores are selected by their float32 values.
    mask, threshold = (
        one.float() if one is not None and one.dtype is torch.float64 else one
        for one in (call.tensor(), call.optional(1))
    )
    assert mask is not None
    return pack_graph(mask, threshold)


def _attention(call: Call) -> Tensor:
    scale, heads = call.attribute("scale"), call.attribute("heads") or None
    q, k, v, graph = (call.tensor(place) for place in range(4))
    return key_graph_attention(q, k, v, graph, call.optional(4), scale, heads)


OPERATORS: dict[str, Operator] = {
    "KeyGraph": lambda call: key_graph(call.tensor(), call.tensor(1), call.tensor(2)),
    "KeyGraphAttention": _attention,
    "PackGraph": _packed,
    "TopKGraph": lambda call: top_k_graph(call.tensor(), call.tensor(1)),
}
