"""How the pixels of an image lie in a tensor: which axes, or parts of axes, are its rows and its columns.

An axis is a sequence of atoms, the outermost first: whole numbers (channels, heads, the inside of a pixel-shuffle
block), and the rows or columns of the image at some resolution. [B, C, H, W] has the axes (B), (C), (rows), (columns);
flattened to [B, C, HW] the last is (rows, columns); inside a pixel shuffle [B, C, 2, 2, H, W] is turned to
[B, C, H, 2, W, 2], where (rows) and (2) merge to rows at twice the resolution.

Sizes are kept for two probes, images of different sizes, side by side: what is the same for both is a number, what
grows with the height is rows. So nothing here rests on names or on symbolic dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ....errors import KeygraphError

#: An extent at either probe.
Extent = tuple[int, int]


class NotLocalError(KeygraphError):
    """A network that cannot be run tile by tile exactly; the message says which of its nodes is why."""


@dataclass(frozen=True)
class Spatial:
    """The rows or the columns of an image.

    Attributes
    ----------
    columns
        False for rows.
    scale
        Rows of the tensor per row of the image.
    """

    columns: bool
    scale: Fraction


Atom = int | Spatial
Axis = tuple[Atom, ...]
Layout = tuple[Axis, ...]


@dataclass(frozen=True)
class Probes:
    """The sizes of the two probe images.

    Attributes
    ----------
    heights, widths
        In pixels.
    """

    heights: Extent
    widths: Extent

    def extent(self, atom: Atom) -> Extent:
        """Of an atom at either probe."""
        if isinstance(atom, int):
            return atom, atom
        first, second = (atom.scale * length for length in (self.widths if atom.columns else self.heights))
        return int(first), int(second)

    def extents(self, layout: Layout) -> tuple[Extent, ...]:
        """Of every axis at either probe."""
        return tuple(self._product(axis) for axis in layout)

    def _product(self, axis: Axis) -> Extent:
        pairs = [self.extent(atom) for atom in axis]
        return math.prod(pair[0] for pair in pairs), math.prod(pair[1] for pair in pairs)

    def regroup(self, layout: Layout, dims: Sequence[Extent]) -> Layout:
        """Lay the same elements, in the same order, out in other axes: what Reshape does.

        Raises
        ------
        NotLocalError
            An axis would get a part of rows or columns that is no block of neighbours.
        """
        queue = [atom for axis in layout for atom in axis]
        result = []
        for wanted in dims:
            axis: list[Atom] = []
            rest = wanted
            while rest != (1, 1):
                if not queue:
                    raise NotLocalError(f"sizes {list(dims)} do not follow from those before")
                atom = queue.pop(0)
                extent = self.extent(atom)
                if not (rest[0] % extent[0] or rest[1] % extent[1]):
                    axis.append(atom)
                    rest = rest[0] // extent[0], rest[1] // extent[1]
                    continue
                # The outer part of the atom fills this axis, the inner part is left for the next.
                inner = extent[0] // rest[0]
                if (rest[0] * inner, rest[1] * inner) != extent:
                    raise NotLocalError(f"sizes {list(dims)} tear the image's rows or columns apart")
                axis.append(
                    atom // inner if isinstance(atom, int) else Spatial(atom.columns, Fraction(atom.scale, inner))
                )
                queue.insert(0, inner)
                rest = (1, 1)
            result.append(merged(axis))
        return tuple(result)


def merged(axis: Sequence[Atom]) -> Axis:
    """The axis with ones left out, and numbers joined with what stands before them."""
    atoms: list[Atom] = []
    for atom in axis:
        if isinstance(atom, int) and atoms:
            before = atoms[-1]
            # Rows of blocks of `atom` rows are rows.
            atoms[-1] = before * atom if isinstance(before, int) else Spatial(before.columns, before.scale * atom)
        elif atom != 1:
            atoms.append(atom)
    return tuple(atoms)


def constant(dims: Sequence[int]) -> Layout:
    """The layout of a tensor that has nothing of the image's size."""
    return tuple(() if size == 1 else (size,) for size in dims)


def atoms(layout: Layout) -> list[Spatial]:
    """The rows and columns in a layout, in their order."""
    return [atom for axis in layout for atom in axis if isinstance(atom, Spatial)]


def numbers(layout: Layout) -> int:
    """Elements per position of rows and columns."""
    return math.prod(atom for axis in layout for atom in axis if isinstance(atom, int))


def is_map(layout: Layout) -> bool:
    """Whether it has rows once and columns once: something that can be cut into tiles."""
    return sorted(atom.columns for atom in atoms(layout)) == [False, True]


def scales(layout: Layout) -> tuple[Fraction, Fraction]:
    """Of the rows and of the columns of a map."""
    rows, columns = sorted(atoms(layout), key=lambda atom: atom.columns)
    return rows.scale, columns.scale


def area(layout: Layout) -> Fraction:
    """Pixels of a map per pixel of the image."""
    rows, columns = scales(layout)
    return rows * columns


def broadcast(layouts: Sequence[Layout]) -> Layout:
    """The layout of an elementwise operation's result.

    Raises
    ------
    NotLocalError
        Two operands lie differently.
    """
    rank = max(len(layout) for layout in layouts)
    result: list[Axis] = []
    for position in range(-rank, 0):
        found = {layout[position] for layout in layouts if len(layout) >= -position} - {()}
        if len(found) > 1:
            raise NotLocalError("operands whose rows or columns do not lie alike")
        result.append(next(iter(found), ()))
    return tuple(result)
