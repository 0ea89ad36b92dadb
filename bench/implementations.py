"""The ways of computing the operators that are compared.

A way is a function that prepares whatever it needs beyond the operator's own inputs (a mask, a list of neighbours),
which is not measured, and returns the call that is. All have the operators' results; the attention's rivals want q, k
and v of one type, at least one neighbour in every row, and only finite numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..plugins.torch import key_graph, key_graph_attention, unpack_graph
from ..plugins.torch.flex import block_mask, compiled
from .problem import Inputs

Call = Callable[[], Tensor]
Way = Callable[[Inputs], Call]

#: Channels that fused kernels want a multiple of.
_CHANNEL_STEP = 16
#: What `scaled_dot_product_attention` chooses from on GPUs.
SDPA_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def our_attention(inputs: Inputs) -> Call:
    """Our KeyGraphAttention as a user of PyTorch calls it."""
    return lambda: key_graph_attention(inputs.q, inputs.k, inputs.v, inputs.graph)


def mask(inputs: Inputs) -> Call:
    """The papers' Torch-Mask: all scores, those of the others excluded from the softmax."""
    excluded = ~unpack_graph(inputs.graph, inputs.k.shape[2])

    def call() -> Tensor:
        scores = (inputs.q @ inputs.k.mT) * inputs.scale
        return scores.masked_fill(excluded, -torch.inf).softmax(-1) @ inputs.v

    return call


def gather(chunk_bytes: int | None = 1 << 30) -> Way:
    """The papers' Torch-Gather: every row's keys and values copied together.

    Parameters
    ----------
    chunk_bytes
        As many windows at a time as make a copy of at most so many bytes; None: all at once, as in the papers.
    """

    def way(inputs: Inputs) -> Call:
        windows, heads, nodes, channels = inputs.q.shape
        selected = unpack_graph(inputs.graph, nodes)
        index = selected.nonzero()[:, -1].view(windows, nodes, inputs.neighbours)
        copied = heads * nodes * inputs.neighbours * channels * inputs.q.element_size()
        step = windows if chunk_bytes is None else max(1, chunk_bytes // copied)

        def some(start: int) -> Tensor:
            part = slice(start, start + step)
            q = inputs.q[part]
            flat = index[part].view(q.shape[0], 1, -1, 1).expand(-1, heads, -1, channels)
            chosen_k, chosen_v = (
                t[part].gather(2, flat).unflatten(2, (nodes, inputs.neighbours)) for t in (inputs.k, inputs.v)
            )
            weights = (torch.einsum("bhmd,bhmjd->bhmj", q, chosen_k) * inputs.scale).softmax(-1)
            return torch.einsum("bhmj,bhmjd->bhmd", weights, chosen_v)

        return lambda: torch.cat([some(start) for start in range(0, windows, step)])

    return way


def sdpa(inputs: Inputs) -> Call:
    """PyTorch's fused attention with a boolean mask, by the backend that PyTorch chooses."""
    selected = unpack_graph(inputs.graph, inputs.k.shape[2])
    return lambda: torch.nn.functional.scaled_dot_product_attention(
        inputs.q, inputs.k, inputs.v, attn_mask=selected, scale=inputs.scale
    )


def forced_sdpa(backend: SDPBackend, additive: bool) -> Way:
    """PyTorch's fused attention by one backend.

    Parameters
    ----------
    backend
        No other is used; where it cannot, the call raises RuntimeError, and PyTorch warns with its reasons.
    additive
        The mask is 0 and -inf in the tensors' type, instead of boolean.
    """

    def way(inputs: Inputs) -> Call:
        mask = unpack_graph(inputs.graph, inputs.k.shape[2])
        if additive:
            mask = torch.zeros_like(mask, dtype=inputs.q.dtype).masked_fill(~mask, -torch.inf)

        def call() -> Tensor:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(
                    inputs.q, inputs.k, inputs.v, attn_mask=mask, scale=inputs.scale
                )

        return call

    return way


def flex(inputs: Inputs) -> Call:
    """FlexAttention with the bits as its mask, compiled."""
    blocks = block_mask(inputs.graph, inputs.k.shape[2])
    call = compiled()
    return lambda: call(inputs.q, inputs.k, inputs.v, block_mask=blocks, scale=inputs.scale)


def padded(way: Way) -> Way:
    """A way given heads that are padded with zeros beforehand, to a size that fused kernels want."""

    def prepare(inputs: Inputs) -> Call:
        channels = inputs.q.shape[3]
        q, k, v = (torch.nn.functional.pad(t, (0, -channels % _CHANNEL_STEP)) for t in (inputs.q, inputs.k, inputs.v))
        call = way(dataclasses.replace(inputs, q=q, k=k, v=v))
        return lambda: call()[..., :channels]

    return prepare


def attention_rivals(channels: int, device: str, chunk_bytes: int = 1 << 30) -> dict[str, Way]:
    """What PyTorch offers for the attention.

    Parameters
    ----------
    channels
        Of one head; fused kernels are given padded heads too, where those are not what they want.
    device
        "cuda": each of SDPA's backends with each kind of mask beside PyTorch's own choice. "cpu": that choice alone.
    chunk_bytes
        As for `gather`.
    """
    fused: dict[str, Way] = {"sdpa": sdpa}
    if device == "cuda":
        fused |= {
            f"sdpa {name}, {kind} mask": forced_sdpa(backend, kind == "additive")
            for name, backend in SDPA_BACKENDS.items()
            for kind in ("bool", "additive")
        }
    fused["flex"] = flex
    if channels % _CHANNEL_STEP:
        fused |= {f"{name}, padded": padded(way) for name, way in fused.items() if "math" not in name}
    return fused | {"mask": mask, "gather": gather(chunk_bytes)}


def family(name: str) -> str:
    """Return the first word of a rival's name: "sdpa", "flex", "mask" or "gather"."""
    return name.replace(",", " ").split()[0]


def our_graph(inputs: Inputs) -> Call:
    """Our KeyGraph as a user calls it, query and key being one tensor."""
    k = torch.tensor([inputs.neighbours])
    return lambda: key_graph(inputs.nodes, inputs.nodes, k)


def topk(inputs: Inputs) -> Call:
    """Product and topk: a list of neighbours."""
    return lambda: (inputs.nodes @ inputs.nodes.mT).topk(inputs.neighbours, dim=-1, sorted=False).indices


def topk_scatter(inputs: Inputs) -> Call:
    """Product, topk, and the mask that dense ways want, which is nearer to a graph."""
    indices = topk(inputs)

    def call() -> Tensor:
        sizes = (*inputs.nodes.shape[:3], inputs.nodes.shape[2])
        return torch.zeros(sizes, dtype=torch.bool, device=inputs.nodes.device).scatter_(-1, indices(), True)

    return call


GRAPH_RIVALS: dict[str, Way] = {"topk + scatter": topk_scatter, "topk": topk}
