"""Fuse the attentions to selected nodes of a network of unknown architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.export import ExportedProgram

from ...manifest import Interface
from ...runtime.preprocess.padding import round_up
from ..canonicalize import WRAPPER
from ..recognition import Case, Recognition, arrange_by_hand, recognize, recognize_verified, verification_cases
from ..trace import functional


def fuse_attentions(
    program: ExportedProgram,
    module: nn.Module,
    interface: Interface,
    shape: tuple[int, int, int] | None,
    progress: Callable[[str], None],
    exactly_k: bool = False,
) -> Recognition:
    """Compute the attentions to a top-k in a program by keygraph's operators, where that is verified to be equal.

    Parameters
    ----------
    program
        From `capture`; not changed.
    module
        What it was captured from.
    interface
        The network's inputs and outputs.
    shape
        The only (B, H, W) that the program takes; None for dynamic sizes.
    progress
        Called with a line before each step.
    exactly_k
        As for `recognize`.

    Returns
    -------
    Recognition
        The program given where nothing is fused.
    """
    progress("looking for attentions to a top-k")
    by_hand = arrange_by_hand(functional(program))
    found = recognize(by_hand.program, exactly_k=exactly_k)
    if found.rewritten or by_hand.verdicts:
        cases = _cases(interface, shape)
        calls = by_hand.calls if by_hand.verdicts else None
        value_range = interface.value_range
        found = recognize_verified(by_hand.program, module, cases, value_range, progress, calls, exactly_k)
    order = {node.name: place for place, node in enumerate(by_hand.program.graph.nodes)}
    verdicts = sorted((*by_hand.verdicts, *found.verdicts), key=lambda verdict: order[verdict.softmax])
    own = tuple(replace(verdict, module=_own_path(verdict.module)) for verdict in verdicts)
    rewritten = found.rewritten or by_hand.verdicts
    return Recognition(found.program if rewritten else program, own)


def _own_path(path: str) -> str:
    """Return a path of the user's module, without that of the module that `capture` wraps it in."""
    return f"{path}.".removeprefix(WRAPPER).removesuffix(".")


def _cases(interface: Interface, shape: tuple[int, int, int] | None) -> list[Case]:
    """Return the images to verify on; those of `verification_cases`, or of the only shape."""
    low, high = interface.value_range
    if shape is None:
        side = round_up(interface.least_side, interface.size_multiple)
        return verification_cases(interface.in_channels, side, (low, high))
    batch, height, width = shape
    size = batch, interface.in_channels, height, width
    noise = torch.rand(size, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    return [Case("a flat image", (torch.full(size, (low + high) / 2),)), Case("noise", (noise,))]
