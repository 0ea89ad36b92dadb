"""Simulate a GPU for dry runs: PyTorch's CUDA calls return values, and tensors for the GPU are on the CPU.

The scripts then execute the same lines as on a GPU. Triton's kernels run in its interpreter, calls of the C library go
to the one for CPUs, a captured CUDA graph is what ran during the capture, and times are wall time.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

NAME, CAPABILITY = "NVIDIA H100 80GB HBM3", (9, 0)
_CPU = torch.device("cpu")


class _OnTheCpu(TorchFunctionMode):
    """Makes every device that PyTorch's functions are given the CPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.device:  # Scripts ask a device for its type, and get the GPU's.
            return function(*args, **(kwargs or {}))
        return function(*tree_map(_moved, args), **tree_map(_moved, kwargs or {}))


def _moved(value: Any) -> Any:
    return _CPU if isinstance(value, torch.device) or (isinstance(value, str) and value == "cuda") else value


class _Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self._time = 0.0

    def record(self, _stream: Any = None) -> None:
        self._time = time.perf_counter()

    def elapsed_time(self, end: _Event) -> float:
        return max(1e-6, (end._time - self._time) * 1e3)


class _Generator(torch.Generator):
    def __new__(cls, *_: Any) -> _Generator:
        return super().__new__(cls, _CPU)  # type: ignore[call-arg]


def install() -> None:
    """Simulate a GPU from now on, in this process."""
    properties = SimpleNamespace(
        name=NAME, major=CAPABILITY[0], minor=CAPABILITY[1], multi_processor_count=132, L2_cache_size=1,
        total_memory=80 << 30,
    )  # fmt: skip
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: CAPABILITY,
        "get_device_properties": lambda *_: properties,
        "current_stream": lambda *_: SimpleNamespace(cuda_stream=None),
        "graph": lambda *_: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "Event": _Event,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        **dict.fromkeys(("synchronize", "_sleep", "empty_cache", "reset_peak_memory_stats"), lambda *_: None),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    setattr(torch.cuda, "profiler", SimpleNamespace(start=lambda: None, stop=lambda: None))  # noqa: B010
    setattr(torch, "Generator", _Generator)  # noqa: B010
    _OnTheCpu().__enter__()  # type: ignore[no-untyped-call]
    _c_library()


def _c_library() -> None:
    """Put the CPU's library in the place of the GPU's; their interfaces differ in k and the threads."""
    import cuda_library
    from operator_hosts import AttentionShape, GraphShape, PackShape, cpu_library

    types = cuda_library.DTYPES

    def key_graph(shape: Any, dtype: str, query: int, key: int, k: int, graph: int, *_: Any) -> int:
        keep = ctypes.c_int64.from_address(k).value
        status: int = cpu_library().keygraph_cpu_key_graph(
            GraphShape(*shape), types[dtype], query, key, keep, graph, None
        )
        return status

    def pack_graph(shape: Any, dtype: str, mask: int, threshold: int | None, graph: int, *_: Any) -> int:
        number = cuda_library.MASK_DTYPES[dtype]
        status: int = cpu_library().keygraph_cpu_pack_graph(PackShape(*shape), number, mask, threshold, graph, None)
        return status

    def top_k_graph(shape: Any, dtype: str, scores: int, k: int, graph: int, *_: Any) -> int:
        keep = ctypes.c_int64.from_address(k).value
        status: int = cpu_library().keygraph_cpu_top_k_graph(PackShape(*shape), types[dtype], scores, keep, graph, None)
        return status

    def key_graph_attention(
        shape: Any, dtype: str, q: int, k: int, v: int, graph: int, bias: int | None, scale: float, output: int, *_: Any
    ) -> int:
        status: int = cpu_library().keygraph_cpu_key_graph_attention(
            AttentionShape(*shape), types[dtype], q, k, v, graph, bias, scale, output, None
        )
        return status

    for function in (key_graph, pack_graph, top_k_graph, key_graph_attention):
        setattr(cuda_library, function.__name__, function)
