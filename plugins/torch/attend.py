"""Attention to the k most similar nodes, for networks of your own: `keygraph.attend` and `keygraph.key_graph`.

Both call the operators of `operators`, which take four dimensions only, with tensors of any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ...errors import InputError
from .graph_bits import words
from .operators import key_graph as _key_graph
from .operators import key_graph_attention

_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def key_graph(query: Tensor, key: Tensor, k: int | Tensor) -> Tensor:
    """Select for each node the k nodes with the largest products query . key^T.

    Compute it once where several attentions attend to the same nodes, as the layers of a KGT do, and give it to
    `attend` as `graph`. A selection has no gradient. Products are accumulated in float32; of nodes that tie with the
    k-th, those of the lowest indices are selected. (KGT, arXiv 2402.02634; SemanIR, arXiv 2405.20008.)

    Parameters
    ----------
    query
        float32, float16 or bfloat16, on the CPU also float64 [..., M, C]: any number of leading dimensions, such as
        windows and heads.
    key
        Same type and leading dimensions, [..., N, C].
    k
        How many nodes to select, at least 1; from N on it is all of them. A tensor int64[1] may change from run to run
        of a compiled or exported program.

    Returns
    -------
    Tensor
        int32[..., M, ceil(N/32)]: bit j mod 32 of word j div 32 says that node j is selected.

    Raises
    ------
    InputError
        A shape or type does not fit, or k is below 1.
    ValueError
        k is a tensor on the CPU, and below 1. On a GPU such a value counts as 1.

    Examples
    --------
    >>> x = torch.eye(4)
    >>> keygraph.key_graph(x, x, k=1)  # Each node is most similar to itself.
    tensor([[1],
            [2],
            [4],
            [8]], dtype=torch.int32)
    """
    _check_type("key_graph: query", query)
    _check_type("key_graph: key", key)
    if query.dtype != key.dtype:
        raise InputError(f"key_graph: query is {_name(query.dtype)} and key {_name(key.dtype)}; give both in one type")
    if query.dim() < 2:
        raise InputError(f"key_graph: query has shape {_sizes(query)}; it must be [..., M, C]")
    lead, channels = query.shape[:-2], query.shape[-1]
    if key.dim() != query.dim() or key.shape[:-2] != lead or key.shape[-1] != channels:
        raise InputError(
            f"key_graph: key has shape {_sizes(key)}; it must be {_shape(lead, 'N', channels)} to match query "
            f"{_sizes(query)}"
        )
    if key.shape[-2] == 0:
        raise InputError(f"key_graph: key has shape {_sizes(key)}, without a node to select")
    graph = _key_graph(_four(query), _four(key), _number(k, query.device))
    return _with_lead(graph, lead)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    k: int | Tensor | None = None,
    similarity: tuple[Tensor, Tensor] | None = None,
    graph: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    heads: int | None = None,
) -> Tensor:
    """Attend to the k most similar nodes: softmax over them of scale * query . key (+ bias), times value.

    Differentiable with respect to query, key, value and bias, also twice. Nothing of size M x N is stored for the
    backward pass. Under autocast, query, key, value and bias are cast to its type, as PyTorch's own attention does;
    the selection is made from the tensors as they are given, accumulated in float32.

    Parameters
    ----------
    query
        float32, float16 or bfloat16, on the CPU also float64 [..., M, D]. The last of the leading dimensions are the
        heads H, those before them, such as batch and windows, are of any number: [B, W, H, M, D]. Without leading
        dimensions, or with a single one, there is one head. With `heads`: [..., M, H*D], the form that linear layers
        produce, which needs no transposes.
    key, value
        Same type and leading dimensions, [..., N, D] and [..., N, Dv]; with `heads` [..., N, H*D] and [..., N, H*Dv].
    k
        How many nodes each node attends to, as for `key_graph`.
    similarity
        The two tensors whose products select the nodes, as for `key_graph`: [..., M, C] and [..., N, C] with the
        leading dimensions of the attention, of which that of the heads may be 1 or left out if all heads attend to the
        same nodes. By default query and key, for each head by itself.
    graph
        The result of `key_graph`, in place of `k` and `similarity`, with the leading dimensions of `similarity`.
    bias
        Added to the scores, [H, M, N] or what broadcasts to it; the same for all windows.
    scale
        Factor of the scores, D^-1/2 by default. Multiply a learned one into `query`.
    heads
        H, if heads are the last dimension of query, key and value; see `query`.

    Returns
    -------
    Tensor
        [..., M, Dv], with `heads` [..., M, H*Dv], of the type of `value`.

    Raises
    ------
    InputError
        A shape or type does not fit, k is below 1, or it is not said in one way which nodes are attended to.
    ValueError
        k is a tensor on the CPU, and below 1.

    Examples
    --------
    Every node of a window attends to the 64 nodes whose features ``x`` [W, N, C] are most similar to its own:

    >>> keygraph.attend(q, k, v, similarity=(x, x), k=64, bias=bias)  # doctest: +SKIP

    Several layers attend to the nodes that are selected once:

    >>> graph = keygraph.key_graph(x, x, k=64)  # doctest: +SKIP
    >>> keygraph.attend(q, k, v, graph=graph)  # doctest: +SKIP
    """
    _check_selection(k, similarity, graph)
    if scale is not None and not isinstance(scale, int | float):
        raise InputError("attend: scale must be a number; multiply a learned one into query")
    for name, given in (("query", query), ("key", key), ("value", value)):
        _check_tensor(f"attend: {name}", given)
    lead, count, rows, nodes = _check_shapes(query, key, value, heads)
    if graph is None:
        assert k is not None
        if similarity is None:
            similarity = (query, key) if heads is None else (_split(query, heads), _split(key, heads))
        graph = key_graph(*similarity, k)
    query, key, value, bias = _one_type(query, key, value, bias)
    arguments = (
        _four_or_three(query, heads),
        _four_or_three(key, heads),
        _four_or_three(value, heads),
        _graph_of_heads(graph, lead, count, rows, nodes),
        None if bias is None else _bias_of_heads(bias, count, rows, nodes),
        None if scale is None else float(scale),
        1 if heads is None and query.dim() < 4 else heads,
    )
    try:
        attended = key_graph_attention(*arguments)
    except RuntimeError as error:
        if "functorch" not in str(error):
            raise
        raise InputError(
            "attend: torch.func's gradients (grad, vjp, jacrev, also under vmap) are not computed; use backward() or "
            "torch.autograd.grad"
        ) from error
    return _with_lead(attended, query.shape[:-2])


def _check_selection(k: object, similarity: object, graph: object) -> None:
    if graph is None and k is None:
        raise InputError("attend: give k, the number of nodes to attend to, or graph, from keygraph.key_graph")
    if graph is not None and (k is not None or similarity is not None):
        raise InputError("attend: graph says which nodes are attended to; leave k and similarity out")
    if isinstance(graph, Tensor) and graph.dtype != torch.int32:
        raise InputError(f"attend: graph is {_name(graph.dtype)}; give the int32 that keygraph.key_graph returns")
    pair = isinstance(similarity, tuple | list) and len(similarity) == 2
    if similarity is not None and not pair:
        raise InputError("attend: similarity must be a pair of tensors, such as (x, x)")


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, heads: int | None) -> tuple[Sequence[int], int, int, int]:
    """Return the leading dimensions without heads, H, M and N."""
    if query.dim() < 2:
        last = "D" if heads is None else "H*D"
        raise InputError(f"attend: query has shape {_sizes(query)}; it must be [..., M, {last}]")
    lead, (rows, channels) = query.shape[:-2], query.shape[-2:]
    if key.dim() != query.dim() or key.shape[:-2] != lead or key.shape[-1] != channels:
        raise InputError(
            f"attend: key has shape {_sizes(key)}; it must be {_shape(lead, 'N', channels)} to match query "
            f"{_sizes(query)}"
        )
    nodes = key.shape[-2]
    if value.dim() != query.dim() or value.shape[:-1] != key.shape[:-1]:
        last = "Dv" if heads is None else "H*Dv"
        raise InputError(
            f"attend: value has shape {_sizes(value)}; it must be {_shape(lead, nodes, last)} to match key "
            f"{_sizes(key)}"
        )
    if heads is None:
        return (lead[:-1], lead[-1], rows, nodes) if len(lead) > 1 else (lead, 1, rows, nodes)
    if heads < 1 or channels % heads or value.shape[-1] % heads:
        raise InputError(
            f"attend: heads is {heads}; it must divide the last dimension of query, {channels}, and of value, "
            f"{value.shape[-1]}"
        )
    return lead, heads, rows, nodes


def _one_type(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Cast as autocast does, where it is on; the bias, a parameter in float32 as a rule, to the type of the others."""
    device = query.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        query, key, value = (each.to(kind) if each.is_floating_point() else each for each in (query, key, value))
    _check_type("attend: query", query)
    if not query.dtype == key.dtype == value.dtype:
        given = ", ".join(_name(each.dtype) for each in (query, key, value))
        raise InputError(f"attend: query, key and value are {given}; give all three in one type")
    return query, key, value, None if bias is None else bias.to(query.dtype)


