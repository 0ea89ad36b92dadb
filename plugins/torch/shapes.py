"""The shape contract of the operators: which shapes and attributes they accept, and the error message otherwise.

The same contract for C++ is `plugins/common/operator_shapes.h`; tests/plugins/test_operator_errors.py compares the
messages of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .graph_bits import words

#: Sizes of a tensor's dimensions: `Tensor.shape`, whose sizes are symbolic while PyTorch traces.
Shape = Sequence[int]


def check_k(k: int, op: str = "key_graph") -> None:
    """Check the input k of KeyGraph or TopKGraph.

    Parameters
    ----------
    k
        Its value.
    op
        The operator, for the message.

    Raises
    ------
    ValueError
        It is below 1.
    """
    if k < 1:
        raise ValueError(f"{op}: k is {k}; it must be at least 1")


def check_key_graph(query: Shape, key: Shape, k: Shape) -> None:
    """Check the shapes of KeyGraph's inputs.

    Parameters
    ----------
    query
        [B, G, M, C].
    key
        [B, G, N, C].
    k
        One element, of any rank.

    Raises
    ------
    ValueError
        A shape does not fit.
    """
    if len(query) != 4:
        raise ValueError(f"key_graph: query has shape {list(query)}, expected [B, G, M, C]")
    batch, groups, _, channels = query
    if len(key) != 4 or tuple(key[:2]) != (batch, groups) or key[3] != channels:
        raise ValueError(
            f"key_graph: key has shape {list(key)}, expected [B, G, N, C] = [{batch}, {groups}, N, {channels}] "
            f"to match query {list(query)}"
        )
    if math.prod(k) != 1:
        raise ValueError(f"key_graph: k has shape {list(k)}, expected one element")


def check_pack_graph(mask: Shape, threshold: Shape | None) -> None:
    """Check the shapes of PackGraph's inputs.

    Parameters
    ----------
    mask
        [B, G, M, N].
    threshold
        [B, G, M, 1], or None.

    Raises
    ------
    ValueError
        A shape does not fit.
    """
    if len(mask) != 4:
        raise ValueError(f"pack_graph: mask has shape {list(mask)}, expected [B, G, M, N]")
    if threshold is not None and tuple(threshold) != (*mask[:3], 1):
        batch, groups, rows, _ = mask
        raise ValueError(
            f"pack_graph: threshold has shape {list(threshold)}, expected [B, G, M, 1] = "
            f"[{batch}, {groups}, {rows}, 1] to match mask {list(mask)}"
        )


def check_top_k_graph(scores: Shape, k: Shape) -> None:
    """Check the shapes of TopKGraph's inputs.

    Parameters
    ----------
    scores
        [B, G, M, N].
    k
        One element, of any rank.

    Raises
    ------
    ValueError
        A shape does not fit.
    """
    if len(scores) != 4:
        raise ValueError(f"top_k_graph: scores has shape {list(scores)}, expected [B, G, M, N]")
    if math.prod(k) != 1:
        raise ValueError(f"top_k_graph: k has shape {list(k)}, expected one element")


def check_key_graph_attention(
    heads: int | None, q: Shape, k: Shape, v: Shape, graph: Shape, bias: Shape | None
) -> tuple[int, int]:
    """Check the shapes of KeyGraphAttention's inputs.

    Parameters
    ----------
    heads
        H where q, k and v have three dimensions, else None.
    q, k, v
        [B, H, M, D], [B, H, N, D] and [B, H, N, Dv]; or, with `heads`, [B, M, H*D], [B, N, H*D] and [B, N, H*Dv].
    graph
        [B, G, M, ceil(N/32)] with G = 1 or H.
    bias
        [H, M, N], [W, H, M, N] with B a multiple of W, [1, 1, 1], or None.

    Returns
    -------
    tuple[int, int]
        H and D.

    Raises
    ------
    ValueError
        A shape does not fit, or `heads` is missing, below 1, or given for four dimensions.
    """
    if len(q) == 3:
        count, rows, nodes, channels = _heads_last(heads, q, k, v)
    else:
        count, rows, nodes, channels = _heads_first(heads, q, k, v)
    if len(graph) != 4 or graph[1] not in (1, count) or _without(graph, 1) != (q[0], rows, words(nodes)):
        raise _error(
            f"graph has shape {list(graph)}, expected [B, 1 or H, M, ceil(N/32)] = "
            f"[{q[0]}, 1 or {count}, {rows}, {words(nodes)}]"
        )
    if bias is not None and has_effect(bias) and not _fits(bias, q[0], (count, rows, nodes)):
        raise _error(
            f"bias has shape {list(bias)}, expected [H, M, N] = [{count}, {rows}, {nodes}], "
            f"or [W, H, M, N] with W a divisor of B = {q[0]}"
        )
    return count, channels


def has_effect(bias: Shape) -> bool:
    """Tell whether a bias is read: [1, 1, 1] is the same number everywhere, which a softmax does not see.

    Parameters
    ----------
    bias
        The bias's shape.
    """
    return len(bias) != 3 or tuple(bias) != (1, 1, 1)


def default_scale(channels: int) -> float:
    """Return the attention's scale where none is given: D^-1/2, and 1 for D = 0.

    Parameters
    ----------
    channels
        D, channels of one head.
    """
    scale: float = max(channels, 1) ** -0.5
    return scale


def _fits(bias: Shape, batch: int, window: tuple[int, int, int]) -> bool:
    """Tell whether a bias is [H, M, N], or [W, H, M, N] with B a multiple of W."""
    if len(bias) != 4:
        return tuple(bias) == window
    windows = bias[0]
    return tuple(bias[1:]) == window and (batch % windows == 0 if windows else batch == 0)


def _heads_first(heads: int | None, q: Shape, k: Shape, v: Shape) -> tuple[int, int, int, int]:
    """Return H, M, N, D."""
    if len(q) != 4:
        raise _error(f"q has shape {list(q)}, expected [B, H, M, D], or [B, M, H*D] with heads")
    if heads is not None:
        raise _error(f"q has shape {list(q)}, which is [B, H, M, D], so heads must not be given")
    batch, count, rows, channels = q
    if len(k) != 4 or _without(k, 2) != (batch, count, channels):
        raise _error(
            f"k has shape {list(k)}, expected [B, H, N, D] = [{batch}, {count}, N, {channels}] to match q {list(q)}"
        )
    nodes = k[2]
    if len(v) != 4 or tuple(v[:3]) != (batch, count, nodes):
        raise _error(
            f"v has shape {list(v)}, expected [B, H, N, Dv] = [{batch}, {count}, {nodes}, Dv] to match k {list(k)}"
        )
    return count, rows, nodes, channels


def _heads_last(heads: int | None, q: Shape, k: Shape, v: Shape) -> tuple[int, int, int, int]:
    """Return H, M, N, D."""
    if heads is None:
        raise _error(f"q has shape {list(q)}, which is [B, M, H*D], so heads must be given")
    if heads < 1:
        raise _error(f"heads is {heads}; it must be at least 1")
    batch, rows, width = q
    if len(k) != 3 or _without(k, 1) != (batch, width):
        raise _error(f"k has shape {list(k)}, expected [B, N, H*D] = [{batch}, N, {width}] to match q {list(q)}")
    nodes = k[1]
    if len(v) != 3 or tuple(v[:2]) != (batch, nodes):
        raise _error(f"v has shape {list(v)}, expected [B, N, H*Dv] = [{batch}, {nodes}, H*Dv] to match k {list(k)}")
    if width % heads or v[2] % heads:
        raise _error(f"the last dimensions of q {list(q)} and v {list(v)} must be multiples of heads, which is {heads}")
    return heads, rows, nodes, width // heads


def _without(shape: Shape, axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _error(message: str) -> ValueError:
    return ValueError(f"key_graph_attention: {message}")
