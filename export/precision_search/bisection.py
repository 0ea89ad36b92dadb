"""A minimal set of blocks that passes a test, found by bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import KeygraphError
from ..fp32_patterns import blocks, matching

#: Tests whether the network is good enough with the nodes of these additional patterns in FP32.
Test = Callable[[Sequence[str]], bool]

#: Number of parts of a module name that make a block, coarse to fine: ``body.1``, ``body.1.layers.0``,
#: ``body.1.layers.0.ffn.reduce``.
DEPTHS = (2, 4, 6)


def find_minimal_patterns(names: Sequence[str], test: Test) -> tuple[str, ...]:
    """Find blocks to keep in FP32, none of which can be left out.

    The candidates are bisected: when one half suffices, the other half is dropped, so that finding m of n blocks takes
    about m log2(n) tests. The search is then repeated inside the blocks found, with finer blocks.

    Parameters
    ----------
    names
        Names of the floating-point nodes that are not in FP32 anyway, in the order of execution.
    test
        Takes patterns. The result is minimal only if keeping more nodes in FP32 never makes a passing test fail.

    Returns
    -------
    tuple of str
        FP32 patterns; empty when nothing has to be kept.

    Raises
    ------
    KeygraphError
        The test fails even with all nodes in FP32.
    """
    if test(()):
        return ()
    found: list[str] = []
    for depth in DEPTHS:
        inside = names if not found else [name for name in names if name in matching(names, found)]
        candidates = blocks(inside, depth)
        if depth == DEPTHS[0] and not test(candidates):
            raise KeygraphError(
                "the target PSNR is out of reach even with every block in FP32; choose a lower --target-psnr"
            )
        # A node outside any module of this depth is a block of its own and stays one at the next depth.
        found = _minimal_subset(candidates, [], test)
    return tuple(found)


def _minimal_subset(candidates: Sequence[str], kept: Sequence[str], test: Test) -> list[str]:
    """Return the candidates needed in addition to `kept`; `kept` alone fails, with all candidates it passes."""
    if len(candidates) == 1:
        return list(candidates)
    middle = len(candidates) // 2
    left, right = candidates[:middle], candidates[middle:]
    for half in (left, right):
        if test((*kept, *half)):
            return _minimal_subset(half, kept, test)
    needed = _minimal_subset(left, (*kept, *right), test)
    if test((*kept, *needed)):
        return needed
    return needed + _minimal_subset(right, (*kept, *needed), test)
