"""The kernels' variants: the constants each is compiled with, and the problems it fits.

One list for every host: PyTorch compiles from it just in time, `plugins/cuda` ahead of time. A variant's number is part
of the C interface and of timing caches: numbers are never used again for something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .attention_dense import attention_dense
from .attention_gather import attention_gather
from .key_graph import key_graph_resident, key_graph_streamed


@dataclass(frozen=True)
class Variant:
    """One kernel with its constants.

    Attributes
    ----------
    number, name
        What identifies it, for machines and for people.
    op
        ``"KeyGraph"`` or ``"KeyGraphAttention"``.
    kernel
        The Triton function.
    dtype
        Triton's name of the storage type: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    constants
        Values of the kernel's `tl.constexpr` parameters.
    block_rows, block_value_channels, block_heads
        What one program computes, which the grid is made of; 0: all of them.
    max_channels, max_value_channels, max_nodes
        Limits of what fits; 0: none.
    channel_multiple
        Channels and value channels must be multiples of it: rows start at addresses that wide loads can use.
    bias
        Whether a bias is given.
    warps, stages
        Warps per program, and how many steps of a loop are in flight.
    min_capability
        Least compute capability, as 80 for 8.0.
    """

    number: int
    name: str
    op: str
    kernel: Any
    dtype: str
    constants: dict[str, Any]
    block_rows: int
    channel_multiple: int
    block_value_channels: int = 0
    block_heads: int = 0
    max_channels: int = 0
    max_value_channels: int = 0
    max_nodes: int = 0
    bias: bool = False
    warps: int = 4
    stages: int = 2
    min_capability: int = 75


#: Parameters of the kernels that are not constants, in order, with their types; `*` is the storage type.
SIGNATURES: dict[str, dict[str, str]] = {
    "KeyGraph": {
        "query": "*", "key": "*", "k": "*i64", "graph": "*i32",
        "rows": "i32", "nodes": "i32", "channels": "i32",
    },
    "KeyGraphAttention": {
        "q": "*", "k": "*", "v": "*", "graph": "*i32", "bias": "*", "output": "*",
        "rows": "i32", "nodes": "i32", "heads": "i32", "groups": "i32", "channels": "i32", "value_channels": "i32",
        "heads_last": "i32", "scale": "fp32",
    },
}  # fmt: skip
