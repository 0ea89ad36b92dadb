"""The variants of the kernels: the constants that each is compiled with, and the problems that it fits.

One list for every host: PyTorch compiles from it just in time, `plugins/cuda` ahead of time. A variant's number is part
of the C interface and of timing caches: a number is never given to another variant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .attention_dense import attention_dense
from .attention_gather import attention_gather
from .key_graph import key_graph_resident, key_graph_streamed
from .pack_graph import pack_graph
from .top_k_graph import top_k_graph_resident, top_k_graph_streamed


@dataclass(frozen=True)
class Variant:
    """One kernel with its constants.

    Attributes
    ----------
    number, name
        Identify it, to programs and to readers.
    op
        ``"KeyGraph"``, ``"PackGraph"``, ``"TopKGraph"`` or ``"KeyGraphAttention"``.
    kernel
        The Triton function.
    dtype
        Triton's name of the storage type: ``"fp32"``, ``"fp16"`` or ``"bf16"``; ``"i8"`` for a mask of bool.
    constants
        Values of the kernel's `tl.constexpr` parameters.
    block_rows, block_value_channels, block_heads
        Rows, value channels and heads that one program computes, from which the grid follows; 0: all of them.
    max_channels, max_value_channels, max_nodes, max_groups
        Largest sizes that it computes; 0: no limit.
    channel_multiple
        Channels and value channels must be multiples of it, so that rows are aligned for wide loads. Rows of PackGraph
        and TopKGraph have nodes for channels.
    bias
        Whether the optional input is given: a bias, or PackGraph's threshold.
    warps, stages
        Warps per program, and pipeline stages of a loop.
    max_registers
        Limit of the registers per thread, so that more programs run on a multiprocessor; 0: the compiler's choice.
    min_capability, max_capability
        Range of compute capabilities, as 80 for 8.0; 0: no limit.
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
    max_groups: int = 0
    bias: bool = False
    warps: int = 4
    stages: int = 2
    max_registers: int = 0
    min_capability: int = 0
    max_capability: int = 0

    def runs_on(self, capability: int) -> bool:
        """Return whether devices of a compute capability, as 80 for 8.0, can run it."""
        return self.min_capability <= capability <= (self.max_capability or capability)

    @property
    def compiler_options(self) -> dict[str, int]:
        """Options for Triton's compiler, just in time and ahead of time."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        return {**options, "maxnreg": self.max_registers} if self.max_registers else options


#: Parameters of the kernels that are not constants, in order, with their types; `*` is the storage type.
SIGNATURES: dict[str, dict[str, str]] = {
    "KeyGraph": {
        "query": "*", "key": "*", "k": "*i64", "graph": "*i32",
        "rows": "i32", "nodes": "i32", "channels": "i32",
    },
    "PackGraph": {
        "mask": "*", "threshold": "*", "graph": "*i32", "rows": "i32", "nodes": "i32",
    },
    "TopKGraph": {
        "scores": "*", "k": "*i64", "graph": "*i32", "rows": "i32", "nodes": "i32",
    },
    "KeyGraphAttention": {
        "q": "*", "k": "*", "v": "*", "graph": "*i32", "bias": "*", "output": "*",
        "rows": "i32", "nodes": "i32", "heads": "i32", "groups": "i32", "channels": "i32", "value_channels": "i32",
        "heads_last": "i32", "bias_windows": "i32", "scale": "fp32",
    },
}  # fmt: skip


def _dense(
    dtype: str,
    block_channels: int,
    channel_multiple: int,
    block_rows: int,
    block_nodes: int,
    warps: int,
    *,
    bias: bool = False,
    whole_rows: bool = True,
    skip_empty: bool = False,
    max_registers: int = 0,
    min_capability: int = 80,
    turing: bool = False,
) -> Variant:
    limit = block_channels if whole_rows else 0
    size = f"d{block_channels}" if whole_rows else "any"
    options = "_bias" * bias + "_skip" * skip_empty + f"_r{max_registers}" * (max_registers > 0)
    return Variant(
        number=0,
        name=f"attention_dense_{dtype}_{size}_m{channel_multiple}_{block_rows}x{block_nodes}{options}",
        op="KeyGraphAttention",
        kernel=attention_dense,
        dtype=dtype,
        constants={
            "CHANNEL_MULTIPLE": channel_multiple,
            "HAS_BIAS": bias,
            "BLOCK_ROWS": block_rows,
            "BLOCK_NODES": block_nodes,
            "BLOCK_CHANNELS": block_channels,
            "BLOCK_VALUE_CHANNELS": block_channels,
            "WHOLE_ROWS": whole_rows,
            "SKIP_EMPTY": skip_empty,
        },
        block_rows=block_rows,
        block_value_channels=block_channels,
        block_heads=1,
        channel_multiple=channel_multiple,
        max_channels=limit,
        max_value_channels=limit,
        bias=bias,
        warps=warps,
        max_registers=max_registers,
        min_capability=_least_capability(dtype, turing, min_capability),
        max_capability=79 if turing else 0,
    )


def _gather(dtype: str, block_channels: int, channel_multiple: int, block_heads: int) -> Variant:
    return Variant(
        number=0,
        name=f"attention_gather_{dtype}_d{block_channels}_m{channel_multiple}_h{block_heads}",
        op="KeyGraphAttention",
        kernel=attention_gather,
        dtype=dtype,
        constants={
            "CHANNEL_MULTIPLE": channel_multiple,
            "HAS_BIAS": False,
            "BLOCK_HEADS": block_heads,
            "BLOCK_SELECTED": 64,
            "BLOCK_CHANNELS": block_channels,
            "BLOCK_VALUE_CHANNELS": block_channels,
        },
        block_rows=1,
        block_heads=block_heads,
        channel_multiple=channel_multiple,
        max_channels=block_channels,
        max_value_channels=block_channels,
        max_groups=1 if block_heads > 1 else 0,
        min_capability=80 if dtype == "bf16" else 0,
    )


def _graph(
    dtype: str,
    block_rows: int,
    block_nodes: int,
    block_channels: int,
    warps: int,
    channel_multiple: int = 1,
    stages: int = 2,
    streamed: bool = False,
    turing: bool = False,
    tag: str = "",
) -> Variant:
    form = "streamed" if streamed else "resident"
    return Variant(
        number=0,
        name=f"key_graph_{form}_{dtype}_m{channel_multiple}_{block_rows}x{block_nodes}{tag}",
        op="KeyGraph",
        kernel=key_graph_streamed if streamed else key_graph_resident,
        dtype=dtype,
        constants={
            "CHANNEL_MULTIPLE": channel_multiple,
            "BLOCK_ROWS": block_rows,
            "BLOCK_NODES": block_nodes,
            "BLOCK_CHANNELS": block_channels,
        },
        block_rows=block_rows,
        channel_multiple=channel_multiple,
        max_nodes=0 if streamed else block_nodes,
        warps=warps,
        stages=stages,
        min_capability=_least_capability(dtype, turing),
        max_capability=79 if turing else 0,
    )


def _pack(dtype: str, element_bytes: int, threshold: bool, aligned: bool) -> Variant:
    multiple = 16 // element_bytes if aligned else 1
    return Variant(
        number=0,
        name=f"pack_graph_{dtype}_m{multiple}_8x512{'_threshold' * threshold}",
        op="PackGraph",
        kernel=pack_graph,
        dtype=dtype,
        constants={"CHANNEL_MULTIPLE": multiple, "HAS_THRESHOLD": threshold, "BLOCK_ROWS": 8, "BLOCK_NODES": 512},
        block_rows=8,
        channel_multiple=multiple,
        bias=threshold,
        min_capability=_least_capability(dtype, turing=dtype != "bf16"),
    )


def _top_k(dtype: str, block_rows: int, block_nodes: int, warps: int, aligned: bool, streamed: bool = False) -> Variant:
    multiple = 16 // (4 if dtype == "fp32" else 2) if aligned else 1
    form = "streamed" if streamed else "resident"
    return Variant(
        number=0,
        name=f"top_k_graph_{form}_{dtype}_m{multiple}_{block_rows}x{block_nodes}",
        op="TopKGraph",
        kernel=top_k_graph_streamed if streamed else top_k_graph_resident,
        dtype=dtype,
        constants={"CHANNEL_MULTIPLE": multiple, "BLOCK_ROWS": block_rows, "BLOCK_NODES": block_nodes},
        block_rows=block_rows,
        channel_multiple=multiple,
        max_nodes=0 if streamed else block_nodes,
        warps=warps,
        min_capability=_least_capability(dtype, turing=dtype != "bf16"),
    )


def _least_capability(dtype: str, turing: bool, half: int = 80) -> int:
    """Return the least capability of a dense kernel.

    Half precision needs the tensor cores of 8.0; for 7.5 Triton compiles products to ordinary multiply-adds.
    """
    return 0 if dtype == "fp32" or turing else half


def _half_variants(dtype: str) -> dict[int, Variant]:
    """Return the variants of float16 or bfloat16, on tensor cores. Loads of at least 4 bytes need even channels."""
    return {
        0: _dense(dtype, 16, 2, 128, 64, 8),
        # Few instructions per score, or many warps to hide latency: docs/measurements/gpu-kernels.md.
        25: _dense(dtype, 32, 8, 64, 128, 4, max_registers=168),
        26: _dense(dtype, 32, 8, 128, 128, 8, max_registers=168, min_capability=90),
        27: _dense(dtype, 32, 8, 128, 128, 8, max_registers=128, min_capability=90),
        1: _dense(dtype, 32, 8, 128, 64, 8),
        28: _dense(dtype, 32, 8, 64, 64, 4, max_registers=128),
        2: _dense(dtype, 32, 2, 128, 64, 8),
        33: _dense(dtype, 32, 2, 128, 128, 8, max_registers=168, min_capability=90),
        3: _dense(dtype, 32, 2, 64, 64, 4),
        4: _dense(dtype, 32, 2, 128, 64, 8, skip_empty=True),
        29: _dense(dtype, 64, 8, 64, 64, 4),
        30: _dense(dtype, 64, 8, 128, 64, 8, max_registers=168),
        5: _dense(dtype, 64, 8, 128, 64, 8),
        6: _dense(dtype, 64, 2, 64, 64, 4),
        7: _dense(dtype, 128, 8, 64, 64, 4),
        31: _dense(dtype, 32, 8, 64, 64, 4, bias=True),
        32: _dense(dtype, 32, 8, 128, 64, 8, bias=True),
        8: _dense(dtype, 32, 2, 64, 64, 8, bias=True),
        9: _dense(dtype, 32, 1, 64, 32, 4, whole_rows=False),
        34: _dense(dtype, 32, 1, 128, 32, 8, whole_rows=False, bias=True),
        10: _dense(dtype, 32, 1, 64, 32, 4, whole_rows=False, bias=True),
        11: _gather(dtype, 32, 2, 2),
        12: _gather(dtype, 64, 2, 1),
        # A thread holds 128 similarities of two rows: the more of a row it has, the less the search costs per element.
        20: _graph(dtype, 16, 256, 16, 1, 4, tag="_w1"),
        13: _graph(dtype, 32, 256, 32, 8, 4),
        21: _graph(dtype, 16, 512, 16, 2, 4, tag="_w2"),
        14: _graph(dtype, 32, 512, 32, 16, 4),
        22: _graph(dtype, 16, 1024, 16, 4, 4, tag="_w4"),
        24: _graph(dtype, 32, 1024, 16, 8, 4, tag="_w8"),  # reads the keys half as often
        16: _graph(dtype, 16, 1024, 16, 8, 4),
        15: _graph(dtype, 32, 1024, 16, 16, 4),
        23: _graph(dtype, 16, 2048, 16, 8, 4, tag="_w8"),
        17: _graph(dtype, 16, 2048, 16, 16, 4),
        18: _graph(dtype, 32, 128, 32, 4, 4, streamed=True),
        19: _graph(dtype, 32, 128, 32, 4, streamed=True),
    }


def _turing_variants() -> dict[int, Variant]:
    """Return the variants of float16 before 8.0: blocks whose multiply-adds fit in registers."""
    return {
        0: _dense("fp16", 32, 2, 64, 32, 8, turing=True),
        1: _dense("fp16", 64, 2, 64, 32, 8, turing=True),
        2: _dense("fp16", 32, 1, 32, 32, 4, whole_rows=False, turing=True),
        3: _dense("fp16", 32, 1, 32, 32, 4, whole_rows=False, bias=True, turing=True),
        4: _graph("fp16", 16, 256, 16, 8, 4, turing=True),
        5: _graph("fp16", 16, 512, 16, 8, 4, turing=True),
        6: _graph("fp16", 16, 64, 16, 4, streamed=True, turing=True),
    }


def _single_variants() -> dict[int, Variant]:
    """Return the variants of float32, by ordinary multiply-adds, never TF32."""
    return {
        0: _dense("fp32", 16, 1, 64, 32, 8),
        1: _dense("fp32", 32, 1, 64, 32, 8),
        2: _dense("fp32", 64, 1, 64, 32, 8),
        3: _dense("fp32", 32, 1, 64, 32, 8, bias=True),
        4: _dense("fp32", 32, 1, 64, 32, 8, whole_rows=False),
        5: _dense("fp32", 32, 1, 64, 32, 8, whole_rows=False, bias=True),
        6: _gather("fp32", 32, 1, 2),
        7: _gather("fp32", 64, 1, 1),
        8: _graph("fp32", 32, 256, 16, 8),
        12: _graph("fp32", 16, 512, 16, 8),
        11: _graph("fp32", 8, 1024, 16, 8, stages=1),
        9: _graph("fp32", 16, 1024, 16, 16, stages=1),
        10: _graph("fp32", 32, 64, 16, 4, streamed=True),
    }


def _pack_variants() -> dict[int, Variant]:
    """Return the variants of PackGraph, for rows of whole 16 bytes first."""
    kinds = [("i8", 1, False)]
    kinds += [
        (dtype, size, given) for dtype, size in (("fp32", 4), ("fp16", 2), ("bf16", 2)) for given in (False, True)
    ]
    return {
        2 * place + (not aligned): _pack(*kind, aligned)
        for place, kind in enumerate(kinds)
        for aligned in (True, False)
    }


def _top_k_variants() -> dict[int, Variant]:
    """Return the variants of TopKGraph: a thread holds 64 scores, so that the block stays in registers."""
    variants: dict[int, Variant] = {}
    for first, dtype in ((0, "fp32"), (10, "fp16"), (20, "bf16")):
        variants |= {
            first: _top_k(dtype, 16, 256, 2, aligned=True),
            first + 1: _top_k(dtype, 8, 1024, 4, aligned=True),
            first + 2: _top_k(dtype, 8, 512, 4, aligned=False, streamed=True),
        }
    return variants


def _numbered(blocks: dict[int, dict[int, Variant]]) -> tuple[Variant, ...]:
    """Assign each variant its number: the first number of its block plus its key, below 100, in the block."""
    return tuple(
        replace(variant, number=first + place) for first, block in blocks.items() for place, variant in block.items()
    )


#: All variants in the order of preference: the first one that fits a problem is the automatic choice. A new variant is
#: inserted where it is preferred, and gets the next number that its block has never had.
VARIANTS = _numbered(
    {
        100: _single_variants(),
        400: _turing_variants(),
        200: _half_variants("fp16"),
        300: _half_variants("bf16"),
        500: _pack_variants(),
        600: _top_k_variants(),
    }
)
