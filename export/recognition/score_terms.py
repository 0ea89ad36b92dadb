"""What scores are made of: a product, factors, biases and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node

from .masks import Mask, evaluate
from .nodes import Refused, argument, arguments, equal, equal_sizes, operator_name, rank, sizes
from .operands import Move, Operand
from .selections import Listing, Selection

#: Nodes whose score is this far below the others' have no weight: e^-80 is 1e-35.
EXCLUDED = -80.0

#: Beside a number as low as this, float32 still tells scores apart that differ by 2^-12.
LEAST_ADDED = -4096.0


@dataclass(frozen=True)
class Exclusion:
    """A mask on the scores: nodes that a selection leaves out get a score of `level`, or, if `added`, it is added."""

    selection: Selection
    moves: tuple[Move, ...]
    level: float = -math.inf
    added: bool = False

    @property
    def keeps_scores(self) -> bool:
        """Whether a row in which no node is selected attends to all nodes by their own scores."""
        return self.added and self.level >= LEAST_ADDED


@dataclass(frozen=True)
class Bias:
    """A tensor that is added to the scores, with a factor.

    Attributes
    ----------
    operand
        [H or 1, M, N] or with fewer dimensions; with `windows` [W, H or 1, M, N].
    scale
        The factor.
    windows
        It repeats along the flattened leading dimensions before the heads: the b-th of these has the (b mod W)-th.
    """

    operand: Operand
    scale: float = 1.0
    windows: bool = False


@dataclass(frozen=True)
class Scores:
    """The argument of a softmax.

    Attributes
    ----------
    left, right
        q [..., M, D] and k [..., N, D].
    scale
        Factor of their product.
    biases
        Added to it; what is the same for all nodes of a row is left out, because a softmax ignores it.
    exclusions
        Masks.
    outer
        Moves of the leading dimensions after biases or masks were added.
    listed
        The last dimension runs over these neighbours of each row instead of over all nodes.
    single
        With `listed`: the tensor is [..., M, 1, k] instead of [..., M, k].
    """

    left: Operand
    right: Operand
    scale: float = 1.0
    biases: tuple[Bias, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    outer: tuple[Move, ...] = ()
    listed: Listing | None = None
    single: bool = False

    def moved(self, move: Move, keeps_heads: bool) -> Scores | None:
        """Return the scores after a move of leading dimensions; None where it cannot be followed.

        Parameters
        ----------
        move
            The move.
        keeps_heads
            Whether the last leading dimension is the same after it.
        """
        # A reshape keeps the order of what it flattens, and so which bias belongs to which window.
        follow = not self.biases or (keeps_heads and move.kind in ("reshape", "unsqueeze", "squeeze"))
        if follow and not self.exclusions and not self.outer and self.listed is None:
            return replace(self, left=self.left.moved(move), right=self.right.moved(move))
        if move.kind in ("reshape", "unsqueeze", "squeeze"):
            return replace(self, outer=(*self.outer, move))
        return None

    def times(self, factor: float) -> Scores:
        """Return the scores times a number."""
        if self.exclusions and factor <= 0:
            raise Refused("masked scores are multiplied with a number that is not positive")
        return replace(
            self,
            scale=self.scale * factor,
            biases=tuple(replace(bias, scale=bias.scale * factor) for bias in self.biases),
            exclusions=tuple(replace(each, level=each.level * factor) for each in self.exclusions),
        )

    def excluding(self, mask: Mask, level: float, added: bool = False) -> Scores:
        """Return the scores with the nodes outside a mask excluded.

        Parameters
        ----------
        mask
            The mask.
        level, added
            As the attributes of `Exclusion`.
        """
        if self.outer:
            raise Refused("the scores are masked again after a change of their shape")
        return replace(self, exclusions=(*self.exclusions, Exclusion(mask.selection, mask.moves, level, added)))

    def over_all_nodes(self) -> Scores:
        """Return listed scores as scores of all nodes, of which the listed ones are selected."""
        if self.listed is None:
            return self
        exclusion = Exclusion(self.listed.selection, self.listed.moves)
        return replace(self, exclusions=(*self.exclusions, exclusion), listed=None, single=False)


def bias_of(added: Node, factor: float, lead: list[Any]) -> Bias:
    """Return a tensor that is added to scores as a bias.

    Parameters
    ----------
    added
        The tensor.
    factor
        Its factor.
    lead
        Leading dimensions of the scores; the last one is the heads if there are several.

    Raises
    ------
    Refused
        It differs between images, but not between their windows.
    """
    own = sizes(added)[:-2]
    before = len(lead) - (len(lead) > 1)
    windows = own[: max(0, before - (len(lead) - len(own)))]
    while windows and equal(windows[0], 1):
        windows = windows[1:]
    if not windows:
        return Bias(Operand(added), factor)
    if not equal_sizes(windows, lead[before - len(windows) : before]):
        raise Refused("its bias differs between images, but not between their windows")
    heads = own[-1] if len(lead) > 1 else 1
    return Bias(Operand(added).moved(Move("reshape", (-1, heads))), factor, windows=True)


def complement(mask: Mask) -> Mask:
    """Return the same tensor as a mask that selects the other nodes.

    Raises
    ------
    Refused
        Their number depends on the image's size.
    """
    selection = mask.selection
    if selection.k is None:
        marks = not selection.marks
        other = replace(selection, largest=marks, marks=marks)
        return replace(mask, selection=other, inside=mask.outside, outside=mask.inside)
    count = sizes(selection.scores)[-1]
    if not isinstance(count, int) or count <= selection.k:
        raise Refused("the selected nodes are masked, and the others are kept")
    other = replace(selection, k=count - selection.k, largest=not selection.largest, others=selection)
    return replace(mask, selection=other, inside=mask.outside, outside=mask.inside)


def low(level: float) -> float:
    """Return the score of excluded nodes, or refuse one at which they take part in the softmax."""
    if not level <= EXCLUDED:
        raise Refused(f"nodes that are not selected take part in the softmax, with a score of {level:g}")
    return level


def read_choice(node: Node) -> tuple[Mask | None, Any, Any]:
    """Read ``where(mask, a, b)`` or ``masked_fill(a, mask, b)``: what is taken on selected nodes, and elsewhere.

    Parameters
    ----------
    node
        One of these operators.

    Returns
    -------
    mask : Mask or None
        The mask; None where it is not known to be of a selection.
    kept, other
        The arguments that are taken where the mask selects, and where it does not.

    Raises
    ------
    Refused
        As for `complement`.
    """
    if operator_name(node) == "where":
        mask, kept, other = evaluate(argument(node, 0)), argument(node, 1), argument(node, 2)
        if isinstance(mask, Mask) and not mask.inside:
            kept, other = other, kept
    else:
        given = arguments(node)
        mask, kept, other = evaluate(given["mask"]), given["self"], given["value"]
        if isinstance(mask, Mask) and mask.inside:
            mask = complement(mask)
    return mask if isinstance(mask, Mask) else None, kept, other


def keeps_heads(node: Node) -> bool:
    """Tell whether a view of scores [..., H, M, N] has the same H."""
    source: Node = argument(node, 0)
    return min(rank(source), rank(node)) > 3 and equal(sizes(source)[-3], sizes(node)[-3])
