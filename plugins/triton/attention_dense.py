"""KeyGraphAttention over all nodes with a mask, on tensor cores; the graph's bits are read block by block.

Flash attention (arXiv 2205.14135, 2307.08691) with a mask of one bit per node: scores of one block of nodes at a time,
a running maximum and sum per row, nothing of size M x N in memory.

The matrix product multiplies unselected nodes by the weight 0, and 0 * inf is NaN. So a block of rows whose result is
not finite is computed again by `attention_exact`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .addressing import base_offsets, bias_row, load_rows, locate, row_stride
from .attention_exact import write_exactly
from .bits import count_bits, load_words, mask_of
from .constants import LOG2_E

#: Number of blocks of nodes that are searched together for selected nodes.
_SKIPPED_AHEAD = tl.constexpr(16)


@triton.jit(
    do_not_specialize=["rows", "nodes", "heads", "groups", "channels", "value_channels", "heads_last", "bias_windows"]
)
def attention_dense(
    q,
    k,
    v,
    graph,
    bias,
    output,
    rows,
    nodes,
    heads,
    groups,
    channels,
    value_channels,
    heads_last,
    bias_windows,
    scale,
    CHANNEL_MULTIPLE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_VALUE_CHANNELS: tl.constexpr,
    WHOLE_ROWS: tl.constexpr,
    SKIP_EMPTY: tl.constexpr,
):
    """Compute BLOCK_ROWS rows of one head, BLOCK_VALUE_CHANNELS value channels of them, per program.

    Parameters
    ----------
    q, k, v, graph, bias, output, rows, nodes, heads, groups, channels, value_channels, heads_last, bias_windows, scale
        The kernel's parameters in docs/reference/kernels.md.
    CHANNEL_MULTIPLE
        `channels` and `value_channels` are multiples of it.
    HAS_BIAS
        Whether `bias` is read.
    BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS, BLOCK_VALUE_CHANNELS
        Block sizes, powers of two.
    WHOLE_ROWS
        Whether one block holds all channels and one all value channels: then q is loaded once. Otherwise the kernel
        loops over blocks of channels, and each block of value channels has a program of its own.
    SKIP_EMPTY
        Whether blocks of nodes in which no row selects a node are found first and skipped.
    """
    # Tells the compiler the alignment of the rows.
    channels = channels // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    value_channels = value_channels // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    first_row, first_value, head, batch = locate(rows, value_channels, heads, BLOCK_ROWS, BLOCK_VALUE_CHANNELS, 1)

    q_base, output_base = base_offsets(batch, head, heads, rows, channels, value_channels, heads_last)
    k_base, v_base = base_offsets(batch, head, heads, nodes, channels, value_channels, heads_last)
    channel_stride = row_stride(channels, heads, heads_last)
    value_stride = row_stride(value_channels, heads, heads_last)

    q += q_base
    k += k_base
    v += v_base
    output += output_base
    # The graph is one for all heads, or one per head.
    words_per_row = (nodes + 31) // 32
    group = tl.where(groups == 1, 0, head)
    graph += (batch * groups + group).to(tl.int64) * rows * words_per_row
    bias += bias_row(batch, head, heads, rows, bias_windows) * nodes

    row = first_row + tl.arange(0, BLOCK_ROWS)
    in_rows = row < rows
    channel = tl.arange(0, BLOCK_CHANNELS)
    value = first_value + tl.arange(0, BLOCK_VALUE_CHANNELS)
    q_rows = q + row[:, None] * channel_stride
    graph_rows = graph + row * words_per_row
    bias_rows = bias + row[:, None].to(tl.int64) * nodes

    # Scores are in units of log2. A negative scale negates q, which is exact, so that the largest score belongs to the
    # largest product. 0 is replaced by a tiny scale, because 0 * -inf is NaN.
    log2_scale = tl.maximum(tl.abs(scale) * LOG2_E, 1e-30)
    largest = tl.full([BLOCK_ROWS], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    acc = tl.zeros([BLOCK_ROWS, BLOCK_VALUE_CHANNELS], tl.float32)
    negative = scale < 0
    q_block = q_rows  # a placeholder unless WHOLE_ROWS
    if WHOLE_ROWS:
        q_block = load_rows(q_rows, channel, in_rows, channels)
        q_block = tl.where(negative, -q_block, q_block)

    if SKIP_EMPTY:
        # Which of the next 16 blocks have a selected node is known before any of them is loaded, so the loop over
        # these has no branch, and the compiler can prefetch.
        for chunk in range(0, nodes, _SKIPPED_AHEAD * BLOCK_NODES):
            blocks = blocks_with_bits(graph_rows, in_rows, chunk, nodes, BLOCK_ROWS, BLOCK_NODES)
            for _ in range(0, count_bits(blocks)):
                first = chunk + count_bits((blocks & (0 - blocks)) - 1) * BLOCK_NODES
                blocks &= blocks - 1
                words = load_words(graph_rows, in_rows, first, nodes, BLOCK_NODES)
                largest, total, acc = attend(
                    q_rows, q_block, k, v, words, bias_rows, in_rows, first, nodes,
                    channels, value_channels, first_value, channel_stride, value_stride, negative, log2_scale,
                    largest, total, acc,
                    HAS_BIAS, BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS, BLOCK_VALUE_CHANNELS, WHOLE_ROWS,
                )  # fmt: skip
    else:
        # The graph's words are loaded one step ahead here; the compiler prefetches only k and v.
        words = load_words(graph_rows, in_rows, 0, nodes, BLOCK_NODES)
        for first in range(0, nodes, BLOCK_NODES):
            next_words = load_words(graph_rows, in_rows, first + BLOCK_NODES, nodes, BLOCK_NODES)
            largest, total, acc = attend(
                q_rows, q_block, k, v, words, bias_rows, in_rows, first, nodes,
                channels, value_channels, first_value, channel_stride, value_stride, negative, log2_scale,
                largest, total, acc,
                HAS_BIAS, BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS, BLOCK_VALUE_CHANNELS, WHOLE_ROWS,
            )  # fmt: skip
            words = next_words

    result = acc / total[:, None]
    # A row that selects nothing, or nothing but -inf, is 0 / 0 here.
    is_finite = tl.min((result - result == 0).to(tl.int32), axis=1)
    if tl.min(tl.where(in_rows, is_finite, 1), axis=0) != 0:
        tl.store(
            output + row[:, None] * value_stride + value[None, :],
            result.to(output.dtype.element_ty),
            mask=in_rows[:, None] & (value[None, :] < value_channels),
        )
    else:
        write_exactly(
            q, k, v, graph, bias, output, rows, nodes, channels, value_channels,
            first_row, first_value, channel_stride, value_stride, scale,
            HAS_BIAS, BLOCK_ROWS, BLOCK_CHANNELS, BLOCK_VALUE_CHANNELS,
        )  # fmt: skip


@triton.jit
def attend(
    q_rows,
    q_block,
    k,
    v,
    words,
    bias_rows,
    in_rows,
    first,
    nodes,
    channels,
    value_channels,
    first_value,
    channel_stride,
    value_stride,
    negative,
    log2_scale,
    largest,
    total,
    acc,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_VALUE_CHANNELS: tl.constexpr,
    WHOLE_ROWS: tl.constexpr,
):
    """Add the block of nodes from `first` on: return the new running maximum, sum, and weighted sum of v."""
    node = first + tl.arange(0, BLOCK_NODES)
    in_nodes = node < nodes
    channel = tl.arange(0, BLOCK_CHANNELS)
    k_rows = k + node[:, None] * channel_stride
    # The products accumulate onto the mask, and onto the bias in the products' units, which saves a pass over them.
    score = mask_of(words, BLOCK_ROWS, BLOCK_NODES)
    if HAS_BIAS:
        score += load_rows(bias_rows, node, in_rows, nodes).to(tl.float32) * (LOG2_E / log2_scale)
    if WHOLE_ROWS:
        score = tl.dot(q_block, load_rows(k_rows, channel, in_nodes, channels).T, score, input_precision="ieee")
    else:
        for first_channel in range(0, channels, BLOCK_CHANNELS):
            q_part = load_rows(q_rows, first_channel + channel, in_rows, channels)
            k_part = load_rows(k_rows, first_channel + channel, in_nodes, channels)
            score = tl.dot(tl.where(negative, -q_part, q_part), k_part.T, score, input_precision="ieee")
    new_largest = tl.maximum(largest, tl.max(score, axis=1) * log2_scale)
    # If nothing is selected so far, any finite origin keeps the weights at 0; -inf would make them NaN.
    origin = tl.where(new_largest == -float("inf"), 0.0, new_largest)
    # The scale is applied here, in one multiply-add.
    weight = tl.exp2(score * log2_scale - origin[:, None])
    rescale = tl.exp2(largest - origin)
    value = first_value + tl.arange(0, BLOCK_VALUE_CHANNELS)
    v_block = load_rows(v + node[:, None] * value_stride, value, in_nodes, value_channels)
    total = total * rescale + tl.sum(weight, axis=1)
    # acc is not the accumulator of this product: on 9.0 the compiler would then wait after every product (C7515), since
    # the next scores' mask is written while it runs.
    weighted = tl.dot(weight.to(v_block.dtype), v_block, input_precision="ieee")
    acc = tl.fma(acc, tl.broadcast_to(rescale[:, None], [BLOCK_ROWS, BLOCK_VALUE_CHANNELS]), weighted)
    return new_largest, total, acc


@triton.jit
def blocks_with_bits(graph_rows, in_rows, first, nodes, BLOCK_ROWS: tl.constexpr, BLOCK_NODES: tl.constexpr):
    """Return uint32, whose bit i says that some row selects a node of the i-th block of nodes from `first` on."""
    words = load_words(graph_rows, in_rows, first, nodes, _SKIPPED_AHEAD * BLOCK_NODES)
    used = tl.max((words != 0).to(tl.int32), axis=0)
    blocks = tl.max(tl.reshape(used, [_SKIPPED_AHEAD, BLOCK_NODES // 32]), axis=1)
    return tl.sum(blocks << tl.arange(0, _SKIPPED_AHEAD), axis=0).to(tl.uint32, bitcast=True)
