"""The blocks of two modules: which can be compared, and what rounding explains of each one's own error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ..metrics.blocks import EVERY_MODULE, BlockValues
from ..metrics.rounding import RoundingError
from ..results import BlockRounding
from ..rounding.expected import measure_blocks
from ..rounding.network import Arithmetic, Network
from ..sides.torch_blocks import observed
from .candidate import Candidate

Inputs = Sequence[NDArray[Any]]

#: Module's name -> its values.
Blocks = dict[str, BlockValues]


class BlockRecorder:
    """Keeps the values of the blocks that are called once.

    A module that is called several times is left out, because its calls have one name; the block that contains it
    shows its faults.
    """

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._values: Blocks = {}

    def observe(self, block: BlockValues) -> None:
        """Take one call of a block; a `BlockObserver`."""
        self._calls[block.name] += 1
        self._values[block.name] = block

    @property
    def blocks(self) -> Blocks:
        """The blocks, in the order of execution."""
        return {name: values for name, values in self._values.items() if self._calls[name] == 1 and values.inputs}


def trace_candidate(candidate: Candidate, inputs: Inputs) -> tuple[NDArray[Any], Blocks]:
    """Run a candidate that is a module and return its output and blocks.

    Parameters
    ----------
    candidate
        With a module.
    inputs
        As for `Candidate.run`.
    """
    assert candidate.module is not None
    recorder = BlockRecorder()
    with observed(candidate.module, EVERY_MODULE, recorder.observe, copies=True):
        return candidate.run(inputs), recorder.blocks


def common_blocks(candidate: Blocks, reference: Blocks) -> Blocks:
    """Return the candidate's blocks that the reference has as well, with inputs and outputs of the same shapes."""

    def shapes(block: BlockValues) -> list[tuple[int, ...]]:
        return [value.shape for value in (block.output, *block.inputs)]

    return {
        name: block
        for name, block in candidate.items()
        if name in reference and shapes(block) == shapes(reference[name])
    }


def measure(network: Network, arithmetic: Arithmetic, inputs: Inputs, blocks: Blocks) -> list[BlockRounding]:
    """Measure each block's own error, given the candidate's input of that block.

    One level of nested modules is measured at a time, so that a container computes everything inside it from its own
    input: what it computes between its modules is seen as well.

    Parameters
    ----------
    network
        The reference's.
    arithmetic
        The candidate's.
    inputs
        float32.
    blocks
        The candidate's, that are measured.

    Returns
    -------
    list of BlockRounding
        In the order of execution. Blocks are left out where the reference's values are not finite.
    """
    levels: dict[int, Blocks] = {}
    for name, block in blocks.items():
        level = sum(name.startswith(f"{other}.") for other in blocks)
        levels.setdefault(level, {})[name] = block
    errors: dict[str, RoundingError] = {}
    for part in levels.values():
        replaced = {name: block.inputs for name, block in part.items()}
        errors |= measure_blocks(network, arithmetic, inputs, None, None, part, replaced)
    return [
        BlockRounding(name, errors[name]) for name in blocks if name in errors and math.isfinite(errors[name].expected)
    ]
