"""Implementations of KeyGraphAttention in PyTorch, all with the contract's result.

`mask` is the reference: the definition, written out. `triton` are the kernels, the default on GPUs. `gather` is the
papers' Torch-Gather, `sdpa` PyTorch's fused attention with a boolean mask, `flex` its FlexAttention: these are measured
against, and `sdpa` also makes training faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .flex import flex_attention
from .graph_bits import unpack_graph
from .kernels import kernel_attention

#: (q, k, v, graph, bias, scale) -> output: T[B, H, M, D], T[B, H, N, D], T[B, H, N, Dv], int32[B, G, M, ceil(N/32)],
#: T[H, M, N] or T[W, H, M, N] or None, the factor of the scores; T[B, H, M, Dv]. Tensors may have any strides.
Attention = Callable[[Tensor, Tensor, Tensor, Tensor, "Tensor | None", float], Tensor]


def for_batch(bias: Tensor, batch: int) -> Tensor:
    """Return a bias that broadcasts over the batch.

    Parameters
    ----------
    bias
        T[H, M, N] or T[W, H, M, N], where element b of the batch uses bias[b mod W].
    batch
        B, a multiple of W.

    Returns
    -------
    Tensor
        T[H, M, N] as it is; otherwise T[B, H, M, N], a copy if B is not W.
    """
    if bias.dim() == 3 or bias.shape[0] == batch:
        return bias
    return bias.repeat(batch // bias.shape[0], 1, 1, 1)


def mask_attention(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Compute dense scores and exclude the unselected ones from the softmax (the papers' Torch-Mask).

    float64 tensors are computed in float64, all others in float32.

    Parameters
    ----------
    q, k, v, graph, bias, scale
        As in `Attention`.
    """
    selected = unpack_graph(graph, k.shape[2])
    scores = (widened(q) @ widened(k).mT) * scale
    if bias is not None:
        scores = scores + widened(for_batch(bias, len(q)))
    weights = scores.masked_fill(~selected, -torch.inf).softmax(-1)
    # A row without any selected node is 0/0 in the softmax; the contract says zeros.
    weights = weights.masked_fill(~selected.any(-1, keepdim=True), 0.0)
    return (weights @ widened(v)).to(v.dtype)


def widened(values: Tensor) -> Tensor:
    """Return the values in the type that they are accumulated in: float64 as it is, everything else in float32."""
    return values if values.dtype == torch.float64 else values.float()


def gather_attention(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Copy every row's selected keys and values together first (the papers' Torch-Gather), in float32.

    Stores B x H x M x max(selected) x D elements, twice.

    Parameters
    ----------
    q, k, v, graph, bias, scale
        As in `Attention`.
    """
    index, valid = selected_indices(graph, k.shape[2])
    bias = None if bias is None else for_batch(bias, len(q)).float()
    return attend_gathered(q.float(), k.float(), v.float(), index, scale, valid=valid, bias=bias).to(v.dtype)


def selected_indices(graph: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Return each row's selected nodes as a list, for `attend_gathered`.

    Parameters
    ----------
    graph
        int32[B, G, M, ceil(N/32)].
    nodes
        N.

    Returns
    -------
    index
        int64[B, G, M, K], where K is the largest number of nodes that a row selects: those nodes in ascending order,
        then zeros.
    valid
        bool[B, G, M, K]: which of them are selected.
    """
    selected = unpack_graph(graph, nodes)
    counts = selected.sum(-1, keepdim=True)
    valid = torch.arange(int(counts.max()), device=graph.device) < counts
    index = torch.zeros_like(valid, dtype=torch.int64)
    index[valid] = selected.nonzero()[:, -1]  # both sides in row-major order
    return index, valid


def attend_gathered(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    scale: float,
    *,
    valid: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return the attention of each row to the nodes in its list, computed in the type of the inputs.

    Parameters
    ----------
    q
        T[B, H, M, D].
    k, v
        T[B, H, N, D] and T[B, H, N, Dv].
    index
        int64[B, G, M, K], G being 1 or H.
    scale
        Of the scores.
    valid
        bool[B, G, M, K]: which entries of `index` count; None for all of them.
    bias
        T[H, M, N] or T[B, H, M, N], added to the scores.
    """
    batch, heads, rows, _ = q.shape
    index = index.expand(batch, heads, rows, -1)

    def pick(nodes: Tensor) -> Tensor:
        flat = index.flatten(2).unsqueeze(-1).expand(-1, -1, -1, nodes.shape[-1])
        gathered: Tensor = nodes.gather(2, flat).unflatten(2, (rows, -1))
        return gathered

    scores = torch.einsum("bhmd,bhmjd->bhmj", q, pick(k)) * scale
    if bias is not None:
        scores = scores + bias.expand(batch, heads, rows, -1).gather(-1, index)
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    weights = scores.softmax(-1)
    if valid is not None:
        weights = weights.masked_fill(~valid.any(-1, keepdim=True), 0.0)
    return torch.einsum("bhmj,bhmjd->bhmd", weights, pick(v))


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Run `scaled_dot_product_attention` with the graph as a boolean mask, or as a float mask if there is a bias.

    Parameters
    ----------
    q, k, v, graph, bias, scale
        As in `Attention`.
    """
    selected = unpack_graph(graph, k.shape[2])
    mask = selected
    if bias is not None:
        mask = for_batch(bias, len(q)).to(q.dtype).masked_fill(~selected, -torch.inf)
    result = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return result.masked_fill(~(graph != 0).any(-1, keepdim=True), 0.0)


ATTENTION_IMPLEMENTATIONS: dict[str, Attention] = {
    "mask": mask_attention,
    "gather": gather_attention,
    "sdpa": sdpa_attention,
    "flex": flex_attention,
    "triton": kernel_attention,
}
#: Implementations that autograd can differentiate; the gradients of the others are computed by `sdpa`.
_DIFFERENTIABLE = (mask_attention, gather_attention, sdpa_attention)

_chosen: ContextVar[Attention | None] = ContextVar("keygraph_attention", default=None)


@contextmanager
def use_attention(name: str) -> Iterator[None]:
    """Select the implementation of `key_graph_attention` inside the `with` block, for this thread or asyncio task.

    The gradients of calls in the block use it too, whichever thread autograd runs in and wherever ``backward`` is
    called. A function compiled by `torch.compile` keeps the gradient of its first call; `torch.utils.checkpoint`
    recomputes with the implementation in force where it recomputes.

    Parameters
    ----------
    name : {"mask", "gather", "sdpa", "flex", "triton"}
        A key of `ATTENTION_IMPLEMENTATIONS`.

    Raises
    ------
    ValueError
        `name` is not in `ATTENTION_IMPLEMENTATIONS`.
    """
    if name not in ATTENTION_IMPLEMENTATIONS:
        raise ValueError(f"no attention {name!r}; choose one of {', '.join(ATTENTION_IMPLEMENTATIONS)}")
    token = _chosen.set(ATTENTION_IMPLEMENTATIONS[name])
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_attention(device: torch.device) -> Attention:
    """Return the implementation in force: that of `use_attention`, else `triton` on GPUs and `mask` elsewhere."""
    return _chosen.get() or (kernel_attention if device.type == "cuda" else mask_attention)


def differentiable_attention(device: torch.device) -> Attention:
    """Return the implementation in force, or `sdpa` if autograd cannot differentiate it."""
    chosen = chosen_attention(device)
    return chosen if chosen in _DIFFERENTIABLE else sdpa_attention