def _graph_of_heads(graph: Tensor, lead: Sequence[int], count: int, rows: int, nodes: int) -> Tensor:
    """Return the graph as [B, 1 or H, M, ceil(N/32)]."""
    shared = graph.dim() == len(lead) + 2
    if shared:
        graph = graph.unsqueeze(-3)
    fits = graph.dim() == len(lead) + 3 and graph.shape[:-3] == tuple(lead) and graph.shape[-3] in (1, count)
    if not fits or tuple(graph.shape[-2:]) != (rows, words(nodes)):
        given = _sizes(graph.squeeze(-3) if shared else graph)
        raise InputError(
            f"attend: the selection has shape {given}; it must be {_shape(lead, rows, words(nodes))}, which is "
            "[..., M, ceil(N/32)], with the leading dimensions of query (that of the heads may be 1 or left out); look "
            "at the shapes of similarity, or of the tensors that graph was made from"
        )
    return graph.unsqueeze(0) if graph.dim() == 3 else _four(graph)


def _bias_of_heads(bias: Tensor, count: int, rows: int, nodes: int) -> Tensor:
    """Return the bias as [H, M, N]."""
    given = _sizes(bias)
    while bias.dim() > 3 and bias.shape[0] == 1:
        bias = bias.squeeze(0)
    wanted = (count, rows, nodes)
    sizes = (1,) * (3 - bias.dim()) + tuple(bias.shape)
    if len(sizes) != 3 or any(size not in (1, full) for size, full in zip(sizes, wanted, strict=True)):
        raise InputError(
            f"attend: bias has shape {given}; it must broadcast to {list(wanted)}, which is [H, M, N]; it is the same "
            "for all windows"
        )
    return bias if tuple(bias.shape) == wanted else bias.expand(wanted)


