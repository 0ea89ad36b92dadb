"""Operations on the graph's words: bits of existing nodes, number of set bits, and the mask for scores."""

from __future__ import annotations

import triton
import triton.language as tl

#: Triton's interpreter cannot run inline assembly.
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def bits_of_nodes(word, nodes):
    """Return int32 with the bits of a word set that belong to nodes."""
    left = nodes - word * 32
    return tl.where(left >= 32, -1, (1 << tl.minimum(tl.maximum(left, 0), 31)) - 1)


@triton.jit
def count_bits(bits):
    """Return the number of set bits of each uint32, as int32 (Warren, Hacker's Delight, 5-1)."""
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return ((bits * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def permute_bytes(low, high, selector):
    """Return int32 made of four bytes of `low` (0 to 3) and `high` (4 to 7), each selected by four bits of `selector`.

    The highest of the four bits selects eight copies of the byte's sign instead (PTX ISA, `prmt`). The three are
    broadcast against each other.
    """
    if _INTERPRETED:
        selector += tl.zeros_like(low)
        bytes_ = ((tl.zeros_like(selector) + high).to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)
        result = tl.zeros_like(bytes_)
        for place in tl.static_range(4):
            choice = (selector >> 4 * place) & 15
            byte = (bytes_ >> (choice & 7).to(tl.int64) * 8) & 0xFF
            result |= tl.where(choice >= 8, (byte >> 7) * 0xFF, byte) << 8 * place
        return result.to(tl.int32)
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, selector], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def load_words(graph_rows, in_rows, first, nodes, BLOCK_NODES: tl.constexpr):
    """Load int32[rows, BLOCK_NODES / 32] of the graph from node `first` on, without the bits past the last node."""
    word = first // 32 + tl.arange(0, BLOCK_NODES // 32)
    words = tl.load(graph_rows[:, None] + word[None, :], mask=in_rows[:, None] & (word * 32 < nodes)[None, :], other=0)
    return words & bits_of_nodes(word, nodes)[None, :]


@triton.jit
def mask_of(words, BLOCK_ROWS: tl.constexpr, BLOCK_NODES: tl.constexpr):
    """Return float32[BLOCK_ROWS, BLOCK_NODES]: -inf where the row does not select the node, 2^-126 where it does.

    One instruction per element. -inf is nine ones followed by zeros: the inverted bit of a node is moved to the sign of
    its byte, which is then copied to the highest eight bits; the ninth bit is always set.
    """
    bit = tl.arange(0, 32)[None, None, :]
    signs = ~words[:, :, None] << (7 - bit % 8)
    # From the highest byte down: the sign of byte bit // 8, then bytes 1, 0 and 0 of 0x8000.
    mask = permute_bytes(signs, 0x8000, 0x8544 + (bit // 8 << 12))
    return tl.reshape(mask, [BLOCK_ROWS, BLOCK_NODES]).to(tl.float32, bitcast=True)
