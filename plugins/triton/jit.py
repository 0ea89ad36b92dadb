"""Launch a variant of the kernels on PyTorch's tensors, compiled just in time.

The tensors are on a CUDA device, or on the CPU if Triton's interpreter is on (`TRITON_INTERPRET=1`, before Triton is
imported): that is how the kernels are tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...errors import InputError, MissingDependencyError
from ...installation import package_line

try:
    import triton
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"the operators on GPUs in PyTorch need Triton; install it with: {package_line('triton')}"
    ) from error

from .variants import VARIANTS, Variant

DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
#: Types of PackGraph's mask.
MASK_DTYPES = {torch.bool: "i8", **DTYPES}
#: Alignment in bytes that compiled kernels assume: at other addresses their wide loads fail.
ALIGNMENT = 16
#: Kernels use int32 for elements inside one batch index, and for programs in a grid of one dimension.
_INT32 = 2**31 - 1
#: Largest block size: a block may end so far beyond the last row or node.
_LARGEST_BLOCK = 4096
#: Operators whose grid has the groups as windows.
_IN_WINDOWS = ("KeyGraph", "PackGraph", "TopKGraph")
#: Capability of the interpreter: that of no GPU, above them all.
_INTERPRETER = 1000


@dataclass(frozen=True)
class Sizes:
    """Sizes of a problem.

    Only KeyGraphAttention has heads and value channels. PackGraph and TopKGraph have nodes for channels.
    """

    batch: int
    groups: int
    rows: int
    nodes: int
    channels: int
    heads: int = 1
    value_channels: int = 0


def graph_sizes(query: Tensor, key: Tensor) -> Sizes:
    """Return the sizes of `key_graph`'s problem."""
    batch, groups, rows, channels = query.shape
    return Sizes(batch, groups, rows, key.shape[2], channels)


def pack_sizes(mask: Tensor) -> Sizes:
    """Return the sizes of `pack_graph`'s problem, and of `top_k_graph`'s."""
    batch, groups, rows, nodes = mask.shape
    return Sizes(batch, groups, rows, nodes, nodes)


def attention_sizes(q: Tensor, k: Tensor, v: Tensor, graph: Tensor, heads_last: bool) -> Sizes:
    """Return the sizes of `key_graph_attention`'s problem.

    Parameters
    ----------
    q, k, v, graph, heads_last
        As in `key_graph_attention`.
    """
    heads_axis, rows_axis = (2, 1) if heads_last else (1, 2)
    return Sizes(
        q.shape[0], graph.shape[1], q.shape[rows_axis], k.shape[rows_axis], q.shape[3], q.shape[heads_axis], v.shape[3]
    )


@lru_cache(maxsize=4096)
def fitting(
    op: str, dtype: torch.dtype, sizes: Sizes, bias: bool = False, capability: int = _INTERPRETER
) -> tuple[Variant, ...]:
    """Return the variants that can compute a problem, the automatic choice first (docs/reference/kernels.md).

    Parameters
    ----------
    op
        ``"KeyGraph"``, ``"PackGraph"``, ``"TopKGraph"`` or ``"KeyGraphAttention"``.
    dtype
        Of the tensors.
    sizes
        Of the problem.
    bias
        Whether there is one, or a threshold.
    capability
        The GPU's, as 80 for 8.0.

    Raises
    ------
    InputError
        The problem is too large for any.
    """
    require_int32(op, sizes)

    def within(value: int, limit: int) -> bool:
        return limit == 0 or value <= limit

    return tuple(
        variant
        for variant in VARIANTS
        if variant.op == op
        and variant.dtype == MASK_DTYPES.get(dtype)
        and variant.bias == bias
        and variant.runs_on(capability)
        and within(sizes.channels, variant.max_channels)
        and within(sizes.value_channels, variant.max_value_channels)
        and within(sizes.nodes, variant.max_nodes)
        and within(sizes.groups, variant.max_groups)
        and sizes.channels % variant.channel_multiple == 0
        and sizes.value_channels % variant.channel_multiple == 0
        and programs(variant, sizes) <= _INT32
    )


