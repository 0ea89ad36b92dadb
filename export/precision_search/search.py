"""The precision search on a traced network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import counted
from ..fp32_patterns import matching
from .bisection import find_minimal_patterns
from .measurement import Measurement

#: The search aims this much above the target, dB: verification runs on other images, and with the key graphs of the
#: half-precision side.
MARGIN_DB = 0.5


def search(
    measurement: Measurement,
    names: Sequence[str],
    patterns: Sequence[str],
    target: float,
    progress: Callable[[str], None],
) -> tuple[str, ...]:
    """Find the FP32 patterns that a network needs in addition to `patterns` to reach a PSNR.

    Parameters
    ----------
    measurement
        Measures variants of the network.
    names
        Names of its floating-point nodes, from `precision.float_nodes`.
    patterns
        FP32 patterns that apply anyway.
    target
        PSNR against FP32, dB.
    progress
        Called with a line after each variant.

    Returns
    -------
    tuple of str
        None of them can be left out; empty when nothing is missing.

    Raises
    ------
    KeygraphError
        The target is out of reach even with every block in FP32.
    """

    def reaches_target(more: Sequence[str]) -> bool:
        kept = matching(names, (*patterns, *more))
        decibels = measurement.psnr(kept)
        progress(f"precision search: {decibels:.1f} dB with {counted(len(kept), 'node')} in FP32")
        return decibels >= target + MARGIN_DB

    kept_anyway = matching(names, patterns)
    return find_minimal_patterns([name for name in names if name not in kept_anyway], reaches_target)
