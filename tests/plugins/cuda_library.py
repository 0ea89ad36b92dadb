"""The C interface of the GPU operators through ctypes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

from operator_hosts import AttentionShape, GraphShape, PackShape, native

DTYPES: dict[str | int, int] = {"fp32": 1, "fp16": 2, "bf16": 3}
#: Those of PackGraph's mask.
MASK_DTYPES: dict[str | int, int] = {**DTYPES, "i8": 4}

_INT32_POINTER = ctypes.POINTER(ctypes.c_int32)


@functools.cache
def cuda_library() -> ctypes.CDLL:
    """The library of this build, or of the one that KEYGRAPH_LIBRARY_DIR names; MissingDependencyError without it."""
    library = ctypes.CDLL(str(native("cuda")))
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    graph_shape, attention_shape = ctypes.POINTER(GraphShape), ctypes.POINTER(AttentionShape)
    library.keygraph_status_message.restype = ctypes.c_char_p
    library.keygraph_cuda_error.restype = ctypes.c_char_p
    library.keygraph_cuda_variant_name.restype = ctypes.c_char_p
    library.keygraph_cuda_variant_name.argtypes = library.keygraph_cuda_prepare.argtypes = [integer]
    library.keygraph_cuda_target.argtypes = [integer]
    library.keygraph_cuda_targets.argtypes = [_INT32_POINTER, integer]
    library.keygraph_cuda_key_graph.argtypes = [
        graph_shape, ctypes.c_int, pointer, pointer, pointer, pointer, integer, pointer,
    ]  # fmt: skip
    pack_shape = ctypes.POINTER(PackShape)
    library.keygraph_cuda_pack_graph.argtypes = [pack_shape, ctypes.c_int, pointer, pointer, pointer, integer, pointer]
    library.keygraph_cuda_pack_graph_variants.argtypes = [
        pack_shape, ctypes.c_int, integer, integer, _INT32_POINTER, integer,
    ]  # fmt: skip
    library.keygraph_cuda_top_k_graph.argtypes = [
        pack_shape, ctypes.c_int, pointer, pointer, pointer, integer, pointer,
    ]  # fmt: skip
    library.keygraph_cuda_top_k_graph_variants.argtypes = [
        pack_shape, ctypes.c_int, integer, _INT32_POINTER, integer,
    ]  # fmt: skip
    library.keygraph_cuda_key_graph_attention.argtypes = [
        attention_shape, ctypes.c_int, pointer, pointer, pointer, pointer, pointer, ctypes.c_float, pointer, integer,
        pointer,
    ]  # fmt: skip
    library.keygraph_cuda_key_graph_variants.argtypes = [
        graph_shape, ctypes.c_int, integer, _INT32_POINTER, integer,
    ]  # fmt: skip
    library.keygraph_cuda_key_graph_attention_variants.argtypes = [
        attention_shape, ctypes.c_int, integer, integer, _INT32_POINTER, integer,
    ]  # fmt: skip
    return library


def targets() -> list[int]:
    """What the library was built for."""
    count = cuda_library().keygraph_cuda_targets(None, 0)
    numbers = (ctypes.c_int32 * count)()
    assert cuda_library().keygraph_cuda_targets(numbers, count) == count
    return list(numbers)


def graph_variants(shape: Sequence[int], dtype: str, capability: int) -> list[int]:
    """Numbers of the variants for a shape (batch, groups, rows, nodes, channels)."""
    numbers = (ctypes.c_int32 * 256)()
    count = cuda_library().keygraph_cuda_key_graph_variants(GraphShape(*shape), DTYPES[dtype], capability, numbers, 256)
    return list(numbers[:count])


def pack_variants(shape: Sequence[int], dtype: str, threshold: bool, capability: int) -> list[int]:
    """Numbers of the variants for a shape (batch, groups, rows, nodes)."""
    numbers = (ctypes.c_int32 * 256)()
    count = cuda_library().keygraph_cuda_pack_graph_variants(
        PackShape(*shape), MASK_DTYPES[dtype], threshold, capability, numbers, 256
    )
    return list(numbers[:count])


def top_k_variants(shape: Sequence[int], dtype: str, capability: int) -> list[int]:
    """Numbers of the variants for a shape (batch, groups, rows, nodes)."""
    numbers = (ctypes.c_int32 * 256)()
    count = cuda_library().keygraph_cuda_top_k_graph_variants(
        PackShape(*shape), MASK_DTYPES[dtype], capability, numbers, 256
    )
    return list(numbers[:count])


def attention_variants(shape: Sequence[int], dtype: str, bias: bool, capability: int) -> list[int]:
    """Numbers of the variants for a shape (batch, heads, groups, rows, nodes, channels, value channels, heads last)."""
    numbers = (ctypes.c_int32 * 256)()
    count = cuda_library().keygraph_cuda_key_graph_attention_variants(
        AttentionShape(*shape), DTYPES[dtype], bias, capability, numbers, 256
    )
    return list(numbers[:count])


def key_graph(
    shape: Sequence[int] | None,
    dtype: str | int,
    query: int,
    key: int,
    k: int,
    graph: int,
    variant: int = 0,
    stream: int | None = None,
) -> int:
    """The status of a call with addresses of device memory."""
    status: int = cuda_library().keygraph_cuda_key_graph(
        shape and GraphShape(*shape), DTYPES.get(dtype, dtype), query, key, k, graph, variant, stream
    )
    return status


def pack_graph(
    shape: Sequence[int] | None,
    dtype: str | int,
    mask: int,
    threshold: int | None,
    graph: int,
    variant: int = 0,
    stream: int | None = None,
) -> int:
    """The status of a call with addresses of device memory."""
    status: int = cuda_library().keygraph_cuda_pack_graph(
        shape and PackShape(*shape), MASK_DTYPES.get(dtype, dtype), mask, threshold, graph, variant, stream
    )
    return status


def top_k_graph(
    shape: Sequence[int] | None,
    dtype: str | int,
    scores: int,
    k: int,
    graph: int,
    variant: int = 0,
    stream: int | None = None,
) -> int:
    """The status of a call with addresses of device memory."""
    status: int = cuda_library().keygraph_cuda_top_k_graph(
        shape and PackShape(*shape), DTYPES.get(dtype, dtype), scores, k, graph, variant, stream
    )
    return status


def key_graph_attention(
    shape: Sequence[int] | None,
    dtype: str | int,
    q: int,
    k: int,
    v: int,
    graph: int,
    bias: int | None,
    scale: float,
    output: int,
    variant: int = 0,
    stream: int | None = None,
) -> int:
    """The status of a call with addresses of device memory."""
    status: int = cuda_library().keygraph_cuda_key_graph_attention(
        shape and AttentionShape(*shape), DTYPES.get(dtype, dtype), q, k, v, graph, bias, scale, output, variant, stream
    )
    return status


def last_error() -> str:
    text: str = cuda_library().keygraph_cuda_error().decode()
    return text


def message(status: int) -> str:
    text: str = cuda_library().keygraph_status_message(status).decode()
    return text
