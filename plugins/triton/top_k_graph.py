"""TopKGraph: the k largest scores of each row to the bits of the graph, by the search of KeyGraph.

Two kernels, as of KeyGraph. *Resident*: a block of rows with all of its scores in registers. *Streamed*, for rows of
any length: every step of the search reads the scores again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .key_graph import (
    bracket_of_all,
    choose_pivot,
    count,
    distance,
    end_of_ties,
    equal,
    expect,
    narrow,
    neighbours,
    pack,
    rows_of_program,
    search,
    store_words,
    threshold,
)

#: Passes with interpolated pivots only; after them every second pass bisects the bracket.
_FREE_PASSES = tl.constexpr(6)


@triton.jit(do_not_specialize=["rows", "nodes"])
def top_k_graph_resident(
    scores,
    k,
    graph,
    rows,
    nodes,
    CHANNEL_MULTIPLE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
):
    """Compute BLOCK_ROWS rows of at most BLOCK_NODES nodes per program.

    Parameters
    ----------
    scores, k, graph, rows, nodes
        The kernel's parameters in docs/reference/kernels.md.
    CHANNEL_MULTIPLE
        `nodes`, the row length of the scores, is a multiple of it.
    BLOCK_ROWS, BLOCK_NODES
        Block sizes, powers of two, at least 32 nodes.
    """
    nodes = nodes // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    row, window = rows_of_program(rows, BLOCK_ROWS)
    node = tl.arange(0, BLOCK_NODES)
    wanted = neighbours(k, nodes)
    score = scores_of(scores, row, window, node, rows, nodes)
    total, squares = moments(score)
    expected, spacing = expect(total, squares, wanted, nodes)
    low, low_count, high, high_count = search(score, expected, spacing, wanted, nodes, BLOCK_ROWS)

    tied, above, remaining = threshold(low, low_count, high, high_count, wanted)
    selected = score >= above[:, None]
    if tl.max(remaining, axis=0) != 0:
        end = end_of_ties(score, tied, remaining, node, nodes, BLOCK_ROWS)
        selected |= equal(score, tied[:, None]) & (node[None, :] < end[:, None])
    words = pack(selected.to(tl.int32), BLOCK_ROWS, BLOCK_NODES)
    store_words(graph, words, window, row, rows, 0, nodes, BLOCK_NODES)


@triton.jit(do_not_specialize=["rows", "nodes"])
def top_k_graph_streamed(
    scores,
    k,
    graph,
    rows,
    nodes,
    CHANNEL_MULTIPLE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_NODES: tl.constexpr,
):
    """Compute BLOCK_ROWS rows per program, in steps of BLOCK_NODES nodes.

    Parameters
    ----------
    scores, k, graph, rows, nodes
        The kernel's parameters in docs/reference/kernels.md.
    CHANNEL_MULTIPLE
        `nodes`, the row length of the scores, is a multiple of it.
    BLOCK_ROWS, BLOCK_NODES
        Block sizes, powers of two, at least 32 nodes.
    """
    nodes = nodes // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE
    row, window = rows_of_program(rows, BLOCK_ROWS)
    block_node = tl.arange(0, BLOCK_NODES)
    wanted = neighbours(k, nodes)

    total = tl.zeros([BLOCK_ROWS], tl.float32)
    squares = tl.zeros([BLOCK_ROWS], tl.float32)
    for first in range(0, nodes, BLOCK_NODES):
        added, added_squares = moments(scores_of(scores, row, window, first + block_node, rows, nodes))
        total += added
        squares += added_squares
    expected, spacing = expect(total, squares, wanted, nodes)

    low, low_count, high, high_count = bracket_of_all(nodes, BLOCK_ROWS)
    step = 0
    while tl.max(distance(low, low_count, high, high_count, wanted), axis=0) > 0:
        turn = tl.where(step < _FREE_PASSES, 1, step)
        pivot = choose_pivot(low, low_count, high, high_count, expected, spacing, wanted, wanted, 2, turn, step)
        reached = tl.zeros([BLOCK_ROWS], tl.float32)
        for first in range(0, nodes, BLOCK_NODES):
            reached += count(scores_of(scores, row, window, first + block_node, rows, nodes), pivot)
        low, low_count, high, high_count = narrow(pivot, reached, wanted, low, low_count, high, high_count)
        step += 1

    tied, above, remaining = threshold(low, low_count, high, high_count, wanted)
    for first in range(0, nodes, BLOCK_NODES):
        node = first + block_node
        score = scores_of(scores, row, window, node, rows, nodes)
        selected = (score >= above[:, None]).to(tl.int32)
        if tl.max(remaining, axis=0) > 0:
            is_tied = ((node < nodes)[None, :] & equal(score, tied[:, None])).to(tl.int32)
            place = tl.cumsum(is_tied, axis=1)
            selected += is_tied * (place <= remaining[:, None]).to(tl.int32)
            remaining -= tl.minimum(tl.sum(is_tied, axis=1), remaining)
        store_words(graph, pack(selected, BLOCK_ROWS, BLOCK_NODES), window, row, rows, first, nodes, BLOCK_NODES)


@triton.jit
def scores_of(scores, row, window, node, rows, nodes):
    """Load a block of scores, float32[rows, nodes]: NaN past the last node; rows past the last one repeat it."""
    place = window * rows + tl.minimum(row, rows - 1)
    score = tl.load(scores + place[:, None] * nodes + node[None, :], mask=(node < nodes)[None, :], other=float("nan"))
    return score.to(tl.float32)


@triton.jit
def moments(score):
    """Return the sum and the sum of squares of each row's numbers."""
    number = tl.where(score == score, score, 0.0)
    return tl.sum(number, axis=1), tl.sum(number * number, axis=1)
