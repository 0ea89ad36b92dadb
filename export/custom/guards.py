"""Check what a traced program takes for granted about its sizes.

A network that takes any size, and pads its image itself, computes with remainders of sizes. torch.export cannot prove
that its program is right for all of them, and lists what it took for granted: guards. Most concern the layout in memory
and change nothing; a guard that stands for a branch in the network's code does. So every guard that does not hold for
some size is tried with such a size: the program must give there what the module gives.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ...errors import InputError
from ...instrumentation.metrics import psnr
from .trial import Trial

#: PSNR in dB of a program and its module, both in PyTorch: rounding alone stays above it.
_SAME_DB = 90.0

#: Sides that guards are evaluated for, paired with each other and with `_OTHER`. Near multiples of all usual windows.
_SIDES = (1, 2, 4, 8, 16, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 112, 127, 128, 129, 256, 511, 1024, 2049, 4096, 16384)
_OTHER = 37

#: Most pixels of an image that is tried.
_MOST_PIXELS = 1 << 18


def check_guards(program: ExportedProgram, trial: Trial, channels: int, smallest: int) -> str | None:
    """Compare a program with its module at sizes for which its guards do not hold.

    Parameters
    ----------
    program
        From `capture`, for any height and width.
    trial
        The module.
    channels
        Of its images.
    smallest
        Least height and width.

    Returns
    -------
    str or None
        The guard for which they differ, in terms of the image's height and width; None when there is none.
    """
    image = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == _image_name(program))
    batch, _, height, width = image.meta["val"].shape
    sizes = [size for size in (batch, height, width) if isinstance(size, torch.SymInt)]
    if len(sizes) < 3:
        return "its batch, height or width is fixed"
    symbols = [size.node.expr for size in sizes]
    guards = [guard.expr for guard in sizes[0].node.shape_env.guards]
    for symbol, limits in program.range_constraints.items():
        guards += [sympy.Ge(symbol, limits.lower), sympy.Le(symbol, limits.upper)]
    tried: dict[tuple[int, int, int], bool] = {}
    program = _without_assertions(program)
    for guard in dict.fromkeys(guards):
        if not guard.free_symbols <= set(symbols):
            continue
        size = _violation(guard, symbols, smallest)
        if size is None:
            continue
        if size[0] * size[1] * size[2] > _MOST_PIXELS:
            return _words(guard, symbols)
        if size not in tried:
            tried[size] = _same(program, trial, trial.image(size[0], channels, size[1], size[2]))
        if not tried[size]:
            return _words(guard, symbols)
    return None


def _image_name(program: ExportedProgram) -> str:
    (name,) = program.graph_signature.user_inputs
    assert isinstance(name, str)
    return name


def _violation(guard: sympy.Basic, symbols: list[sympy.Symbol], smallest: int) -> tuple[int, int, int] | None:
    """Return the smallest of the sizes (B, H, W) for which a guard does not hold."""
    for size in _samples(smallest):
        holds = guard.xreplace({s: sympy.Integer(n) for s, n in zip(symbols, size, strict=True)})
        if holds == sympy.false:
            return size
    return None


def _samples(smallest: int) -> Iterator[tuple[int, int, int]]:
    other = max(_OTHER, smallest)
    sides = sorted({smallest, smallest + 1, *(side for side in _SIDES if side >= smallest)})
    pairs = {pair for side in sides for pair in ((side, other), (other, side), (side, side))}
    for batch in (2, 1, 3):
        for height, width in sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair)) if batch == 2 else [(other, 41)]:
            yield batch, height, width


def _without_assertions(program: ExportedProgram) -> ExportedProgram:
    """Remove the program's own checks of its guards, as the translation to ONNX does."""
    for node in list(program.graph.nodes):
        if "assert" in str(node.target) and not node.users:
            program.graph.erase_node(node)
    return program


def _same(program: ExportedProgram, trial: Trial, image: Tensor) -> bool:
    expected = trial.run(image).numpy()
    try:
        with torch.inference_mode():
            found = program.module(check_guards=False)(image).numpy()
    except (RuntimeError, ValueError, InputError):
        return False
    span = (min(trial.value_range[0], float(expected.min())), max(trial.value_range[1], float(expected.max())))
    return found.shape == expected.shape and psnr(found, expected, span) >= _SAME_DB


def _words(guard: sympy.Basic, symbols: list[sympy.Symbol]) -> str:
    named = dict(zip(symbols, sympy.symbols("batch height width", integer=True, positive=True), strict=True))
    return str(guard.xreplace(named))[:160]