def require_int32(op: str, sizes: Sizes) -> None:
    """Check that a problem's sizes fit in the kernels' int32, as the launcher in C++ does.

    Raises
    ------
    InputError
        They do not.
    """
    longest = max(sizes.rows, sizes.nodes) + _LARGEST_BLOCK
    elements = sizes.heads * longest * max(sizes.channels, sizes.value_channels, 1)
    words = (1 if op in _IN_WINDOWS else sizes.groups) * sizes.rows * -(-sizes.nodes // 32)
    if max(elements, words) > _INT32:
        raise InputError(
            f"{op}: there are 2^31 elements or more per batch index ({sizes}); attend within smaller windows"
        )
    if _windows(op, sizes) > _INT32:
        raise InputError(f"{op}: there are 2^31 windows or more ({sizes}); split the batch")


def programs(variant: Variant, sizes: Sizes) -> int:
    """Return the number of programs that compute a problem: the grid of docs/reference/kernels.md."""
    count = _windows(variant.op, sizes) * triton.cdiv(sizes.rows, variant.block_rows)
    if variant.op == "KeyGraphAttention":
        count *= triton.cdiv(sizes.value_channels, variant.block_value_channels or max(1, sizes.value_channels))
        count *= triton.cdiv(sizes.heads, variant.block_heads or max(1, sizes.heads))
    return int(count)


def _windows(op: str, sizes: Sizes) -> int:
    return sizes.batch * (sizes.groups if op in _IN_WINDOWS else 1)


def capability(device: torch.device) -> int:
    """Return a device's compute capability for `fitting`, as 80 for 8.0."""
    if device.type != "cuda":
        return _INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor


def key_graph(query: Tensor, key: Tensor, k: Tensor, variant: Variant | None = None) -> Tensor:
    """Launch KeyGraph.

    Parameters
    ----------
    query, key
        [B, G, M, C] and [B, G, N, C] of one type and device. Copied if they are not contiguous or not aligned.
    k
        int64[1] on the same device. A value below 1 keeps one node: only the kernel reads it.
    variant
        One of `fitting`; the automatic choice by default.

    Returns
    -------
    Tensor
        int32[B, G, M, ceil(N/32)].

    Raises
    ------
    InputError
        No variant fits the problem, it has 2^31 elements or more per batch index, or kernels cannot run on the
        tensors' device.
    """
    sizes = graph_sizes(query, key)
    require_int32("KeyGraph", sizes)
    variant = variant or _automatic("KeyGraph", query, sizes, False)
    graph = query.new_empty((*query.shape[:3], -(-sizes.nodes // 32)), dtype=torch.int32)
    launch(
        variant,
        (_aligned(query), _aligned(key), k, graph),
        (sizes.rows, sizes.nodes, sizes.channels),
        programs(variant, sizes),
    )
    return graph


def pack_graph(mask: Tensor, threshold: Tensor | None, variant: Variant | None = None) -> Tensor:
    """Launch PackGraph.

    Parameters
    ----------
    mask
        bool, float32, float16 or bfloat16 [B, G, M, N]. Copied if it is not contiguous or not aligned.
    threshold
        [B, G, M, 1] of the same type, or None.
    variant
        One of `fitting`; the automatic choice by default.

    Returns
    -------
    Tensor
        int32[B, G, M, ceil(N/32)].

    Raises
    ------
    InputError
        As `key_graph`.
    """
    sizes = pack_sizes(mask)
    require_int32("PackGraph", sizes)
    variant = variant or _automatic("PackGraph", mask, sizes, threshold is not None)
    graph = mask.new_empty((*mask.shape[:3], -(-sizes.nodes // 32)), dtype=torch.int32)
    mask = _aligned(mask)
    if mask.dtype is torch.bool:
        mask = mask.view(torch.int8)
    launch(
        variant,
        # Without a threshold nothing is read through its pointer, but Triton needs one that has a type.
        (mask, mask if threshold is None else _aligned(threshold), graph),
        (sizes.rows, sizes.nodes),
        programs(variant, sizes) if sizes.nodes else 0,
    )
    return graph


def top_k_graph(scores: Tensor, k: Tensor, variant: Variant | None = None) -> Tensor:
    """Launch TopKGraph.

    Parameters
    ----------
    scores
        float32, float16 or bfloat16 [B, G, M, N]. Copied if it is not contiguous or not aligned.
    k
        int64[1] on the same device. A value below 1 keeps one node: only the kernel reads it.
    variant
        One of `fitting`; the automatic choice by default.

    Returns
    -------
    Tensor
        int32[B, G, M, ceil(N/32)].

    Raises
    ------
    InputError
        As `key_graph`.
    """
    sizes = pack_sizes(scores)
    require_int32("TopKGraph", sizes)
    variant = variant or _automatic("TopKGraph", scores, sizes, False)
    graph = scores.new_empty((*scores.shape[:3], -(-sizes.nodes // 32)), dtype=torch.int32)
    launch(
        variant,
        (_aligned(scores), k, graph),
        (sizes.rows, sizes.nodes),
        programs(variant, sizes) if sizes.nodes else 0,
    )
    return graph


def key_graph_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    graph: Tensor,
    bias: Tensor | None,
    scale: float,
    heads_last: bool,
    variant: Variant | None = None,
) -> Tensor:
    """Launch KeyGraphAttention.

    Parameters
    ----------
    q, k, v
        [B, H, M, D], [B, H, N, D], [B, H, N, Dv], or with `heads_last` [B, M, H, D], [B, N, H, D], [B, N, H, Dv];
        of one type and device. Copied if they are not contiguous or not aligned.
    graph
        int32[B, G, M, ceil(N/32)], G = 1 or H.
    bias
        [H, M, N] or [W, H, M, N] of the same type, or None.
    scale
        Factor of the products.
    heads_last
        See `q`.
    variant
        One of `fitting`; the automatic choice by default.

    Returns
    -------
    Tensor
        [B, H, M, Dv], or with `heads_last` [B, M, H, Dv].

    Raises
    ------
    InputError
        No variant fits the problem, it has 2^31 elements or more per batch index, or kernels cannot run on the
        tensors' device.
    """
    sizes = attention_sizes(q, k, v, graph, heads_last)
    require_int32("KeyGraphAttention", sizes)
    variant = variant or _automatic("KeyGraphAttention", q, sizes, bias is not None)
    output = q.new_empty((*q.shape[:3], sizes.value_channels))
    q = _aligned(q)
    launch(
        variant,
        # Without a bias nothing is read through its pointer, but Triton needs one that has a type.
        (q, _aligned(k), _aligned(v), _aligned(graph), q if bias is None else _aligned(bias), output),
        (
            sizes.rows,
            sizes.nodes,
            sizes.heads,
            sizes.groups,
            sizes.channels,
            sizes.value_channels,
            int(heads_last),
            bias.shape[0] if bias is not None and bias.dim() == 4 else 1,
            scale,
        ),
        programs(variant, sizes),
    )
    return output


def launch(variant: Variant, tensors: Sequence[Tensor], numbers: Sequence[float], count: int) -> None:
    """Launch a variant's kernel on the tensors' device and the current stream; it is compiled at its first use.

    Parameters
    ----------
    variant
        The variant to launch.
    tensors, numbers
        The kernel's arguments in their order (`variants.SIGNATURES`).
    count
        Number of programs; 0 launches nothing.

    Raises
    ------
    InputError
        The tensors are not on a GPU and Triton's interpreter is off, or the grid is too large.
    """
    device = tensors[0].device
    if device.type != "cuda" and isinstance(variant.kernel, triton.JITFunction):
        raise InputError(
            f"Triton's kernels need a CUDA device, the tensors are on {device}; "
            "move them there, or use another implementation: use_attention('mask')"
        )
    if device.type != "cuda" and variant.dtype == "bf16":
        raise InputError(
            "Triton's interpreter does not support bfloat16: it multiplies the bits as integers; "
            "use float16 or float32, or a GPU"
        )
    if count > _INT32:
        raise InputError(f"{variant.name} would need {count:,} programs, a GPU starts {_INT32:,}; split the batch")
    if count == 0:
        return
    current: AbstractContextManager[object] = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with current:
        variant.kernel[(count,)](*tensors, *numbers, **variant.constants, **variant.compiler_options)


def _automatic(op: str, tensor: Tensor, sizes: Sizes, bias: bool) -> Variant:
    variants = fitting(op, tensor.dtype, sizes, bias, capability(tensor.device))
    if not variants:
        raise InputError(
            f"no variant of {op} computes {tensor.dtype} with {sizes} on {tensor.device}; "
            f"types are {', '.join(map(str, MASK_DTYPES if op == 'PackGraph' else DTYPES))}"
        )
    return variants[0]


def _aligned(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
