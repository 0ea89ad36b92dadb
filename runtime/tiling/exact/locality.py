"""What each node of a network does to the image's pixels: nothing across them, something local, or a sum over all.

A network can be run exactly in tiles when each of its nodes is one of these:

* local: its result at a pixel depends on the pixels within a few rows and columns, its reach (a convolution), or on
  that pixel alone. Tiles that overlap by the reach are enough.
* a statistic: a sum, a maximum or a minimum over all pixels of the image, or over a rectangle of it. The image's value
  is combined from the tiles' values.
* computed from statistics and constants: small, and the same for all tiles.

`analysis.analyze` finds this for a graph, by the rules in `operator_rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from .shape_inference import InferredGraph
from .spatial_layout import Layout, atoms

if TYPE_CHECKING:
    from onnx import NodeProto

#: Rows above, rows below, columns to the left, columns to the right.
Reach = tuple[int, int, int, int]

NO_REACH: Reach = (0, 0, 0, 0)

#: Maps the reach needed in a node's output to the reach needed in its inputs.
Widen = Callable[[Reach], Reach]


@dataclass(frozen=True)
class Bound:
    """A row or column index of the whole image, computed by the graph from sizes: element `index` of `value`."""

    value: str
    index: int


#: Start and end of a slice of rows or columns; None for all. Negative ones count from the end, as in ONNX's Slice.
Bounds = tuple[Bound, Bound] | None


@dataclass(frozen=True)
class Bins:
    """Rectangles of a map, possibly reduced along one axis already: an adaptive pooling in progress.

    Attributes
    ----------
    source
        The map.
    rows, columns
        Rows, and columns, of the rectangles. Several mean that results reduced along that axis were concatenated.
    reduced
        Whether rows, and columns, were reduced.
    combine
        The reduction: ``"sum"``, ``"max"``, ``"min"``, or empty where nothing was reduced yet.
    """

    source: str
    rows: tuple[Bounds, ...] = (None,)
    columns: tuple[Bounds, ...] = (None,)
    reduced: tuple[bool, bool] = (False, False)
    combine: str = ""


@dataclass(frozen=True)
class Statistic:
    """A sum, maximum or minimum over the pixels of an image.

    Attributes
    ----------
    name
        Name of the value.
    phase
        Index of the sweep that computes it: the longest chain of statistics that it depends on.
    combine
        ``"sum"``, ``"max"`` or ``"min"``.
    finish
        Applied to the image's value: ``"mean"`` divides by the number of elements, ``"root"`` takes the square root;
        empty for neither.
    elements
        Elements summed per pixel of the image, for ``"mean"``.
    bins
        The rectangles of the image that it is computed for; None for the whole image.
    axes
        With bins: the axes of rows and columns in the source, which are kept. None where the node itself gives the
        reduced axes.
    """

    name: str
    phase: int
    combine: str
    finish: str
    elements: Fraction
    bins: Bins | None = None
    axes: tuple[int, int] | None = None


@dataclass(frozen=True)
class Locality:
    """What is known about a network that can be run in tiles.

    Attributes
    ----------
    graph
        The network, with the sizes of all values.
    nodes
        Nodes that the result depends on, in order, without those computed from sizes alone.
    layouts
        Layout of every value that the nodes read or compute.
    phases
        For every value that they compute, the index of the first sweep that can compute it.
    statistics
        Statistics by name.
    bins
        Values that are rectangles of a map; only statistics and smaller rectangles are computed from them.
    expanded
        Values that repeat a small one over rows and columns. They stay small: operators broadcast.
    widen
        How the reach of a node's first output widens to its inputs, where it does.
    """

    graph: InferredGraph
    nodes: tuple[NodeProto, ...]
    layouts: dict[str, Layout] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    statistics: dict[str, Statistic] = field(default_factory=dict)
    bins: dict[str, Bins] = field(default_factory=dict)
    expanded: set[str] = field(default_factory=set)
    widen: dict[str, Widen] = field(default_factory=dict)

    def spatial(self, name: str) -> bool:
        """Return whether a value has rows or columns."""
        return bool(atoms(self.layouts.get(name, ())))

    def maps_of(self, node: NodeProto) -> list[str]:
        """Return a node's inputs that have rows or columns."""
        return [name for name in dict.fromkeys(node.input) if name and self.spatial(name)]
