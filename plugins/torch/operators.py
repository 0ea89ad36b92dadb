"""The operators of PyTorch: `key_graph`, `pack_graph`, `top_k_graph` and `key_graph_attention` of `keygraph::`.

On the CPU they are the reference implementation, on GPUs the kernels of `plugins/triton`. They are opaque to
`torch.export` and `torch.compile`, so that an exported graph holds them as single nodes. The attention has a gradient
with respect to q, k, v and bias, for training; a graph is a discrete choice and has none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from .attention import Attention, chosen_attention, differentiable_attention, mask_attention, widened
from .graph_bits import pack_bits, words
from .kernels import kernel_key_graph, kernel_pack_graph, kernel_top_k_graph
from .shapes import (
    check_k,
    check_key_graph,
    check_key_graph_attention,
    check_pack_graph,
    check_top_k_graph,
    default_scale,
    has_effect,
)

_MASK_TYPES = (torch.bool, torch.float32, torch.float16, torch.bfloat16)

#: If set, every `key_graph` returns observer(query, key, graph) in place of its graph; see `selection`.
graph_observer: ContextVar[Callable[[Tensor, Tensor, Tensor], Tensor] | None] = ContextVar(
    "keygraph_observer", default=None
)

#: If set, every `pack_graph` returns observer(mask, threshold, graph) in place of its graph; see `selection`.
pack_observer: ContextVar[Callable[[Tensor, Tensor | None, Tensor], Tensor] | None] = ContextVar(
    "keygraph_pack_observer", default=None
)


@torch.library.custom_op("keygraph::key_graph", mutates_args=())
def _key_graph(query: Tensor, key: Tensor, k: Tensor) -> Tensor:
    keep = int(k.item())
    check_k(keep)
    with _full_precision(query):
        similarity = widened(query) @ widened(key).mT
    return _observed(query, key, pack_bits(_largest(similarity, min(keep, key.shape[2]))))


@_key_graph.register_kernel("cuda")
def _(query: Tensor, key: Tensor, k: Tensor) -> Tensor:
    return _observed(query, key, kernel_key_graph(query, key, k))


def _observed(query: Tensor, key: Tensor, graph: Tensor) -> Tensor:
    observe = graph_observer.get()
    return graph if observe is None else observe(query, key, graph)


def _largest(similarity: Tensor, k: int) -> Tensor:
    """Select the k largest of each row: lower index first among equals, NaN after everything.

    float32[..., N], 1 <= k <= N -> bool[..., N] with exactly k true in each row.
    """
    is_nan = similarity.isnan()
    if is_nan.any():
        similarity = similarity.masked_fill(is_nan, -torch.inf)
    threshold = similarity.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    largest = similarity >= threshold
    # Rows with ties to break are usually few, or none.
    rows = (largest.sum(-1, dtype=torch.int32) > k).nonzero(as_tuple=True)
    if len(rows[0]):
        largest[rows] = _first_of_equals(similarity[rows], threshold[rows], is_nan[rows], k)
    return largest


def _first_of_equals(similarity: Tensor, threshold: Tensor, is_nan: Tensor, k: int) -> Tensor:
    """Select what is above a row's k-th largest, and of its equals the first that make k: numbers before NaN.

    float32[R, N], float32[R, 1] and bool[R, N] -> bool[R, N].
    """
    above, tied = similarity > threshold, similarity == threshold
    # Rank of each tied node, from 1: by index, numbers before NaN (which was replaced by -inf and ties only with it).
    tied_nan = tied & is_nan
    tied = tied & ~is_nan
    place = torch.where(tied_nan, tied.sum(-1, keepdim=True) + tied_nan.cumsum(-1), tied.cumsum(-1))
    return above | ((tied | tied_nan) & (place <= k - above.sum(-1, keepdim=True)))


@_key_graph.register_fake
def _(query: Tensor, key: Tensor, k: Tensor) -> Tensor:
    batch, groups, rows, _ = query.shape
    return query.new_empty((batch, groups, rows, words(key.shape[2])), dtype=torch.int32)


@torch.library.custom_op("keygraph::pack_graph", mutates_args=())
def _pack_graph(mask: Tensor, threshold: Tensor | None) -> Tensor:
    return _observed_pack(mask, threshold, pack_bits(mask != 0 if threshold is None else mask >= threshold))


@_pack_graph.register_kernel("cuda")
def _(mask: Tensor, threshold: Tensor | None) -> Tensor:
    return _observed_pack(mask, threshold, kernel_pack_graph(mask, threshold))


def _observed_pack(mask: Tensor, threshold: Tensor | None, graph: Tensor) -> Tensor:
    observe = pack_observer.get()
    return graph if observe is None else observe(mask, threshold, graph)


@_pack_graph.register_fake
def _(mask: Tensor, threshold: Tensor | None) -> Tensor:
    return mask.new_empty((*mask.shape[:3], words(mask.shape[3])), dtype=torch.int32)


#: If set, every `top_k_graph` returns observer(scores, graph) in place of its graph; see `selection`.
top_k_observer: ContextVar[Callable[[Tensor, Tensor], Tensor] | None] = ContextVar(
    "keygraph_top_k_observer", default=None
)


@torch.library.custom_op("keygraph::top_k_graph", mutates_args=())
def _top_k_graph(scores: Tensor, k: Tensor) -> Tensor:
    keep = int(k.item())
    check_k(keep, "top_k_graph")
    return _observed_top_k(scores, pack_bits(_largest(widened(scores), min(keep, scores.shape[3]))))


@_top_k_graph.register_kernel("cuda")
def _(scores: Tensor, k: Tensor) -> Tensor:
    return _observed_top_k(scores, kernel_top_k_graph(scores, k))


def _observed_top_k(scores: Tensor, graph: Tensor) -> Tensor:
    observe = top_k_observer.get()
    return graph if observe is None else observe(scores, graph)


@_top_k_graph.register_fake
def _(scores: Tensor, k: Tensor) -> Tensor:
    return scores.new_empty((*scores.shape[:3], words(scores.shape[3])), dtype=torch.int32)


@torch.library.custom_op("keygraph::key_graph_attention", mutates_args=())
def _key_graph_attention(
    q: Tensor, k: Tensor, v: Tensor, graph: Tensor, bias: Tensor | None, scale: float, heads: int
) -> Tensor:
    return _attend(chosen_attention(q.device), q, k, v, graph, bias, scale, heads).contiguous()


def _attend(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: Tensor,
    bias: Tensor | None,
    scale: float,
    heads: int,
) -> Tensor:
    """Call the implementation on [B, H, N, D]; `heads` above 0 says that the tensors are [B, N, H*D]."""
    with _full_precision(q):
        if not heads:
            return attention(q, k, v, graph, bias, scale)
        q, k, v = (torch.unflatten(t, -1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        return attention(q, k, v, graph, bias, scale).transpose(1, 2).flatten(2)


def _full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Switch autocast off, which would round what an operator computes in float32."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


@_key_graph_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, bias: Tensor | None, scale: float, heads: int) -> Tensor:
    return v.new_empty((*q.shape[:-1], v.shape[-1]))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, graph, bias, ctx.scale, ctx.heads = inputs
    # Chosen here: on GPUs autograd runs the backward in another thread, where `use_attention` has no effect.
    ctx.attention = differentiable_attention(q.device)
    ctx.save_for_backward(q, k, v, graph, bias)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Recompute the attention with autograd: nothing of size M x N is kept between forward and backward.

    Autograd runs this with gradients enabled if the gradient is to be differentiated itself (``create_graph=True``).
    Then it is computed as the definition says, and stays connected to the inputs.
    """
    *inputs, graph, bias = ctx.saved_tensors
    twice = torch.is_grad_enabled()
    leaves = [t if twice and t.requires_grad else t.detach().requires_grad_() for t in (*inputs, bias) if t is not None]
    q, k, v, *biases = leaves
    with torch.enable_grad():
        attention = mask_attention if twice else ctx.attention
        output = _attend(attention, q, k, v, graph, biases[0] if biases else None, ctx.scale, ctx.heads)
    dq, dk, dv, *dbias = torch.autograd.grad(output, leaves, gradient, create_graph=twice)
    return dq, dk, dv, None, dbias[0] if dbias else None, None, None


