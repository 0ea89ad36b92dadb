"""The cheapest set of islands: the fewest blocks in FP32 with which a file reaches its target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import KeygraphError
from ..fp32_patterns import blocks, matching

#: A test of a set of additional patterns: whether the file with these in FP32 is good enough.
Test = Callable[[Sequence[str]], bool]

#: Parts of a module's name that make a block: first stages, then the layers inside those that are needed,
#: then what a layer is made of.
DEPTHS = (2, 4, 6)


def find_islands(names: Sequence[str], test: Test) -> tuple[str, ...]:
    """Find blocks to keep in FP32, none of which can be left out.

    By halving: when one half of the candidates suffices, the other is forgotten at once; so n blocks of which m are
    needed take about m log2(n) tests. Then the same again, inside the blocks that were found, for smaller ones.

    Parameters
    ----------
    names
        Names of the nodes that compute and are not kept anyway, in the order of execution.
    test
        Takes patterns. Keeping more must not make the result worse, or the set that is found is good, but not least.

    Returns
    -------
    Patterns; empty when nothing has to be kept.

    Raises
    ------
    KeygraphError
        Not even all of them suffice.
    """
    if test(()):
        return ()
    found: list[str] = []
    for depth in DEPTHS:
        inside = names if not found else [name for name in names if name in matching(names, found)]
        candidates = blocks(inside, depth)
        if depth == DEPTHS[0] and not test(candidates):
            raise KeygraphError("the target is out of reach even with every block in FP32; ask for less: --target-psnr")
        # A block given by the name of a node is no smaller than the block that it is in.
        found = _needed(candidates, [], test)
    return tuple(found)


def _needed(candidates: Sequence[str], kept: Sequence[str], test: Test) -> list[str]:
    """The candidates that are needed besides `kept`, which alone fails; all of them with it pass."""
    if len(candidates) == 1:
        return list(candidates)
    middle = len(candidates) // 2
    left, right = candidates[:middle], candidates[middle:]
    for half in (left, right):
        if test((*kept, *half)):
            return _needed(half, kept, test)
    needed = _needed(left, (*kept, *right), test)
    if test((*kept, *needed)):
        return needed
    return needed + _needed(right, (*kept, *needed), test)