def _number(k: int | Tensor, device: torch.device) -> Tensor:
    """Return k as int64[1]."""
    if isinstance(k, Tensor):
        if k.dtype != torch.int64 or k.numel() != 1:
            raise InputError(f"k is a tensor {_name(k.dtype)} of shape {_sizes(k)}; give an int, or int64[1]")
        if k.device.type != "cpu" and k.device != device:
            raise InputError(f"k is on {k.device}, and query on {device}; give both on one device, or k on the CPU")
        return k.reshape(1)
    if isinstance(k, bool) or not isinstance(k, int | torch.SymInt):
        raise InputError(f"k is {k!r:.80}; give an int of at least 1, or a tensor int64[1]")
    if k < 1:
        raise InputError(f"k is {k}; it must be at least 1")
    # On the CPU, where the operators read it without waiting for a GPU.
    return torch.full((1,), k, dtype=torch.int64, device="cpu")


def _four(tensor: Tensor) -> Tensor:
    """Return [..., M, C] as [B, H, M, C]."""
    if tensor.dim() < 4:
        return tensor.unsqueeze(-3) if tensor.dim() == 3 else tensor[None, None]
    return tensor if tensor.dim() == 4 else tensor.flatten(0, -4)


def _four_or_three(tensor: Tensor, heads: int | None) -> Tensor:
    """Return [..., M, D] as [B, H, M, D]; as [B, M, H*D] with `heads`, and where there is one head anyway."""
    if tensor.dim() == 2:
        return tensor.unsqueeze(0)
    if heads is None and tensor.dim() > 3:
        return _four(tensor)
    return tensor if tensor.dim() == 3 else tensor.flatten(0, -3)


def _split(tensor: Tensor, heads: int) -> Tensor:
    """Return [..., M, H*D] as [..., H, M, D]."""
    return torch.unflatten(tensor, -1, (heads, -1)).transpose(-3, -2)


def _with_lead(tensor: Tensor, lead: Sequence[int]) -> Tensor:
    """Undo `_four` and `_four_or_three`."""
    if tensor.dim() == len(lead) + 2:
        return tensor
    return tensor.squeeze(-3) if len(lead) == 1 else tensor.reshape(*lead, *tensor.shape[-2:])


def _check_tensor(name: str, given: object) -> None:
    if not isinstance(given, Tensor):
        raise InputError(f"{name} is {type(given).__name__}; give a tensor")
    # torch.library has no forward-mode derivatives, and would give none without a word.
    if not torch.compiler.is_compiling() and forward_ad.unpack_dual(given).tangent is not None:
        raise InputError(f"{name} has a tangent; forward-mode derivatives are not computed, use reverse mode")


def _check_type(name: str, tensor: Tensor) -> None:
    _check_tensor(name, tensor)
    exact = tensor.dtype == torch.float64 and tensor.device.type == "cpu"
    if tensor.dtype not in _TYPES and not exact:
        raise InputError(
            f"{name} is {_name(tensor.dtype)}; give float32, float16 or bfloat16 (on the CPU also float64)"
        )


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _sizes(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _shape(lead: Sequence[int], rows: object, last: object) -> str:
    return f"[{', '.join(map(str, (*lead, rows, last)))}]"