torch.library.register_autograd("keygraph::key_graph_attention", _backward, setup_context=_save_for_backward)


def key_graph(query: Tensor, key: Tensor, k: Tensor) -> Tensor:
    """Select for every row the k nodes with the largest similarity S = query . key^T, accumulated in FP32.

    Ties go to the lowest node index, NaN ranks below everything, k >= N keeps all nodes. (KGT, arXiv 2402.02634: the
    key graph; SemanIR, arXiv 2405.20008.)

    Parameters
    ----------
    query
        float32, float16 or bfloat16 [B, G, M, C]; on the CPU also float64, which is accumulated in float64.
    key
        Same type, [B, G, N, C].
    k
        int64[1], at least 1. If `query` is on a GPU, k may be on the CPU or on that GPU; on the GPU it is read by the
        kernel, and a value below 1 keeps one node.

    Returns
    -------
    Tensor
        int32[B, G, M, ceil(N/32)]: bit j mod 32 of word j div 32 says that the row attends to node j.

    Raises
    ------
    ValueError
        A shape does not fit, or k is below 1.
    MissingDependencyError
        The tensors are on a GPU, and Triton is not installed.
    """
    check_key_graph(query.shape, key.shape, k.shape)
    graph: Tensor = _key_graph(query.detach(), key.detach(), k)
    return graph


