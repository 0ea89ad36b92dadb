"""KeyGraph: similarities on tensor cores, the k-th largest of each row by a search on their order, then the bits.

Two forms. *Resident*: a block of rows with all of its similarities in registers. *Streamed*, for windows of any size:
the similarities are computed again for every step of the search, which looks at three pivots at a time. No similarity
is ever in global memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Keys are int32 in the order of the similarities: padding < NaN < -inf < ... < inf.
_PADDING = tl.constexpr(-(2**31))
_NAN = tl.constexpr(-(2**31) + 1)
_INT_MAX = tl.constexpr(2**31 - 1)


@triton.jit(do_not_specialize=["rows", "nodes", "channels"])
def key_graph_resident(
    query,
    key,
    k,
    graph,
    rows,
    nodes,
    channels,
    CHANNEL_MULTIPLE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """One program: BLOCK_ROWS rows of a window of at most BLOCK_NODES nodes. Parameters as in docs/gpu.md."""
    channels = channels // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    row, window = rows_of_program(rows, BLOCK_ROWS)
    node = tl.arange(0, BLOCK_NODES)
    query_rows = query + window * rows * channels + row[:, None] * channels
    key_rows = key + window * nodes * channels
    keys = similarity_keys(
        query_rows, key_rows, row < rows, node, nodes, channels, BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS
    )

    wanted = neighbours(k, nodes)
    # At least `wanted` keys are >= low, fewer than `wanted` are >= high.
    low = tl.min(tl.where(keys == _PADDING, _INT_MAX, keys), axis=1)
    high = tl.max(keys, axis=1) + 1
    low_count = tl.full([BLOCK_ROWS], 0, tl.int32) + nodes
    high_count = tl.zeros([BLOCK_ROWS], tl.int32)
    step = 0
    searching = search_goes_on(low, high, low_count, wanted)
    while tl.max(searching.to(tl.int32), axis=0) != 0:
        pivot = choose_pivot(low, high, low_count, high_count, wanted.to(tl.float32), 2, step)
        count = tl.sum((keys >= pivot[:, None]).to(tl.int32), axis=1)
        low, low_count, high, high_count = narrow(searching, pivot, count, wanted, low, low_count, high, high_count)
        searching = search_goes_on(low, high, low_count, wanted)
        step += 1

    tied, above, remaining = threshold(low, low_count, high, high_count, wanted)
    # Among nodes that tie at the k-th key the first ones are taken: those before `end`, found by halving.
    end = tl.zeros([BLOCK_ROWS], tl.int32)
    if tl.max(remaining, axis=0) != 0:
        begin = tl.zeros([BLOCK_ROWS], tl.int32)
        end = tl.zeros([BLOCK_ROWS], tl.int32) + nodes
        while tl.max(end - begin, axis=0) > 1:
            middle = (begin + end) // 2
            before = tl.sum(((keys == tied[:, None]) & (node[None, :] < middle[:, None])).to(tl.int32), axis=1)
            enough = before >= remaining
            end = tl.where(enough, middle, end)
            begin = tl.where(enough, begin, middle)
        end = tl.where(remaining == 0, 0, end)
    selected = (keys >= above[:, None]) | ((keys == tied[:, None]) & (node[None, :] < end[:, None]))
    store_bits(graph, selected, window, row, rows, 0, nodes, BLOCK_ROWS, BLOCK_NODES)


@triton.jit(do_not_specialize=["rows", "nodes", "channels"])
def key_graph_streamed(
    query,
    key,
    k,
    graph,
    rows,
    nodes,
    channels,
    CHANNEL_MULTIPLE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """One program: BLOCK_ROWS rows, BLOCK_NODES nodes at a time. Parameters as in docs/gpu.md."""
    channels = channels // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    row, window = rows_of_program(rows, BLOCK_ROWS)
    in_rows = row < rows
    block_node = tl.arange(0, BLOCK_NODES)
    query_rows = query + window * rows * channels + row[:, None] * channels
    key_rows = key + window * nodes * channels
    wanted = neighbours(k, nodes)

    low = tl.full([BLOCK_ROWS], _INT_MAX, tl.int32)
    high = tl.full([BLOCK_ROWS], _PADDING, tl.int32)
    for first in range(0, nodes, BLOCK_NODES):
        keys = similarity_keys(
            query_rows,
            key_rows,
            in_rows,
            first + block_node,
            nodes,
            channels,
            BLOCK_ROWS,
            BLOCK_NODES,
            BLOCK_CHANNELS,
        )
        low = tl.minimum(low, tl.min(tl.where(keys == _PADDING, _INT_MAX, keys), axis=1))
        high = tl.maximum(high, tl.max(keys, axis=1))
    high += 1
    low_count = tl.zeros([BLOCK_ROWS], tl.int32) + nodes
    high_count = tl.zeros([BLOCK_ROWS], tl.int32)

    step = 0
    searching = search_goes_on(low, high, low_count, wanted)
    while tl.max(searching.to(tl.int32), axis=0) != 0:
        # One where the k-th is expected, and one at either side of it.
        margin = (low_count - high_count).to(tl.float32) * 0.125
        aim = wanted.to(tl.float32)
        pivot_0 = choose_pivot(low, high, low_count, high_count, aim + margin, 1, step)
        pivot_1 = choose_pivot(low, high, low_count, high_count, aim, 2, step)
        pivot_2 = choose_pivot(low, high, low_count, high_count, aim - margin, 3, step)
        count_0 = tl.zeros([BLOCK_ROWS], tl.int32)
        count_1 = tl.zeros([BLOCK_ROWS], tl.int32)
        count_2 = tl.zeros([BLOCK_ROWS], tl.int32)
        for first in range(0, nodes, BLOCK_NODES):
            keys = similarity_keys(
                query_rows,
                key_rows,
                in_rows,
                first + block_node,
                nodes,
                channels,
                BLOCK_ROWS,
                BLOCK_NODES,
                BLOCK_CHANNELS,
            )
            count_0 += tl.sum((keys >= pivot_0[:, None]).to(tl.int32), axis=1)
            count_1 += tl.sum((keys >= pivot_1[:, None]).to(tl.int32), axis=1)
            count_2 += tl.sum((keys >= pivot_2[:, None]).to(tl.int32), axis=1)
        low, low_count, high, high_count = narrow(searching, pivot_0, count_0, wanted, low, low_count, high, high_count)
        low, low_count, high, high_count = narrow(searching, pivot_1, count_1, wanted, low, low_count, high, high_count)
        low, low_count, high, high_count = narrow(searching, pivot_2, count_2, wanted, low, low_count, high, high_count)
        searching = search_goes_on(low, high, low_count, wanted)
        step += 1

    tied, above, remaining = threshold(low, low_count, high, high_count, wanted)
    for first in range(0, nodes, BLOCK_NODES):
        keys = similarity_keys(
            query_rows,
            key_rows,
            in_rows,
            first + block_node,
            nodes,
            channels,
            BLOCK_ROWS,
            BLOCK_NODES,
            BLOCK_CHANNELS,
        )
        selected = (keys >= above[:, None]).to(tl.int32)
        if tl.max(remaining, axis=0) > 0:
            is_tied = (keys == tied[:, None]).to(tl.int32)
            place = tl.cumsum(is_tied, axis=1)
            selected += is_tied * (place <= remaining[:, None]).to(tl.int32)
            remaining -= tl.minimum(tl.sum(is_tied, axis=1), remaining)
        store_bits(graph, selected != 0, window, row, rows, first, nodes, BLOCK_ROWS, BLOCK_NODES)


@triton.jit
def rows_of_program(rows, BLOCK_ROWS: tl.constexpr):
    """This program's rows, and its window (int64)."""
    row_blocks = tl.cdiv(rows, BLOCK_ROWS)
    block = tl.program_id(0)
    return block % row_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS), (block // row_blocks).to(tl.int64)


@triton.jit
def neighbours(k, nodes):
    """How many nodes a row keeps: k, at least 1 and at most all."""
    return tl.minimum(tl.maximum(tl.load(k), 1), nodes.to(tl.int64)).to(tl.int32)


@triton.jit
def similarity_keys(
    query_rows,
    key_rows,
    in_rows,
    node,
    nodes,
    channels,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """int32[BLOCK_ROWS, BLOCK_NODES]: the similarities' keys."""
    similarity = tl.zeros([BLOCK_ROWS, BLOCK_NODES], tl.float32)
    for first in range(0, channels, BLOCK_CHANNELS):
        channel = first + tl.arange(0, BLOCK_CHANNELS)
        in_channels = channel[None, :] < channels
        query_block = tl.load(query_rows + channel[None, :], mask=in_rows[:, None] & in_channels, other=0.0)
        key_block = tl.load(
            key_rows + node[:, None] * channels + channel[None, :],
            mask=(node < nodes)[:, None] & in_channels,
            other=0.0,
        )
        similarity = tl.dot(query_block, key_block.T, similarity, input_precision="ieee")
    return tl.where((node < nodes)[None, :], key_of(similarity), _PADDING)


@triton.jit
def key_of(number):
    """Integers in the order of the floats: -0 equals +0, NaN is below everything."""
    bits = tl.where(number == 0, 0.0, number).to(tl.int32, bitcast=True)
    return tl.where(number == number, bits ^ ((bits >> 31) & 0x7FFFFFFF), _NAN)


@triton.jit
def number_of(key):
    """Undo `key_of`."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def search_goes_on(low, high, low_count, wanted):
    """Rows whose k-th key is not known yet: no pivot has exactly `wanted` keys, and more than one key is left."""
    return (low_count != wanted) & (high - low != 1)


@triton.jit
def choose_pivot(low, high, low_count, high_count, aim, quarters, step):
    """A key between low and high: where `aim` keys are expected above it, if they are spread evenly.

    Every third time so many quarters of the way between the integers, which bounds the number of steps whatever the
    similarities are.
    """
    smallest = number_of(low)
    share = (low_count.to(tl.float32) - aim) / (low_count - high_count).to(tl.float32)
    expected = key_of(smallest + (number_of(high) - smallest) * share)
    distance = (high - low).to(tl.uint32, bitcast=True)  # which may pass int32
    way = (distance // 4 * quarters + distance % 4 * quarters // 4).to(tl.int32, bitcast=True)
    pivot = tl.where(step % 3 == 2, low + way, expected)
    return tl.maximum(low + 1, tl.minimum(high - 1, pivot))


@triton.jit
def narrow(searching, pivot, count, wanted, low, low_count, high, high_count):
    """The bracket, with what a pivot's count says; a pivot outside of it says nothing new."""
    rises = searching & (count >= wanted) & (pivot > low)
    falls = searching & (count < wanted) & (pivot < high)
    return (
        tl.where(rises, pivot, low),
        tl.where(rises, count, low_count),
        tl.where(falls, pivot, high),
        tl.where(falls, count, high_count),
    )


@triton.jit
def threshold(low, low_count, high, high_count, wanted):
    """The k-th key where nodes tie at it, the key from which on all are taken, and how many tied ones are."""
    exact = low_count == wanted
    return low, tl.where(exact, low, high), tl.where(exact, 0, wanted - high_count)


@triton.jit
def store_bits(graph, selected, window, row, rows, first, nodes, BLOCK_ROWS: tl.constexpr, BLOCK_NODES: tl.constexpr):
    """Pack bool[BLOCK_ROWS, BLOCK_NODES], whose first node is `first`, into words and write them."""
    words = (nodes + 31) // 32
    word = tl.arange(0, BLOCK_NODES // 32)
    bits = tl.reshape(selected.to(tl.int32), [BLOCK_ROWS, BLOCK_NODES // 32, 32])
    packed = tl.sum(bits << tl.arange(0, 32)[None, None, :], axis=2)
    place = (window * rows + row)[:, None] * words + (first // 32 + word)[None, :]
    tl.store(graph + place, packed, mask=(row < rows)[:, None] & (first // 32 + word < words)[None, :])
