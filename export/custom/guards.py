"""Check what a traced program takes for granted about its sizes.

A program is traced at one size. What torch.export takes for granted there it lists as guards, and it does not prove all
of them for the other sizes. Most concern the layout in memory and change nothing; a guard that stands for a branch in
the network's code does. So every guard that does not hold for some size is tried with such a size: the program must
give there what the module gives.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ...errors import InputError
from ...instrumentation.metrics import psnr
from ...runtime.preprocess.padding import round_up
from .sizes import Sizes
from .trial import Trial

#: PSNR in dB of a program and its module, both in PyTorch: rounding alone stays above it.
_SAME_DB = 90.0

#: Sides that guards are evaluated for, paired with each other and with `_OTHER`. Near multiples of all usual windows.
_SIDES = (1, 2, 4, 8, 16, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 112, 127, 128, 129, 256, 511, 1024, 2049, 4096, 16384)
_OTHER = 37

#: Most pixels of an image that is tried.
_MOST_PIXELS = 1 << 18


def check_guards(program: ExportedProgram, trial: Trial, channels: int, sizes: Sizes) -> str | None:
    """Compare a program with its module at sizes for which its guards do not hold.

    Parameters
    ----------
    program
        From `capture`, with dynamic sizes. Its own checks of its guards are removed.
    trial
        The module.
    channels
        Of its images.
    sizes
        The sizes that it is to take.

    Returns
    -------
    str or None
        The guard for which they differ, in terms of the image's height and width; None when there is none.
    """
    image = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == _image_name(program))
    batch, _, height, width = image.meta["val"].shape
    dynamic = [batch, height, width]
    for name, size in zip(("batch", "height", "width"), dynamic, strict=True):
        if not isinstance(size, torch.SymInt) or not size.node.expr.free_symbols:
            return f"the {name} is {size}"
    # Each side is a symbol times the size multiple.
    symbols = [next(iter(size.node.expr.free_symbols)) for size in dynamic]
    # Guard -> the line of the network that it is for.
    guards: dict[sympy.Basic, str] = {}
    shapes = dynamic[0].node.shape_env
    for guard in shapes.guards:
        # Sides may have symbols of their own, before they were found to be multiples.
        guards.setdefault(guard.expr.xreplace(shapes.replacements), _line(guard))
    for symbol, limits in program.range_constraints.items():
        for limit in (sympy.Ge(symbol, limits.lower), sympy.Le(symbol, limits.upper)):
            guards.setdefault(limit, "")
    tried: dict[tuple[int, int, int], bool] = {}
    program = _without_assertions(program)
    for guard, line in guards.items():
        size = _violation(guard, symbols, sizes)
        if size is None:
            continue
        if size[0] * size[1] * size[2] > _MOST_PIXELS:
            return _words(guard, symbols, sizes.multiple) + line
        if size not in tried:
            tried[size] = _same(program, trial, trial.image(size[0], channels, size[1], size[2]))
        if not tried[size]:
            return _words(guard, symbols, sizes.multiple) + line
    return None


def _line(guard: Any) -> str:
    """Return ``(my_model.py:12)`` for the network's line that a guard is for; nothing where it is not known."""
    frame = guard.sloc.framework_loc
    if not isinstance(frame, traceback.FrameSummary) or "torch" in Path(frame.filename).parts:
        return ""
    return f" ({Path(frame.filename).name}:{frame.lineno})"


def _image_name(program: ExportedProgram) -> str:
    (name,) = program.graph_signature.user_inputs
    assert isinstance(name, str)
    return name


def _violation(guard: sympy.Basic, symbols: list[sympy.Symbol], sizes: Sizes) -> tuple[int, int, int] | None:
    """Return the first of the sizes (B, H, W) for which a guard does not hold, in the order of their pixels."""
    for batch, height, width in _samples(sizes):
        values = (batch, height // sizes.multiple, width // sizes.multiple)
        holds = guard.xreplace({s: sympy.Integer(n) for s, n in zip(symbols, values, strict=True)})
        if holds == sympy.false:
            return batch, height, width
    return None


def _samples(sizes: Sizes) -> Iterator[tuple[int, int, int]]:
    multiple, smallest = sizes.multiple, sizes.smallest
    sides = sorted({smallest, smallest + multiple, *(round_up(max(side, smallest), multiple) for side in _SIDES)})
    other = round_up(max(_OTHER, smallest), multiple)
    pairs = {pair for side in sides for pair in ((side, other), (other, side), (side, side))}
    for height, width in sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair)):
        yield 2, height, width
    for batch in (1, 3):
        yield batch, other, other + multiple


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


def _words(guard: sympy.Basic, symbols: list[sympy.Symbol], multiple: int) -> str:
    named = dict(zip(symbols, sympy.symbols("batch height width", integer=True, positive=True), strict=True))
    of_units = "" if multiple == 1 else f", with height and width in units of {multiple}"
    return str(guard.xreplace(named))[:160] + of_units
