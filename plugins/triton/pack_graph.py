"""PackGraph: a mask, or scores with a threshold, to the bits of the graph. Bound by reading the mask, once."""

from __future__ import annotations

import triton
import triton.language as tl

from .key_graph import pack, rows_of_program, store_words


@triton.jit(do_not_specialize=["rows", "nodes"])
def pack_graph(
    mask,
    threshold,
    graph,
    rows,
    nodes,
    CHANNEL_MULTIPLE: tl.constexpr,
    HAS_THRESHOLD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
):
    """Pack BLOCK_ROWS rows of a window per program.

    Parameters
    ----------
    mask, threshold, graph, rows, nodes
        The kernel's parameters in docs/reference/kernels.md.
    CHANNEL_MULTIPLE
        `nodes`, the row length of the mask, is a multiple of it.
    HAS_THRESHOLD
        Whether the mask holds scores; if not, nothing is read through `threshold`.
    BLOCK_ROWS, BLOCK_NODES
        Block sizes, powers of two, at least 32 nodes.
    """
    nodes = nodes // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    row, window = rows_of_program(rows, BLOCK_ROWS)
    in_rows = row < rows
    place = window * rows + row
    mask_rows = mask + place[:, None] * nodes
    least = tl.load(threshold + place, mask=in_rows, other=0.0).to(tl.float32) if HAS_THRESHOLD else 0.0
    for first in range(0, nodes, BLOCK_NODES):
        node = first + tl.arange(0, BLOCK_NODES)
        inside = in_rows[:, None] & (node < nodes)[None, :]
        values = tl.load(mask_rows + node[None, :], mask=inside, other=0)
        selected = values.to(tl.float32) >= least[:, None] if HAS_THRESHOLD else is_set(values)
        words = pack((selected & inside).to(tl.int32), BLOCK_ROWS, BLOCK_NODES)
        store_words(graph, words, window, row, rows, first, nodes, BLOCK_NODES)


@triton.jit
def is_set(values):
    """Return whether each element is not zero: by its bits, so that subnormal numbers count and -0 does not."""
    if values.dtype == tl.int8:
        selected = values != 0
    elif values.dtype == tl.float32:
        selected = values.to(tl.int32, bitcast=True) & 0x7FFFFFFF != 0
    else:
        selected = values.to(tl.int16, bitcast=True) & 0x7FFF != 0
    return selected
