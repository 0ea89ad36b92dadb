"""Which part of the problem a program computes, and the addresses of its tensors, for all attention kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def locate(
    rows,
    value_channels,
    heads,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_VALUE_CHANNELS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """Return the first row, value channel, head, and batch of a program (order: docs/reference/kernels.md)."""
    row_blocks = tl.cdiv(rows, BLOCK_ROWS)
    value_blocks = tl.cdiv(value_channels, BLOCK_VALUE_CHANNELS)
    head_blocks = tl.cdiv(heads, BLOCK_HEADS)
    block = tl.program_id(0)
    first_row = block % row_blocks * BLOCK_ROWS
    block = block // row_blocks
    first_value = block % value_blocks * BLOCK_VALUE_CHANNELS
    block = block // value_blocks
    return first_row, first_value, block % head_blocks * BLOCK_HEADS, block // head_blocks


@triton.jit
def base_offsets(batch, head, heads, rows, channels, value_channels, heads_last):
    """Return the offsets (int64, in elements) of a head's first row in tensors of `channels` and `value_channels`."""
    # [B, H, N, D], or [B, N, H, D] with the heads last.
    first = batch.to(tl.int64) * heads * rows + tl.where(heads_last != 0, head, head * rows)
    return first * channels, first * value_channels


@triton.jit
def bias_row(batch, head, heads, rows, bias_windows):
    """Return the row (int64) of the bias, [W, H, M, N], that belongs to a head's first row."""
    return ((batch % bias_windows).to(tl.int64) * heads + head) * rows


@triton.jit
def row_stride(channels, heads, heads_last):
    """Return the number of elements from one row of a head to the next."""
    return channels * tl.where(heads_last != 0, heads, 1)


@triton.jit
def load_rows(row_starts, column, in_rows, columns):
    """Load a block of a matrix, with zeros outside the matrix."""
    return tl.load(row_starts + column[None, :], mask=in_rows[:, None] & (column < columns)[None, :], other=0.0)
