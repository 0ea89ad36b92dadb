"""KeyGraphAttention over the selected nodes only: gathers the rows of k and v for the graph's set bits.

For rows that select few of many nodes. One program computes one row, for several heads that share a graph.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .addressing import base_offsets, bias_row, locate, row_stride
from .bits import bits_of_nodes, count_bits
from .constants import LOG2_E

#: Words of the graph per step.
_WORDS = tl.constexpr(32)


@triton.jit(
    do_not_specialize=["rows", "nodes", "heads", "groups", "channels", "value_channels", "heads_last", "bias_windows"]
)
def attention_gather(
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
    BLOCK_HEADS: tl.constexpr,
    BLOCK_SELECTED: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_VALUE_CHANNELS: tl.constexpr,
):
    """Compute one row of BLOCK_HEADS heads per program.

    Parameters
    ----------
    q, k, v, graph, bias, output, rows, nodes, heads, groups, channels, value_channels, heads_last, bias_windows, scale
        The kernel's parameters in docs/reference/kernels.md.
    CHANNEL_MULTIPLE
        `channels` and `value_channels` are multiples of it.
    HAS_BIAS
        Whether `bias` is read.
    BLOCK_HEADS
        1 if every head has a graph of its own.
    BLOCK_SELECTED
        Selected nodes per step.
    BLOCK_CHANNELS, BLOCK_VALUE_CHANNELS
        Powers of two that are at least `channels` and `value_channels`.
    """
    channels = channels // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    value_channels = value_channels // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    row, _, first_head, batch = locate(rows, value_channels, heads, 1, BLOCK_VALUE_CHANNELS, BLOCK_HEADS)
    head = first_head + tl.arange(0, BLOCK_HEADS)
    in_heads = head < heads
    channel = tl.arange(0, BLOCK_CHANNELS)
    value = tl.arange(0, BLOCK_VALUE_CHANNELS)
    in_channels = in_heads[:, None] & (channel < channels)[None, :]
    in_values = in_heads[:, None] & (value < value_channels)[None, :]

    q_base, output_base = base_offsets(batch, head, heads, rows, channels, value_channels, heads_last)
    k_base, v_base = base_offsets(batch, head, heads, nodes, channels, value_channels, heads_last)
    channel_stride = row_stride(channels, heads, heads_last)
    value_stride = row_stride(value_channels, heads, heads_last)
    q_row = tl.load(q + q_base[:, None] + row * channel_stride + channel[None, :], mask=in_channels, other=0.0)
    q_row = q_row.to(tl.float32) * (scale * LOG2_E)

    words = (nodes + 31) // 32
    group = tl.where(groups == 1, 0, first_head)
    graph_row = graph + ((batch * groups + group).to(tl.int64) * rows + row) * words
    added_row = bias + (bias_row(batch, head, heads, rows, bias_windows) + row) * nodes

    largest = tl.full([BLOCK_HEADS], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK_HEADS], tl.float32)
    acc = tl.zeros([BLOCK_HEADS, BLOCK_VALUE_CHANNELS], tl.float32)
    seen = 0
    for first_word in range(0, words, _WORDS):
        word = first_word + tl.arange(0, _WORDS)
        bits = load_words(graph_row, word, words, nodes)
        counts = count_bits(bits)
        ends = tl.cumsum(counts, axis=0)
        selected = tl.sum(counts, axis=0)
        seen += selected
        for first in range(0, selected, BLOCK_SELECTED):
            place = first + tl.arange(0, BLOCK_SELECTED)
            in_selected = place < selected
            node = node_at(place, ends, graph_row, first_word, words, nodes)
            gathered = in_selected[None, :, None]
            k_rows = tl.load(
                k + k_base[:, None, None] + node[None, :, None] * channel_stride + channel[None, None, :],
                mask=gathered & in_channels[:, None, :],
                other=0.0,
            )
            v_rows = tl.load(
                v + v_base[:, None, None] + node[None, :, None] * value_stride + value[None, None, :],
                mask=gathered & in_values[:, None, :],
                other=0.0,
            )
            score = tl.sum(q_row[:, None, :] * k_rows.to(tl.float32), axis=2)
            if HAS_BIAS:
                added = tl.load(
                    added_row[:, None] + node[None, :], mask=in_heads[:, None] & in_selected[None, :], other=0.0
                )
                score += added.to(tl.float32) * LOG2_E
            score = tl.where(in_selected[None, :], score, -float("inf"))
            new_largest = tl.maximum(largest, tl.max(score, axis=1))
            # If all scores are -inf, the weights are 0 and the result is 0/0 = NaN, as a softmax gives.
            origin = tl.where(new_largest == -float("inf"), 0.0, new_largest)
            weight = tl.exp2(score - origin[:, None])
            rescale = tl.exp2(largest - origin)
            total = total * rescale + tl.sum(weight, axis=1)
            acc = acc * rescale[:, None] + tl.sum(weight[:, :, None] * v_rows.to(tl.float32), axis=1)
            largest = new_largest

    # A row that selects nothing is zeros.
    result = tl.where(seen == 0, 0.0, acc / tl.where(seen == 0, 1.0, total)[:, None])
    tl.store(
        output + output_base[:, None] + row * value_stride + value[None, :],
        result.to(output.dtype.element_ty),
        mask=in_values,
    )


@triton.jit
def load_words(graph_row, word, words, nodes):
    """Return uint32 words of the graph, without the bits past the last node."""
    loaded = tl.load(graph_row + word, mask=word < words, other=0)
    return (loaded & bits_of_nodes(word, nodes)).to(tl.uint32, bitcast=True)


@triton.jit
def node_at(place, ends, graph_row, first_word, words, nodes):
    """Return the node of the place-th set bit; `ends` is the number of set bits up to and including each word."""
    before = ends[None, :] <= place[:, None]
    word = first_word + tl.sum(before.to(tl.int32), axis=1)
    rank = place - tl.max(tl.where(before, ends[None, :], 0), axis=1)
    bits = load_words(graph_row, word, words, nodes)
    # The rank-th set bit of the word, by bisection.
    bit = tl.zeros_like(rank)
    for step in tl.static_range(5):
        low = count_bits(bits & ((1 << (16 >> step)) - 1))
        higher = rank >= low
        rank = tl.where(higher, rank - low, rank)
        bits = tl.where(higher, bits >> (16 >> step), bits)
        bit += tl.where(higher, 16 >> step, 0)
    return word * 32 + bit
