"""KeyGraph: similarities on tensor cores, a search for the k-th largest of each row, then the bits.

Two kernels. *Resident*: a block of rows with all of its similarities in registers. *Streamed*, for windows of any size:
the similarities are recomputed for every step of the search, which tests three pivots at a time. Neither stores
similarities in global memory.

The search counts, for a pivot in each row, the similarities that are at least the pivot. The first pivot is the
expected k-th largest of N normal numbers with the row's mean and deviation; the next ones are interpolated. The bracket
around the k-th value is stored as integers in the order of the floats, so that bisection ends after 32 steps for any
similarities. benchmarks/key_graph_search.py counts the steps.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Keys are int32 in the order of the similarities: NaN < -inf < ... < inf. -0 and +0 are two keys with the same count.
_NAN = tl.constexpr(-0x7F800002)
_PAST_INFINITY = tl.constexpr(0x7F800001)

#: Steps with interpolated pivots only; after them every second step bisects the bracket.
_FREE_STEPS = tl.constexpr(8)
#: The same for the streamed kernel, whose steps are passes over the nodes with three pivots.
_FREE_PASSES = tl.constexpr(6)


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
    """Compute BLOCK_ROWS rows of a window of at most BLOCK_NODES nodes per program.

    Parameters
    ----------
    query, key, k, graph, rows, nodes, channels
        The kernel's parameters in docs/reference/kernels.md.
    CHANNEL_MULTIPLE
        `channels` is a multiple of it.
    BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS
        Block sizes, powers of two.
    """
    channels = channels // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    row, window = rows_of_program(rows, BLOCK_ROWS)
    node = interleaved_nodes(BLOCK_NODES)
    query_rows = query + window * rows * channels + tl.minimum(row, rows - 1)[:, None] * channels
    key_rows = key + window * nodes * channels
    similarity = similarities(query_rows, key_rows, node, nodes, channels, BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS)
    wanted = neighbours(k, nodes)
    # Adds 0, which the compiler cannot know: otherwise it computes everything that depends on the nodes before the
    # product, and spills registers during it.
    node += tl.minimum(wanted, 0)
    in_window = (node < nodes)[None, :]
    if nodes < BLOCK_NODES:
        similarity = tl.where(in_window, similarity, 0.0)
    expected, spacing = expect(tl.sum(similarity, axis=1), tl.sum(similarity * similarity, axis=1), wanted, nodes)
    if nodes < BLOCK_NODES:
        similarity = tl.where(in_window, similarity, float("nan"))
    low, low_count, high, high_count = search(similarity, expected, spacing, wanted, nodes, BLOCK_ROWS)

    tied, above, remaining = threshold(low, low_count, high, high_count, wanted)
    words = pack_interleaved(similarity >= above[:, None], BLOCK_ROWS, BLOCK_NODES)
    if tl.max(remaining, axis=0) != 0:
        end = end_of_ties(similarity, tied, remaining, node, nodes, BLOCK_ROWS)
        words |= pack_interleaved(
            equal(similarity, tied[:, None]) & (node[None, :] < end[:, None]), BLOCK_ROWS, BLOCK_NODES
        )
    store_words(graph, words, window, row, rows, 0, nodes, BLOCK_NODES)


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
    """Compute BLOCK_ROWS rows per program, in steps of BLOCK_NODES nodes.

    Parameters
    ----------
    query, key, k, graph, rows, nodes, channels
        The kernel's parameters in docs/reference/kernels.md.
    CHANNEL_MULTIPLE
        `channels` is a multiple of it.
    BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS
        Block sizes, powers of two.
    """
    channels = channels // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    row, window = rows_of_program(rows, BLOCK_ROWS)
    block_node = tl.arange(0, BLOCK_NODES)
    query_rows = query + window * rows * channels + tl.minimum(row, rows - 1)[:, None] * channels
    key_rows = key + window * nodes * channels
    wanted = neighbours(k, nodes)

    total = tl.zeros([BLOCK_ROWS], tl.float32)
    squares = tl.zeros([BLOCK_ROWS], tl.float32)
    for first in range(0, nodes, BLOCK_NODES):
        similarity = similarities(
            query_rows,
            key_rows,
            first + block_node,
            nodes,
            channels,
            BLOCK_ROWS,
            BLOCK_NODES,
            BLOCK_CHANNELS,
        )
        total += tl.sum(similarity, axis=1)
        squares += tl.sum(similarity * similarity, axis=1)
    expected, spacing = expect(total, squares, wanted, nodes)

    low, low_count, high, high_count = bracket_of_all(nodes, BLOCK_ROWS)
    step = 0
    while tl.max(distance(low, low_count, high, high_count, wanted), axis=0) > 0:
        # One pivot at the expected k-th value, and one on either side of it.
        margin = tl.sqrt(tl.minimum(low_count - wanted, wanted - high_count)) - 0.5
        turn = tl.where(step < _FREE_PASSES, 1, step)
        pivot_0 = choose_pivot(
            low, low_count, high, high_count, expected, spacing, wanted, wanted + margin, 1, turn, step
        )
        pivot_1 = choose_pivot(low, low_count, high, high_count, expected, spacing, wanted, wanted, 2, turn, step)
        pivot_2 = choose_pivot(
            low, low_count, high, high_count, expected, spacing, wanted, wanted - margin, 3, turn, step
        )
        count_0 = tl.zeros([BLOCK_ROWS], tl.float32)
        count_1 = tl.zeros([BLOCK_ROWS], tl.float32)
        count_2 = tl.zeros([BLOCK_ROWS], tl.float32)
        for first in range(0, nodes, BLOCK_NODES):
            node = first + block_node
            similarity = similarities(
                query_rows, key_rows, node, nodes, channels, BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS
            )
            similarity = tl.where((node < nodes)[None, :], similarity, float("nan"))
            count_0 += count(similarity, pivot_0)
            count_1 += count(similarity, pivot_1)
            count_2 += count(similarity, pivot_2)
        low, low_count, high, high_count = narrow(pivot_0, count_0, wanted, low, low_count, high, high_count)
        low, low_count, high, high_count = narrow(pivot_1, count_1, wanted, low, low_count, high, high_count)
        low, low_count, high, high_count = narrow(pivot_2, count_2, wanted, low, low_count, high, high_count)
        step += 1

    tied, above, remaining = threshold(low, low_count, high, high_count, wanted)
    for first in range(0, nodes, BLOCK_NODES):
        node = first + block_node
        similarity = similarities(query_rows, key_rows, node, nodes, channels, BLOCK_ROWS, BLOCK_NODES, BLOCK_CHANNELS)
        in_window = (node < nodes)[None, :]
        selected = (in_window & (similarity >= above[:, None])).to(tl.int32)
        if tl.max(remaining, axis=0) > 0:
            is_tied = (in_window & equal(similarity, tied[:, None])).to(tl.int32)
            place = tl.cumsum(is_tied, axis=1)
            selected += is_tied * (place <= remaining[:, None]).to(tl.int32)
            remaining -= tl.minimum(tl.sum(is_tied, axis=1), remaining)
        store_words(graph, pack(selected, BLOCK_ROWS, BLOCK_NODES), window, row, rows, first, nodes, BLOCK_NODES)


@triton.jit
def rows_of_program(rows, BLOCK_ROWS: tl.constexpr):
    """Return the program's rows, and its window (int64)."""
    row_blocks = tl.cdiv(rows, BLOCK_ROWS)
    block = tl.program_id(0)
    return block % row_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS), (block // row_blocks).to(tl.int64)


@triton.jit
def neighbours(k, nodes):
    """Return the number of nodes that a row selects: k, at least 1 and at most `nodes`."""
    return tl.minimum(tl.maximum(tl.load(k), 1), nodes.to(tl.int64)).to(tl.int32)


@triton.jit
def similarities(
    query_rows,
    key_rows,
    node,
    nodes,
    channels,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Return the products, float32[BLOCK_ROWS, BLOCK_NODES]. Columns past the last node hold the last node's."""
    similarity = tl.zeros([BLOCK_ROWS, BLOCK_NODES], tl.float32)
    # Without nodes there is no key to load.
    for first in range(0, tl.where(nodes > 0, channels, 0), BLOCK_CHANNELS):
        channel = first + tl.arange(0, BLOCK_CHANNELS)
        in_channels = channel[None, :] < channels
        query_block = tl.load(query_rows + channel[None, :], mask=in_channels, other=0.0)
        key_block = tl.load(
            key_rows + tl.minimum(node, nodes - 1)[:, None] * channels + channel[None, :], mask=in_channels, other=0.0
        )
        similarity = tl.dot(query_block, key_block.T, similarity, input_precision="ieee")
    return similarity


@triton.jit
def search(similarity, expected, spacing, wanted, nodes, BLOCK_ROWS: tl.constexpr):
    """Find the bracket of each row's k-th similarity, in at most 72 steps.

    `similarity` is NaN past the last node. All rows of the block take as many steps as the slowest. Returns low,
    low_count, high, high_count.
    """
    low, low_count, high, high_count = bracket_of_all(nodes, BLOCK_ROWS)
    step = 0
    farthest = tl.max(distance(low, low_count, high, high_count, wanted), axis=0)
    while farthest > 0:
        turn = tl.where(step < _FREE_STEPS, 1, step % 4)
        # If one node is too many or missing, the next value in the row is the right pivot.
        if (turn == 3) | ((turn == 1) & (farthest == 1)):
            pivot = next_value(similarity, low, low_count, high, high_count, wanted)
        else:
            pivot = choose_pivot(low, low_count, high, high_count, expected, spacing, wanted, wanted, 2, turn, step)
        low, low_count, high, high_count = narrow(
            pivot, count(similarity, pivot), wanted, low, low_count, high, high_count
        )
        farthest = tl.max(distance(low, low_count, high, high_count, wanted), axis=0)
        step += 1
    return low, low_count, high, high_count


@triton.jit
def expect(total, squares, wanted, nodes):
    """Return the expected k-th largest of N normal numbers, and the expected spacing of the numbers there.

    Both follow from the row's sum and sum of squares. The normal quantile: Abramowitz and Stegun, 26.2.23, to 4.5e-4.
    """
    inverse = 1.0 / nodes.to(tl.float32)
    mean = total * inverse
    deviation = tl.sqrt(tl.maximum(squares * inverse - mean * mean, 0.0))
    share = tl.maximum(wanted.to(tl.float32), 0.5) * inverse
    tail = tl.maximum(tl.minimum(share, 1.0 - share), 0.5 * inverse)
    t = tl.sqrt(-2.0 * tl.log(tail))
    z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    density = tl.exp(-0.5 * z * z) * 0.3989423
    z = tl.where(share > 0.5, -z, z)
    # k = N: only NaN is below -inf.
    expected = tl.where(wanted == nodes, float("-inf"), mean + z * deviation)
    return expected, deviation * inverse / density


@triton.jit
def bracket_of_all(nodes, BLOCK_ROWS: tl.constexpr):
    """Return the bracket with all nodes >= low and none >= high: low, low_count, high, high_count."""
    none = tl.zeros([BLOCK_ROWS], tl.float32)
    return (
        tl.full([BLOCK_ROWS], _NAN, tl.int32),
        none + nodes.to(tl.float32),
        tl.full([BLOCK_ROWS], _PAST_INFINITY, tl.int32),
        none,
    )


@triton.jit
def key_of(number):
    """Map floats other than NaN to integers of the same order."""
    bits = number.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def number_of(key):
    """Undo `key_of`; keys outside the floats' range give NaN."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def count(similarity, pivot):
    """Return how many similarities of each row are at least its pivot, as float32, whose sum is faster than int32's."""
    return tl.sum(tl.where(similarity >= number_of(pivot)[:, None], 1.0, 0.0), axis=1)


@triton.jit
def equal(similarity, number):
    """Return whether similarities equal a number; NaN equals NaN."""
    return (similarity == number) | ((similarity != similarity) & (number != number))


@triton.jit
def distance(low, low_count, high, high_count, wanted):
    """Return the number of nodes between the k-th value and the nearer end of the bracket; 0 if the row is done.

    A row is done when exactly `wanted` nodes are >= low, or the bracket holds a single value. An initial end of the
    bracket counts as far away.
    """
    above = tl.where(low == _NAN, 1e9, low_count - wanted)
    below = tl.where(high == _PAST_INFINITY, 1e9, wanted - high_count)
    return tl.where(high - low == 1, 0.0, tl.minimum(above, below))


@triton.jit
def choose_pivot(low, low_count, high, high_count, expected, spacing, wanted, aim, quarters, turn, step):
    """Return a key between low and high, of a value that `aim` nodes are expected to reach.

    By interpolation between the ends of the bracket; from the only known end, by the spacing of normal numbers, with a
    step that grows every time. On every second turn, and if that gives no number, `quarters` quarters of the way from
    low to high as integers.
    """
    smallest = number_of(low)
    largest = number_of(high)
    share = (low_count - aim) / (low_count - high_count)
    inside = smallest + (largest - smallest) * share
    no_low = low == _NAN
    no_high = high == _PAST_INFINITY
    start = tl.where(no_low, tl.where(no_high, expected, largest), smallest)
    excess = tl.where(no_low, tl.where(no_high, wanted - aim, high_count - aim - 2), low_count - aim + 2)
    reach = tl.exp2(tl.minimum(step, 30).to(tl.float32)) * 0.625
    outside = start + spacing * excess * tl.where(step == 0, 1.0, reach)
    number = tl.where(no_low | no_high, outside, inside)

    way = (high - low).to(tl.uint32, bitcast=True)  # may exceed int32
    middle = low + (way // 4 * quarters + way % 4 * quarters // 4).to(tl.int32, bitcast=True)
    pivot = tl.where((turn % 2 == 0) | (number != number), middle, key_of(number))
    return tl.maximum(low + 1, tl.minimum(high - 1, pivot))


@triton.jit
def next_value(similarity, low, low_count, high, high_count, wanted):
    """Return the pivot that moves the nearer end of the bracket past the next value in the row.

    Distances from that end are computed as floats and compared as unsigned integers, so that values outside the
    bracket, whose distance is negative, and NaN compare largest. Distances are exact near the end; elsewhere an inexact
    one still gives a valid pivot.
    """
    from_low = low_count - wanted <= wanted - high_count
    sign = tl.where(from_low, 1.0, -1.0)
    end = tl.where(from_low, number_of(low), -number_of(high - 1))
    apart = similarity * sign[:, None] - end[:, None]
    nearest = tl.min(apart.to(tl.uint32, bitcast=True), axis=1).to(tl.float32, bitcast=True)
    pivot = key_of((end + nearest) * sign) + from_low.to(tl.int32)
    return tl.maximum(low + 1, tl.minimum(high - 1, pivot))


@triton.jit
def narrow(pivot, count, wanted, low, low_count, high, high_count):
    """Return the bracket narrowed by a pivot's count; a pivot outside the bracket does not change it."""
    rises = (count >= wanted) & (pivot > low)
    falls = (count < wanted) & (pivot < high)
    return (
        tl.where(rises, pivot, low),
        tl.where(rises, count, low_count),
        tl.where(falls, pivot, high),
        tl.where(falls, count, high_count),
    )


@triton.jit
def threshold(low, low_count, high, high_count, wanted):
    """Return the k-th value, the value from which on all nodes are selected, and how many tied nodes to add."""
    exact = (low_count == wanted) & (low != _NAN)
    return (
        number_of(low),
        number_of(tl.where(exact, low, high)),
        tl.where(exact, 0, wanted - high_count.to(tl.int32)),
    )


@triton.jit
def end_of_ties(similarity, tied, remaining, node, nodes, BLOCK_ROWS: tl.constexpr):
    """Return the node before which the `remaining` first ones of each row's tied nodes are, found by bisection."""
    begin = tl.zeros([BLOCK_ROWS], tl.int32)
    end = tl.zeros([BLOCK_ROWS], tl.int32) + nodes
    while tl.max(end - begin, axis=0) > 1:
        middle = (begin + end) // 2
        before = equal(similarity, tied[:, None]) & (node[None, :] < middle[:, None])
        enough = tl.sum(before.to(tl.int32), axis=1) >= remaining
        end = tl.where(enough, middle, end)
        begin = tl.where(enough, begin, middle)
    return tl.where(remaining == 0, 0, end)


@triton.jit
def interleaved_nodes(BLOCK_NODES: tl.constexpr):
    """Return the nodes in an order in which every thread holds whole words.

    Of a product on tensor cores a thread holds every 4 W-th pair of columns, W being the number of warps; so the pairs
    of a word are BLOCK_NODES / 32 pairs apart. The result does not depend on the order.
    """
    WORDS: tl.constexpr = BLOCK_NODES // 32
    place = tl.arange(0, BLOCK_NODES)
    pair = place // 2
    return pair % WORDS * 32 + pair // WORDS * 2 + place % 2


@triton.jit
def pack_interleaved(selected, BLOCK_ROWS: tl.constexpr, BLOCK_NODES: tl.constexpr):
    """Pack bool[BLOCK_ROWS, BLOCK_NODES], whose columns are `interleaved_nodes`, into words."""
    WORDS: tl.constexpr = BLOCK_NODES // 32
    bits = tl.reshape(selected.to(tl.int32), [BLOCK_ROWS, 16, WORDS, 2])
    bits <<= (2 * tl.arange(0, 16)[:, None, None] + tl.arange(0, 2)[None, None, :])[None, :, :, :]
    return tl.sum(tl.sum(bits, axis=3), axis=1)


@triton.jit
def pack(selected, BLOCK_ROWS: tl.constexpr, BLOCK_NODES: tl.constexpr):
    """Pack int32[BLOCK_ROWS, BLOCK_NODES] of 0 and 1 into words."""
    bits = tl.reshape(selected, [BLOCK_ROWS, BLOCK_NODES // 32, 32])
    return tl.sum(bits << tl.arange(0, 32)[None, None, :], axis=2)


@triton.jit
def store_words(graph, words, window, row, rows, first, nodes, BLOCK_NODES: tl.constexpr):
    """Store a block's words, the first of which belongs to node `first`."""
    row_words = (nodes + 31) // 32
    word = first // 32 + tl.arange(0, BLOCK_NODES // 32)
    place = (window * rows + row)[:, None] * row_words + word[None, :]
    tl.store(graph + place, words, mask=(row < rows)[:, None] & (word < row_words)[None, :])
