"""Implementations of the operators to compare: keygraph's and the alternatives that PyTorch offers.

An implementation is a function that takes the inputs, prepares whatever it needs beyond them (a mask, a list of
neighbours), and returns the call to measure. The preparation is not measured. All have the operators' results; the
alternatives for the attention need q, k and v of one type, the same number of neighbours in every row, at least one,
and finite values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..plugins.torch import key_graph, key_graph_attention, unpack_graph
from ..plugins.torch.attention import attend_gathered, selected_indices
from ..plugins.torch.flex import block_mask, compiled, pad_nodes
from .problem import Inputs

Call = Callable[[], Tensor]
Implementation = Callable[[Inputs], Call]

#: Fused kernels need a multiple of this many channels.
_CHANNEL_STEP = 16
#: What `scaled_dot_product_attention` chooses from on GPUs.
SDPA_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def our_attention(inputs: Inputs) -> Call:
    """Prepare keygraph's KeyGraphAttention, as a user of PyTorch calls it."""
    return lambda: key_graph_attention(inputs.q, inputs.k, inputs.v, inputs.graph)


def mask(inputs: Inputs) -> Call:
    """Prepare the papers' Torch-Mask: all scores, with the unselected ones excluded from the softmax."""
    excluded = ~unpack_graph(inputs.graph, inputs.k.shape[2])

    def call() -> Tensor:
        scores = (inputs.q @ inputs.k.mT) * inputs.scale
        return scores.masked_fill(excluded, -torch.inf).softmax(-1) @ inputs.v

    return call


def gather(chunk_bytes: int | None = 1 << 30) -> Implementation:
    """Return the papers' Torch-Gather, which copies the selected keys and values of every row together.

    Parameters
    ----------
    chunk_bytes
        Process as many windows at a time as need a copy of at most this many bytes; None: all at once, as in the
        papers.
    """

    def implementation(inputs: Inputs) -> Call:
        windows, heads, nodes, channels = inputs.q.shape
        index, _ = selected_indices(inputs.graph, nodes)
        copied = heads * nodes * inputs.neighbours * channels * inputs.q.element_size()
        step = windows if chunk_bytes is None else max(1, chunk_bytes // copied)

        def chunk(start: int) -> Tensor:
            part = slice(start, start + step)
            return attend_gathered(inputs.q[part], inputs.k[part], inputs.v[part], index[part], inputs.scale)

        return lambda: torch.cat([chunk(start) for start in range(0, windows, step)])

    return implementation


def sdpa(inputs: Inputs) -> Call:
    """Prepare PyTorch's fused attention with a boolean mask, by the backend that PyTorch chooses."""
    selected = unpack_graph(inputs.graph, inputs.k.shape[2])
    return lambda: torch.nn.functional.scaled_dot_product_attention(
        inputs.q, inputs.k, inputs.v, attn_mask=selected, scale=inputs.scale
    )


def forced_sdpa(backend: SDPBackend, additive: bool) -> Implementation:
    """Return PyTorch's fused attention by one backend.

    Parameters
    ----------
    backend
        The only one that is used. If it does not support the inputs, the call raises RuntimeError and PyTorch warns
        with the reasons.
    additive
        True for a mask of 0 and -inf in the tensors' type, instead of a boolean one.
    """

    def implementation(inputs: Inputs) -> Call:
        mask = unpack_graph(inputs.graph, inputs.k.shape[2])
        if additive:
            mask = torch.zeros_like(mask, dtype=inputs.q.dtype).masked_fill(~mask, -torch.inf)

        def call() -> Tensor:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(
                    inputs.q, inputs.k, inputs.v, attn_mask=mask, scale=inputs.scale
                )

        return call

    return implementation


def flex(inputs: Inputs) -> Call:
    """Prepare FlexAttention, compiled, with the graph's bits as its mask."""
    k, v = pad_nodes(inputs.k), pad_nodes(inputs.v)
    blocks = block_mask(inputs.graph, k.shape[2])
    call = compiled()
    return lambda: call(inputs.q, k, v, block_mask=blocks, scale=inputs.scale)


def padded(implementation: Implementation) -> Implementation:
    """Return an implementation that is given heads padded with zeros beforehand, to a size that fused kernels take."""

    def prepare(inputs: Inputs) -> Call:
        channels = inputs.q.shape[3]
        q, k, v = (torch.nn.functional.pad(t, (0, -channels % _CHANNEL_STEP)) for t in (inputs.q, inputs.k, inputs.v))
        call = implementation(dataclasses.replace(inputs, q=q, k=k, v=v))
        return lambda: call()[..., :channels]

    return prepare


def attention_alternatives(channels: int, device: str, chunk_bytes: int = 1 << 30) -> dict[str, Implementation]:
    """Return what PyTorch offers for the attention: name -> implementation.

    Parameters
    ----------
    channels
        Channels of one head. Where they are no multiple of 16, the fused kernels are measured with padded heads too.
    device
        ``"cuda"``: also each of SDPA's backends with each kind of mask. ``"cpu"``: PyTorch's own choice alone.
    chunk_bytes
        As for `gather`.
    """
    fused: dict[str, Implementation] = {"sdpa": sdpa}
    if device == "cuda":
        fused |= {
            f"sdpa {name}, {kind} mask": forced_sdpa(backend, kind == "additive")
            for name, backend in SDPA_BACKENDS.items()
            for kind in ("bool", "additive")
        }
    fused["flex"] = flex
    if channels % _CHANNEL_STEP:
        fused |= {f"{name}, padded": padded(fused[name]) for name in fused if "math" not in name}
    return fused | {"mask": mask, "gather": gather(chunk_bytes)}


def family(name: str) -> str:
    """Return the first word of an alternative's name: ``"sdpa"``, ``"flex"``, ``"mask"`` or ``"gather"``."""
    return name.replace(",", " ").split()[0]


def our_graph(inputs: Inputs) -> Call:
    """Prepare keygraph's KeyGraph as a user of PyTorch calls it, with one tensor as query and key."""
    k = torch.tensor([inputs.neighbours])
    return lambda: key_graph(inputs.nodes, inputs.nodes, k)


def topk(inputs: Inputs) -> Call:
    """Prepare product and topk, which give a list of neighbours instead of a graph."""
    return lambda: (inputs.nodes @ inputs.nodes.mT).topk(inputs.neighbours, dim=-1, sorted=False).indices


def topk_scatter(inputs: Inputs) -> Call:
    """Prepare product, topk and a boolean mask, which is what the dense alternatives need of a graph."""
    indices = topk(inputs)

    def call() -> Tensor:
        sizes = (*inputs.nodes.shape[:3], inputs.nodes.shape[2])
        return torch.zeros(sizes, dtype=torch.bool, device=inputs.nodes.device).scatter_(-1, indices(), True)

    return call


GRAPH_ALTERNATIVES: dict[str, Implementation] = {"topk + scatter": topk_scatter, "topk": topk}
