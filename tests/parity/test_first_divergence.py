"""First divergence, from block differences that are given."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from keygraph.parity import BlockDifference
from keygraph.parity.localize.first_divergence import find_first_divergence


def block(name: str, psnr: float, alone: float, **values: Any) -> BlockDifference:
    given = {"max_abs": 0.1, "largest": 1.0, "precision": "fp32", "reference_largest": 1.0, **values}
    return BlockDifference(name, psnr, over_tolerance=not psnr >= 90, alone=alone, **given)


def test_without_the_same_inputs_the_first_over_tolerance_is_named() -> None:
    blocks = [block("a", 140, math.nan), block("b", 80, math.nan), block("c", 70, math.nan)]
    found = find_first_divergence(blocks, 60, 90)
    assert (found.kind, found.block) == ("block", "b")
    assert "first block over tolerance is b" in found.words


def test_small_errors_that_a_network_amplifies() -> None:
    names = ["a.norm", "a.attn", "a.ffn", "b.norm", "b.attn", "b.ffn"]
    even = [block(name, 130 - 9 * i, 125 + i) for i, name in enumerate(names)]
    found = find_first_divergence(even, 80, 90)
    assert (found.kind, found.block) == ("rounding", None)
    assert "exceeds the tolerance in b.ffn" in found.words
    # One block that stands out, though it is within the tolerance by itself.
    one = [dataclasses.replace(b, alone=95) if b.name == "a.ffn" else b for b in even]
    found = find_first_divergence(one, 80, 90)
    assert (found.kind, found.block) == ("block", "a.ffn")


def test_what_is_not_finite_within_a_block() -> None:
    blocks = [block("a", 70, 70), block("b", math.nan, math.nan, nonfinite=1, precision="fp16")]
    found = find_first_divergence(blocks, math.nan, 50)
    assert (found.kind, found.block) == ("overflow", "b")
    assert "1 value is NaN or infinite" in found.words
    assert "so a value inside the block exceeds this" in found.words
    blocks[1] = dataclasses.replace(blocks[1], precision="fp32")
    assert (
        find_first_divergence(blocks, math.nan, 50).words
        == "the difference starts in b: 1 value is NaN or infinite there"
    )
