"""The layout of an image's pixels in a tensor: which axes, or parts of axes, are rows and columns.

An axis is a sequence of atoms, the outermost first: integers (channels, heads, the inside of a pixel-shuffle block),
and rows or columns of the image at some resolution. [B, C, H, W] has the axes (B), (C), (rows), (columns). Flattened to
[B, C, HW], the last axis is (rows, columns). In a pixel shuffle, [B, C, 2, 2, H, W] is transposed to
[B, C, H, 2, W, 2], where (rows) and (2) merge to rows at twice the resolution.

Sizes are known for two probe images of different sizes: an extent that is the same for both is an integer, one that
grows with the height is rows. Nothing depends on names or symbolic dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ....errors import KeygraphError

#: An extent for both probes.
Extent = tuple[int, int]


class NotLocalError(KeygraphError):
    """A network that cannot be run exactly in tiles; the message names the node that prevents it."""


@dataclass(frozen=True)
class Spatial:
    """The rows or the columns of an image, as an atom of an axis.

    Attributes
    ----------
    columns
        True for columns, False for rows.
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
        Heights, and widths, of the two images in pixels.
    """

    heights: Extent
    widths: Extent

    def extent(self, atom: Atom) -> Extent:
        """Return the extent of an atom."""
        if isinstance(atom, int):
            return atom, atom
        first, second = (atom.scale * length for length in (self.widths if atom.columns else self.heights))
        return int(first), int(second)

    def extents(self, layout: Layout) -> tuple[Extent, ...]:
        """Return the extent of every axis."""
        return tuple(self._product(axis) for axis in layout)

    def _product(self, axis: Axis) -> Extent:
        pairs = [self.extent(atom) for atom in axis]
        return math.prod(pair[0] for pair in pairs), math.prod(pair[1] for pair in pairs)

    def regroup(self, layout: Layout, dims: Sequence[Extent]) -> Layout:
        """Return the layout after a Reshape: the same elements in the same order on other axes.

        Raises
        ------
        NotLocalError
            An axis would hold parts of rows or columns that are not contiguous.
        """
        queue = [atom for axis in layout for atom in axis]
        result = []
        for wanted in dims:
            axis: list[Atom] = []
            rest = wanted
            while rest != (1, 1):
                if not queue:
                    raise NotLocalError(f"a reshape to {list(dims)} has another number of elements")
                atom = queue.pop(0)
                extent = self.extent(atom)
                if not (rest[0] % extent[0] or rest[1] % extent[1]):
                    axis.append(atom)
                    rest = rest[0] // extent[0], rest[1] // extent[1]
                    continue
                # The outer part of the atom fills this axis; the inner part is left for the next one.
                inner = extent[0] // rest[0]
                if (rest[0] * inner, rest[1] * inner) != extent:
                    raise NotLocalError(f"a reshape to {list(dims)} splits the image's rows or columns")
                axis.append(
                    atom // inner if isinstance(atom, int) else Spatial(atom.columns, Fraction(atom.scale, inner))
                )
                queue.insert(0, inner)
                rest = (1, 1)
            result.append(merged(axis))
        return tuple(result)


def merged(axis: Sequence[Atom]) -> Axis:
    """Return an axis without ones, with each integer merged into the atom before it."""
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
    """Return the layout of a tensor whose size does not depend on the image."""
    return tuple(() if size == 1 else (size,) for size in dims)


def atoms(layout: Layout) -> list[Spatial]:
    """Return the rows and columns in a layout, in their order."""
    return [atom for axis in layout for atom in axis if isinstance(atom, Spatial)]


def numbers(layout: Layout) -> int:
    """Return the number of elements per pixel of a map."""
    return math.prod(atom for axis in layout for atom in axis if isinstance(atom, int))


def is_map(layout: Layout) -> bool:
    """Return whether a layout has rows once and columns once: a feature map, which can be tiled."""
    return sorted(atom.columns for atom in atoms(layout)) == [False, True]


def scales(layout: Layout) -> tuple[Fraction, Fraction]:
    """Return the scales of rows and columns of a map."""
    rows, columns = sorted(atoms(layout), key=lambda atom: atom.columns)
    return rows.scale, columns.scale


def area(layout: Layout) -> Fraction:
    """Return the pixels of a map per pixel of the image."""
    rows, columns = scales(layout)
    return rows * columns


def broadcast(layouts: Sequence[Layout]) -> Layout:
    """Return the layout of an elementwise operation's result.

    Raises
    ------
    NotLocalError
        Two operands have different layouts.
    """
    rank = max(len(layout) for layout in layouts)
    result: list[Axis] = []
    for position in range(-rank, 0):
        found = {layout[position] for layout in layouts if len(layout) >= -position} - {()}
        if len(found) > 1:
            raise NotLocalError("its operands have rows or columns on different axes")
        result.append(next(iter(found), ()))
    return tuple(result)
