"""KeyGraphAttention for inputs that are not finite: a node that a row does not select has no influence on the row.

The matrix product multiplies unselected nodes by the weight 0, and 0 * inf is NaN. Here scores are selected by the
graph's bits, one product sums the finite values of v, and further products find the rows that select values that are
not finite. `attention_dense` calls it for the blocks of rows whose result is not finite.

Several times slower, and in small blocks: a kernel needs the registers of its most demanding part, which must not be
this one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .addressing import load_rows
from .bits import load_words, mask_of
from .constants import LOG2_E

_ROWS = tl.constexpr(32)
_NODES = tl.constexpr(32)
#: What the passes look for in v: inf, -inf, NaN, and infinities at selected nodes whose weight is 0.
_POSITIVE, _NEGATIVE, _UNDEFINED, _WEIGHTLESS = (tl.constexpr(kind) for kind in range(4))


@triton.jit
def write_exactly(
    q,
    k,
    v,
    graph,
    bias,
    output,
    rows,
    nodes,
    channels,
    value_channels,
    first_row,
    first_value,
    channel_stride,
    value_stride,
    scale,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_VALUE_CHANNELS: tl.constexpr,
):
    """Write BLOCK_ROWS rows of the output, from `first_row` on; the pointers are to the head's first row."""
    value = first_value + tl.arange(0, BLOCK_VALUE_CHANNELS)
    # No pipelining and no hoisting out of loops: both need registers.
    for part in tl.range(0, BLOCK_ROWS, _ROWS, num_stages=1, disable_licm=True):
        row = first_row + part + tl.arange(0, _ROWS)
        largest = tl.full([_ROWS], -float("inf"), tl.float32)
        total = tl.zeros([_ROWS], tl.float32)
        neighbours = tl.zeros([_ROWS], tl.int32)
        result = tl.zeros([_ROWS, BLOCK_VALUE_CHANNELS], tl.float32)
        for first in tl.range(0, nodes, _NODES, num_stages=1, disable_licm=True):
            selected, score = exact_scores(
                q, k, graph, bias, row, rows, first, nodes, channels, channel_stride, scale, HAS_BIAS, BLOCK_CHANNELS
            )
            new_largest = tl.maximum(largest, tl.max(score, axis=1))
            origin = tl.where(new_largest == -float("inf"), 0.0, new_largest)
            weight = tl.exp2(score - origin[:, None])
            rescale = tl.exp2(largest - origin)
            largest = new_largest
            total = total * rescale + tl.sum(weight, axis=1)
            neighbours += tl.sum(selected.to(tl.int32), axis=1)
            node = first + tl.arange(0, _NODES)
            v_block = load_rows(v + node[:, None] * value_stride, value, node < nodes, value_channels)
            finite = tl.where(v_block - v_block == 0, v_block, 0.0)
            result = tl.dot(weight.to(v_block.dtype), finite, result * rescale[:, None], input_precision="ieee")
        result /= total[:, None]

        for kind in tl.range(_POSITIVE, _WEIGHTLESS + 1, num_stages=1, disable_licm=True):
            count = tl.zeros([_ROWS, BLOCK_VALUE_CHANNELS], tl.float32)
            for first in tl.range(0, nodes, _NODES, num_stages=1, disable_licm=True):
                selected, score = exact_scores(
                    q, k, graph, bias, row, rows, first, nodes, channels, channel_stride, scale, HAS_BIAS,
                    BLOCK_CHANNELS,
                )  # fmt: skip
                node = first + tl.arange(0, _NODES)
                v_block = load_rows(v + node[:, None] * value_stride, value, node < nodes, value_channels)
                counted = is_counted(kind, selected, score).to(v_block.dtype)
                found = is_of_kind(kind, v_block).to(v_block.dtype)
                count = tl.dot(counted, found, count, input_precision="ieee")
            result += tl.where(count > 0, contribution(kind), 0.0)

        result = tl.where((neighbours == 0)[:, None], 0.0, result)
        tl.store(
            output + row[:, None] * value_stride + value[None, :],
            result.to(output.dtype.element_ty),
            mask=(row < rows)[:, None] & (value[None, :] < value_channels),
        )


@triton.jit
def exact_scores(
    q,
    k,
    graph,
    bias,
    row,
    rows,
    first,
    nodes,
    channels,
    channel_stride,
    scale,
    HAS_BIAS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Return which nodes from `first` on each row selects, and their scores in units of log2, -inf for the others."""
    in_rows = row < rows
    node = first + tl.arange(0, _NODES)
    score = tl.zeros([_ROWS, _NODES], tl.float32)
    for first_channel in tl.range(0, channels, BLOCK_CHANNELS, num_stages=1, disable_licm=True):
        channel = first_channel + tl.arange(0, BLOCK_CHANNELS)
        q_part = load_rows(q + row[:, None] * channel_stride, channel, in_rows, channels)
        k_part = load_rows(k + node[:, None] * channel_stride, channel, node < nodes, channels)
        score = tl.dot(q_part, k_part.T, score, input_precision="ieee")
    score *= scale * LOG2_E
    if HAS_BIAS:
        score += load_rows(bias + row[:, None].to(tl.int64) * nodes, node, in_rows, nodes).to(tl.float32) * LOG2_E
    words = load_words(graph + row * ((nodes + 31) // 32), in_rows, first, nodes, _NODES)
    selected = mask_of(words, _ROWS, _NODES) >= 0
    return selected, tl.where(selected, score, -float("inf"))


@triton.jit
def is_of_kind(kind, v):
    """Return where v has the values that a pass looks for."""
    infinite = tl.where(kind == _NEGATIVE, v == -float("inf"), v == float("inf"))
    infinite = tl.where(kind == _WEIGHTLESS, tl.abs(v) == float("inf"), infinite)
    return tl.where(kind == _UNDEFINED, v != v, infinite)


@triton.jit
def is_counted(kind, selected, score):
    """Return which nodes of a row the pass counts: selected ones, for infinities with or without a weight above 0."""
    has_weight = score > -float("inf")
    return selected & ((kind == _UNDEFINED) | tl.where(kind == _WEIGHTLESS, has_weight == 0, has_weight))


@triton.jit
def contribution(kind):
    """Return what such a value adds to the result; 0 * inf is NaN."""
    infinity = tl.where(kind == _NEGATIVE, -float("inf"), float("inf"))
    return tl.where(kind >= _UNDEFINED, float("nan"), infinity)