def pack_graph(mask: Tensor, threshold: Tensor | None = None) -> Tensor:
    """Pack a mask, or scores with a threshold, into the graph that `key_graph_attention` takes.

    For selections that are no top-k of a product. ``pack_graph(s, s.topk(k).values[..., -1:])`` keeps all nodes that
    tie with the k-th, where `key_graph` keeps exactly k.

    Parameters
    ----------
    mask
        bool, float32, float16 or bfloat16 [B, G, M, N]. Without a threshold, a row selects the nodes whose element is
        true or not zero; NaN is not zero, -0 is.
    threshold
        The type of `mask`, which is then not bool; [B, G, M, 1]. A row selects the nodes whose element is equal or
        larger; a NaN on either side selects none.

    Returns
    -------
    Tensor
        int32[B, G, M, ceil(N/32)]: bit j mod 32 of word j div 32 says that the row attends to node j.

    Raises
    ------
    ValueError
        A shape or type does not fit.
    MissingDependencyError
        The tensors are on a GPU, and Triton is not installed.
    """
    check_pack_graph(mask.shape, None if threshold is None else threshold.shape)
    if mask.dtype not in _MASK_TYPES:
        raise ValueError(
            f"pack_graph: mask has type {mask.dtype}, expected bool, float32, float16 or bfloat16; give mask != 0"
        )
    if threshold is not None and (mask.dtype is torch.bool or threshold.dtype is not mask.dtype):
        raise ValueError(
            f"pack_graph: mask has type {mask.dtype} and threshold {threshold.dtype}, "
            "expected one type for both: float32, float16 or bfloat16"
        )
    graph: Tensor = _pack_graph(mask.detach(), None if threshold is None else threshold.detach())
    return graph


def top_k_graph(scores: Tensor, k: Tensor) -> Tensor:
    """Select for every row the k nodes with the largest scores, for scores that are no product of two tensors.

    Ties go to the lowest node index, NaN ranks below every number, k >= N keeps all nodes, as in `key_graph`.

    Parameters
    ----------
    scores
        float32, float16 or bfloat16 [B, G, M, N]; on the CPU also float64.
    k
        int64[1], as for `key_graph`.

    Returns
    -------
    Tensor
        int32[B, G, M, ceil(N/32)]: bit j mod 32 of word j div 32 says that the row attends to node j.

    Raises
    ------
    ValueError
        A shape or type does not fit, or k is below 1.
    MissingDependencyError
        The scores are on a GPU, and Triton is not installed.
    """
    check_top_k_graph(scores.shape, k.shape)
    if not scores.is_floating_point():
        raise ValueError(
            f"top_k_graph: scores has type {scores.dtype}, expected float32, float16 or bfloat16; convert them"
        )
    graph: Tensor = _top_k_graph(scores.detach(), k)
    return graph


def key_graph_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: Tensor,
    bias: Tensor | None = None,
    scale: float | None = None,
    heads: int | None = None,
) -> Tensor:
    """Attend to the selected nodes only: softmax over them of scale * q.k (+ bias), times v, accumulated in FP32.

    Parameters
    ----------
    q, k, v
        float32, float16 or bfloat16 [B, H, M, D], [B, H, N, D], [B, H, N, Dv]; or, with `heads`, [B, M, H*D],
        [B, N, H*D], [B, N, H*Dv], as linear layers produce them. On the CPU also float64, accumulated in float64.
    graph
        int32[B, G, M, ceil(N/32)] with G = 1 or H, as `key_graph`, `pack_graph` and `top_k_graph` return it.
    bias
        Optional [H, M, N], or [W, H, M, N] with B a multiple of W, the type of q. In the second form, element b of the
        batch uses bias[b mod W]: a bias or mask per window, the windows of an image being the fast axis of the batch.
        A bias [1, 1, 1] is not read.
    scale
        Factor of the scores; D^-1/2 by default.
    heads
        H if q, k and v have three dimensions, else None.

    Returns
    -------
    Tensor
        [B, H, M, Dv] or [B, M, H*Dv], the type of v; zeros in a row that selects nothing.

    Raises
    ------
    ValueError
        A shape does not fit.
    MissingDependencyError
        The tensors are on a GPU, and Triton is not installed.
    """
    count, channels = check_key_graph_attention(
        heads, q.shape, k.shape, v.shape, graph.shape, None if bias is None else bias.shape
    )
    if bias is not None and not has_effect(bias.shape):
        bias = None
    output: Tensor = _key_graph_attention(
        q, k, v, graph, bias, default_scale(channels) if scale is None else scale, 0 if heads is None else count
    )
    return output
