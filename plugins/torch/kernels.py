"""The operators by the GPU kernels; each call uses the variant that was measured fastest for its kind of problem."""

from __future__ import annotations

import torch
from torch import Tensor

from .shapes import check_k

#: Attribute of a graph tensor: the share of the nodes that its rows select, set if k was on the CPU.
_SHARE = "_keygraph_share"


def remember_share(graph: Tensor, share: float) -> None:
    """Record the share of nodes that a graph's rows select, so that the attention need not read the graph."""
    setattr(graph, _SHARE, share)


def kernel_key_graph(query: Tensor, key: Tensor, k: Tensor) -> Tensor:
    """Run `key_graph` by the kernels, without waiting for the device.

    Parameters
    ----------
    query, key
        float32, float16 or bfloat16 [B, G, M, C] and [B, G, N, C].
    k
        int64[1], on the CPU or on the device of `query`, where the kernel reads it.

    Raises
    ------
    ValueError
        k is on the CPU and below 1, or on another device.
    MissingDependencyError
        Triton is not installed.
    InputError
        The kernels do not support the type.
    """
    from ..triton import jit
    from .tuning import Problem, choose

    k, share = _on_device(k, query.device, key.shape[2], "key_graph")
    sizes = jit.graph_sizes(query, key)
    variant = choose(
        Problem("KeyGraph", query.dtype, sizes), query.device, lambda: lambda each: jit.key_graph(query, key, k, each)
    )
    graph = jit.key_graph(query, key, k, variant)
    if share is not None:
        remember_share(graph, share)
    return graph


def _on_device(k: Tensor, device: torch.device, nodes: int, op: str) -> tuple[Tensor, float | None]:
    """Return k on a device, and the share of nodes that it selects; None where that is not known without waiting."""
    if k.device.type == "cpu":
        keep = int(k.item())
        check_k(keep, op)
        # Filled by a kernel: a copy from the CPU would wait, and could not be captured in a CUDA graph.
        return torch.full((1,), keep, dtype=torch.int64, device=device), min(1.0, keep / max(1, nodes))
    if k.device != device:
        raise ValueError(f"{op}: k is on {k.device}; it must be on the CPU or on the device of the nodes, {device}")
    return k, None


def kernel_top_k_graph(scores: Tensor, k: Tensor) -> Tensor:
    """Run `top_k_graph` by the kernels, without waiting for the device.

    Parameters
    ----------
    scores
        float32, float16 or bfloat16 [B, G, M, N].
    k
        int64[1], on the CPU or on the device of `scores`, where the kernel reads it.

    Raises
    ------
    ValueError
        k is on the CPU and below 1, or on another device.
    MissingDependencyError
        Triton is not installed.
    InputError
        The problem is too large for the kernels.
    """
    from ..triton import jit

    k, share = _on_device(k, scores.device, scores.shape[3], "top_k_graph")
    graph = jit.top_k_graph(scores, k)
    if share is not None:
        remember_share(graph, share)
    return graph


def kernel_pack_graph(mask: Tensor, threshold: Tensor | None) -> Tensor:
    """Run `pack_graph` by the kernels.

    Parameters
    ----------
    mask, threshold
        As in `operators.pack_graph`.

    Raises
    ------
    MissingDependencyError
        Triton is not installed.
    InputError
        The problem is too large for the kernels.
    """
    from ..triton import jit

    return jit.pack_graph(mask, threshold)


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Run `key_graph_attention` by the kernels.

    [B, H, N, D] may be views of contiguous [B, N, H, D]: the kernels read both layouts, and write the one they read.

    Parameters
    ----------
    q, k, v, graph, bias, scale
        As in `attention.Attention`.

    Raises
    ------
    MissingDependencyError
        Triton is not installed.
    InputError
        The kernels do not support the type.
    """
    from ..triton import jit
    from .tuning import Launch, Problem, choose

    transposed = [t.transpose(1, 2) for t in (q, k, v)]
    heads_last = all(t.is_contiguous() for t in transposed)
    if heads_last:
        q, k, v = transposed
    sizes = jit.attention_sizes(q, k, v, graph, heads_last)
    # The time of the gather kernel depends on how many nodes are selected. If that is unknown without waiting for the
    # device, choose for a graph that selects all nodes: never a slow choice.
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
