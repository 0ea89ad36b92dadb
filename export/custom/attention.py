"""Fuse the attentions to selected nodes of a network of unknown architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.export import ExportedProgram

from ...errors import counted
from ...manifest import Attention, Interface
from ...runtime.preprocess.padding import round_up
from ..canonicalize import WRAPPER
from ..recognition import (
    Case,
    Verdict,
    annotated_graph,
    arrange_by_hand,
    rebuilt,
    recognize,
    recognize_verified,
    verification_cases,
)
from ..trace import functional


@dataclass(frozen=True)
class Attentions:
    """A program with what became of its attentions to selected nodes.

    Attributes
    ----------
    program
        The network, with keygraph's operators in the place of attentions that they compute.
    verdicts
        One for each attention, in order of execution.
    unfused
        The network with the operators only where it calls them itself, which recognition rewrites.
    exactly_k
        As for `recognize`.
    """

    program: ExportedProgram
    verdicts: tuple[Verdict, ...]
    unfused: ExportedProgram
    exactly_k: bool = False

    @property
    def fused(self) -> int:
        """How many attentions attend to a key graph, those by hand included."""
        return sum(verdict.fused for verdict in self.verdicts)

    @property
    def packed(self) -> int:
        """How many attentions attend to the network's own mask."""
        return sum(verdict.packed for verdict in self.verdicts)

    @property
    def rewritten(self) -> int:
        """How many attentions are computed by operators that the network does not call itself."""
        return sum((verdict.fused or verdict.packed) and not verdict.by_hand for verdict in self.verdicts)

    @property
    def words(self) -> str:
        """How many attentions are fused and packed, in words."""
        if not self.fused and not self.packed:
            return "every attention as the network computes it"
        return f"{counted(self.fused, 'attention')} fused and {self.packed} packed"

    def found(self) -> tuple[Attention, ...]:
        """Return what became of each attention, for the manifest."""
        return tuple(
            Attention(
                verdict.module,
                _name(verdict),
                verdict.reason,
                verdict.k,
                verdict.nodes,
                verdict.heads,
                verdict.channels,
                verdict.keeps_ties,
            )
            for verdict in self.verdicts
        )

    def without_operators(self) -> Attentions:
        """Return the program with the operators only where the network calls them itself, as a copy to translate."""
        by_hand = tuple(verdict for verdict in self.verdicts if verdict.by_hand)
        return replace(self, program=rebuilt(self.unfused, annotated_graph(self.unfused), ()), verdicts=by_hand)

    def fewer(self, reason: str) -> Attentions | None:
        """Return the program with fewer attentions rewritten: the packed ones are left out first, then all.

        Parameters
        ----------
        reason
            Why, for their verdicts.

        Returns
        -------
        Attentions or None
            None where nothing is rewritten.
        """
        rewritten = [one for one in self.verdicts if (one.fused or one.packed) and not one.by_hand]
        if not rewritten:
            return None
        packed = [one for one in rewritten if one.packed]
        left = packed if packed and len(packed) < len(rewritten) else rewritten
        kept = {one.softmax: one.reason for one in self.verdicts if not (one.fused or one.packed)}
        found = recognize(self.unfused, kept | {one.softmax: reason for one in left}, self.exactly_k)
        by_hand = tuple(one for one in self.verdicts if one.by_hand)
        program = found.program if found.rewritten else self.unfused
        return replace(self, program=program, verdicts=_in_order(self.unfused, (*by_hand, *found.verdicts)))


def _name(verdict: Verdict) -> str:
    """Return the word of `manifest.VERDICTS`."""
    if verdict.by_hand:
        return "by hand"
    return "fused" if verdict.fused else "packed" if verdict.packed else "unchanged"


def fuse_attentions(
    program: ExportedProgram,
    module: nn.Module,
    interface: Interface,
    shape: tuple[int, int, int] | None,
    progress: Callable[[str], None],
    exactly_k: bool = False,
) -> Attentions:
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
    Attentions
        With the program given, without operators that change their arguments, where nothing is fused.
    """
    progress("looking for attentions to a top-k")
    by_hand = arrange_by_hand(functional(program))
    found = recognize(by_hand.program, exactly_k=exactly_k)
    if found.rewritten or by_hand.verdicts:
        cases = _cases(interface, shape)
        calls = by_hand.calls if by_hand.verdicts else None
        value_range = interface.value_range
        found = recognize_verified(by_hand.program, module, cases, value_range, progress, calls, exactly_k)
    # Also where nothing is found: the program that was captured would be decomposed again to be translated.
    unfused = by_hand.program
    verdicts = _in_order(unfused, (*by_hand.verdicts, *found.verdicts))
    return Attentions(found.program if found.rewritten else unfused, verdicts, unfused, exactly_k)


def _in_order(program: ExportedProgram, verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Return verdicts in order of execution, with the paths of the user's modules."""
    order = {node.name: place for place, node in enumerate(program.graph.nodes)}
    placed = sorted(verdicts, key=lambda verdict: order[verdict.softmax])
    return tuple(replace(verdict, module=_own_path(verdict.module)) for verdict in placed)


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
