"""Call libkeygraph_cuda on PyTorch tensors, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cuda_library import key_graph, key_graph_attention, last_error, pack_graph, top_k_graph

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def name_of(dtype: torch.dtype) -> str:
    return next(name for name, known in TORCH.items() if known == dtype)


def check(status: int) -> None:
    assert status == 0, last_error()


def stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def graph_shape(query: Any, key: Any) -> tuple[int, ...]:
    """(batch, groups, rows, nodes, channels)."""
    batch, groups, rows, channels = query.shape
    return batch, groups, rows, key.shape[2], channels


def attention_shape(q: Any, k: Any, v: Any, graph: Any, bias: Any, heads_last: bool) -> tuple[int, ...]:
    """(batch, heads, groups, rows, nodes, channels, value channels, heads last, windows of the bias)."""
    heads, rows = (2, 1) if heads_last else (1, 2)
    sizes = (q.shape[0], q.shape[heads], graph.shape[1], q.shape[rows], k.shape[rows], q.shape[3], v.shape[3])
    return *sizes, int(heads_last), 0 if bias is None or bias.dim() == 3 else bias.shape[0]


def prepared_graph(query: Any, key: Any, k: Any, graph: Any, variant: int = 0) -> Callable[[], Any]:
    """Return a function that only launches the kernel on the current stream and returns `graph`."""
    shape, dtype = graph_shape(query, key), name_of(query.dtype)
    pointers = [tensor.data_ptr() for tensor in (query, key, k, graph)]

    def call() -> Any:
        check(key_graph(shape, dtype, *pointers, variant, stream()))
        return graph

    return call


def prepared_pack(mask: Any, threshold: Any | None, graph: Any, variant: int = 0) -> Callable[[], Any]:
    """Return a function that only launches the kernel on the current stream and returns `graph`."""
    name = "i8" if mask.dtype is torch.bool else name_of(mask.dtype)
    shape, given = tuple(mask.shape), None if threshold is None else threshold.data_ptr()
    inputs, result = mask.data_ptr(), graph.data_ptr()

    def call() -> Any:
        check(pack_graph(shape, name, inputs, given, result, variant, stream()))
        return graph

    return call


def prepared_top_k(scores: Any, k: Any, graph: Any, variant: int = 0) -> Callable[[], Any]:
    """Return a function that only launches the kernel on the current stream and returns `graph`."""
    shape, dtype = tuple(scores.shape), name_of(scores.dtype)
    pointers = [tensor.data_ptr() for tensor in (scores, k, graph)]

    def call() -> Any:
        check(top_k_graph(shape, dtype, *pointers, variant, stream()))
        return graph

    return call


def prepared_attention(
    q: Any,
    k: Any,
    v: Any,
    graph: Any,
    bias: Any,
    scale: float,
    output: Any,
    heads_last: bool = False,
    variant: int = 0,
) -> Callable[[], Any]:
    """Return a function that only launches the kernel on the current stream and returns `output`."""
    shape, dtype = attention_shape(q, k, v, graph, bias, heads_last), name_of(q.dtype)
    inputs = [tensor.data_ptr() for tensor in (q, k, v, graph)]
    bias_pointer, result = None if bias is None else bias.data_ptr(), output.data_ptr()

    def call() -> Any:
        check(key_graph_attention(shape, dtype, *inputs, bias_pointer, scale, result, variant, stream()))
        return output

    return call


class CudaLibrary:
    """The operators with allocated outputs. Arguments and results have heads first; the kernel may get them last."""

    def __init__(self, variant: int = 0, heads_last: bool = False) -> None:
        self.variant = variant
        self.heads_last = heads_last

    def key_graph(self, query: Any, key: Any, k: Any) -> Any:
        batch, groups, rows, nodes, _ = graph_shape(query, key)
        graph = torch.full((batch, groups, rows, (nodes + 31) // 32), -123, dtype=torch.int32, device="cuda")
        return prepared_graph(query, key, k, graph, self.variant)()

    def pack_graph(self, mask: Any, threshold: Any | None) -> Any:
        graph = torch.full((*mask.shape[:3], (mask.shape[3] + 31) // 32), -123, dtype=torch.int32, device="cuda")
        return prepared_pack(mask, threshold, graph, self.variant)()

    def top_k_graph(self, scores: Any, k: Any) -> Any:
        graph = torch.full((*scores.shape[:3], (scores.shape[3] + 31) // 32), -123, dtype=torch.int32, device="cuda")
        return prepared_top_k(scores, k, graph, self.variant)()

    def key_graph_attention(self, q: Any, k: Any, v: Any, graph: Any, bias: Any, scale: float | None) -> Any:
        scale = q.shape[3] ** -0.5 if scale is None else scale
        output = torch.full((*q.shape[:3], v.shape[3]), 123, dtype=q.dtype, device="cuda")
        if self.heads_last:
            q, k, v, output = (x.transpose(1, 2).contiguous() for x in (q, k, v, output))
        prepared_attention(q, k, v, graph, bias, scale, output, self.heads_last, self.variant)()
        return output.transpose(1, 2) if self.heads_last else output
