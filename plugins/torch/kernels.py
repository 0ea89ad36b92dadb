"""The operators through the GPU kernels, each call with the variant that was fastest here for a problem like it."""

from __future__ import annotations

import torch
from torch import Tensor

from .shapes import check_k

#: Attribute of a graph's tensor: the share of the nodes that its rows keep, where the host knew k.
_SHARE = "_keygraph_share"


def remember_share(graph: Tensor, share: float) -> None:
    """Let the attention know what share of the nodes a graph's rows keep, without looking into the graph."""
    setattr(graph, _SHARE, share)


def kernel_key_graph(query: Tensor, key: Tensor, k: Tensor) -> Tensor:
    """`key_graph` by the kernels, without waiting for the device: a k on it is read there.

    Raises
    ------
    ValueError
        k is on the host and below 1, or on another device.
    MissingDependencyError
        Triton is not installed.
    InputError
        The kernels compute no such type.
    """
    from ..triton import jit
    from .tuning import Problem, choose

    share = None
    if k.device.type == "cpu":
        keep = int(k.item())
        check_k(keep)
        share = min(1.0, keep / max(1, key.shape[2]))
        # Written by a kernel: unlike a copy from the host, that neither waits nor forbids the capture of a CUDA graph.
        k = torch.full((1,), keep, dtype=torch.int64, device=query.device)
    elif k.device != query.device:
        raise ValueError(f"key_graph: k is on {k.device}; it must be on the CPU or beside query, on {query.device}")
    sizes = jit.graph_sizes(query, key)
    variant = choose(
        Problem("KeyGraph", query.dtype, sizes), query.device, lambda: lambda each: jit.key_graph(query, key, k, each)
    )
    graph = jit.key_graph(query, key, k, variant)
    if share is not None:
        remember_share(graph, share)
    return graph


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """`key_graph_attention` by the kernels; see `attention.Attention`.

    [B, H, N, D] may also be views of contiguous [B, N, H, D]: the kernels read either, and write what they read.

    Raises
    ------
    MissingDependencyError
        Triton is not installed.
    InputError
        The kernels compute no such type.
    """
    from ..triton import jit
    from .tuning import Launch, Problem, choose

    turned = [t.transpose(1, 2) for t in (q, k, v)]
    heads_last = all(t.is_contiguous() for t in turned)
    if heads_last:
        q, k, v = turned
    sizes = jit.attention_sizes(q, k, v, graph, heads_last)
    # How long gathering takes depends on how many nodes are selected. Where nobody knows that without waiting for the
    # device, the choice is the one for all nodes, which is never a bad one.
    share = getattr(graph, _SHARE, None)

    def launches() -> Launch:
        measured = torch.full_like(graph, -1) if share is None else graph
        return lambda each: jit.key_graph_attention(q, k, v, measured, bias, scale, heads_last, each)

    problem = Problem(
        "KeyGraphAttention", q.dtype, sizes, bias is not None, heads_last, 1.0 if share is None else share
    )
    variant = choose(problem, q.device, launches)
    output = jit.key_graph_attention(q, k, v, graph, bias, scale, heads_last, variant)
    return output.transpose(1, 2) if heads_last else output
