"""The precision search finds a minimal set of blocks with few tests; its test is the PSNR of a variant against FP32."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence

import pytest
from keygraph.errors import KeygraphError
from keygraph.export.fp32_patterns import matching
from keygraph.export.precision_search.bisection import find_minimal_patterns
from keygraph.export.precision_search.search import MARGIN_DB, search

NAMES = [
    "head/Conv",
    *(
        f"body.{stage}.layers.{layer}.{node}"
        for stage in range(4)
        for layer in range(4)
        for node in ("norm1/LayerNormalization", "attention.qkv/Gemm", "ffn.expand/Gemm", "ffn.reduce/Gemm")
    ),
    *(f"body.{stage}.conv/Conv" for stage in range(4)),
    "tail/Conv",
    "Add",
]


@pytest.mark.parametrize("seed", range(20))
def test_the_result_suffices_and_nothing_can_be_left_out(seed: int) -> None:
    needed = set(random.Random(seed).sample(NAMES, 1 + seed % 5))
    tests = 0

    def test(patterns: Sequence[str]) -> bool:
        nonlocal tests
        tests += 1
        return needed <= matching(NAMES, patterns)

    found = find_minimal_patterns(NAMES, test)
    assert needed <= matching(NAMES, found)
    for pattern in found:
        assert not needed <= matching(NAMES, [other for other in found if other != pattern])
    # The finest blocks are the modules of a layer: no more than these are kept.
    modules = {name.rpartition("/")[0] or name for name in needed}
    assert matching(NAMES, found) == {name for name in NAMES if (name.rpartition("/")[0] or name) in modules}
    assert tests <= 3 + 3 * len(needed) * (1 + math.ceil(math.log2(len(NAMES))))


def test_nothing_is_kept_where_nothing_is_needed() -> None:
    assert find_minimal_patterns(NAMES, lambda _patterns: True) == ()


def test_a_target_out_of_reach_is_an_error() -> None:
    with pytest.raises(KeygraphError, match="out of reach even with every block in FP32; choose a lower --target-psnr"):
        find_minimal_patterns(NAMES, lambda _patterns: False)


class Measured:
    """60 dB with `needed` in FP32, else 40."""

    def __init__(self, needed: set[str]) -> None:
        self.needed = needed

    def psnr(self, kept: Collection[str]) -> float:
        return 60.0 if self.needed <= set(kept) else 40.0


def test_a_search_adds_to_the_patterns_that_apply_anyway() -> None:
    lines: list[str] = []
    measured = Measured({"head/Conv", "body.2.conv/Conv"})
    found = search(measured, NAMES, ["head"], 60.0 - MARGIN_DB, lines.append)  # type: ignore[arg-type]
    assert found == ("body.2.conv/Conv",)
    assert lines[0] == "precision search: 40.0 dB with 1 node in FP32"
    with pytest.raises(KeygraphError, match="out of reach"):
        search(measured, NAMES, ["head"], 60.0 - MARGIN_DB / 2, lines.append)  # type: ignore[arg-type]
