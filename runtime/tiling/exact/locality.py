"""What each node of a network does to the image's pixels: nothing across them, something nearby, or a sum over all.

A network can be run tile by tile, exactly, when each of its nodes is one of these:

* local: what it gives at a pixel depends on the pixels within a few rows and columns, its reach (a convolution), or on
  that pixel alone. Tiles that overlap by the reach are enough.
* a statistic: a sum, a maximum or a minimum over all pixels of the image, or over a rectangle of it, which has neither
  rows nor columns. Those of tiles add up to that of the image.
* made of statistics and constants: small, and the same for all tiles.

The rules go by operators and sizes; no names, no modules, no architectures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from .shape_inference import Facts, ancestors
from .spatial_layout import (
    Layout,
    NotLocalError,
    Spatial,
    area,
    atoms,
    broadcast,
    constant,
    is_map,
    merged,
    numbers,
    scales,
)

if TYPE_CHECKING:
    from onnx import NodeProto

#: What is computed for each element from those at the same place.
_ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "And", "BitShift", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Equal"),
        *("Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf"),
        *("IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not"),
        *("Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"),
        *("Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where", "Xor"),
    )
)

#: Operator -> how tiles' results become the image's, and what is done to that at last.
_REDUCTIONS = {
    "ReduceSum": ("sum", ""),
    "ReduceL1": ("sum", ""),
    "ReduceSumSquare": ("sum", ""),
    "ReduceMean": ("sum", "mean"),
    "ReduceL2": ("sum", "root"),
    "ReduceMax": ("max", ""),
    "ReduceMin": ("min", ""),
    "GlobalAveragePool": ("sum", "mean"),
    "GlobalMaxPool": ("max", ""),
}

#: Rows above, rows below, columns on the left, columns on the right.
Reach = tuple[int, int, int, int]

NO_REACH: Reach = (0, 0, 0, 0)

#: From what must be right beyond a tile's edges in a node's output to what must be right in its input.
Widen = Callable[[Reach], Reach]


@dataclass(frozen=True)
class Bound:
    """A row or column of the whole image's tensor, as the graph computes it from sizes; element `index` of a value."""

    value: str
    index: int


#: First, and first beyond; None for all. Negative ones count from the end, as in Slice.
Bounds = tuple[Bound, Bound] | None


@dataclass(frozen=True)
class Bins:
    """A map of which rectangles were taken, and which was perhaps reduced along one of its axes: pooling on its way.

    Attributes
    ----------
    source
        The map.
    rows, columns
        Rows, and columns, of every rectangle. Several stand for a concatenation of what was reduced along that axis.
    reduced
        Which of the two axes were reduced.
    combine
        How: ``"sum"``, ``"max"``, ``"min"``, or nothing yet.
    """

    source: str
    rows: tuple[Bounds, ...] = (None,)
    columns: tuple[Bounds, ...] = (None,)
    reduced: tuple[bool, bool] = (False, False)
    combine: str = ""


@dataclass(frozen=True)
class Statistic:
    """A sum, maximum or minimum over an image.

    Attributes
    ----------
    name
        The value; its node reads maps, and gives no map.
    phase
        How many statistics, one resting on the other, must be known before this one can be computed.
    combine
        ``"sum"``, ``"max"`` or ``"min"``.
    finish
        ``"mean"``: the sum is divided by the number of elements; ``"root"``: its square root; or nothing.
    elements
        That are summed for each pixel of the image; for ``"mean"``.
    bins
        The parts of the image that it is taken over, of every row of bins each column; None for all of it at once.
    axes
        With bins: the tensor's axes of rows and columns, which are kept; None where the node says itself what it
        reduces.
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
    """A network of which every node is understood.

    Attributes
    ----------
    facts
        The graph.
    nodes
        In order: those that the result needs, without what follows from sizes alone.
    layouts
        Of every value that they give or take.
    phases
        Of the values that they give: how many statistics, one resting on the other, come before.
    statistics
        By name.
    bins
        Values that are rectangles of a map; only statistics and further rectangles are taken of them.
    expanded
        Values that are a small one repeated over rows and columns; kept small, since operators repeat by themselves.
    widen
        By the node's first output.
    """

    facts: Facts
    nodes: tuple[NodeProto, ...]
    layouts: dict[str, Layout] = field(default_factory=dict)
    phases: dict[str, int] = field(default_factory=dict)
    statistics: dict[str, Statistic] = field(default_factory=dict)
    bins: dict[str, Bins] = field(default_factory=dict)
    expanded: set[str] = field(default_factory=set)
    widen: dict[str, Widen] = field(default_factory=dict)

    def spatial(self, name: str) -> bool:
        """Whether a value has rows or columns."""
        return bool(atoms(self.layouts.get(name, ())))

    def maps_of(self, node: NodeProto) -> list[str]:
        """A node's inputs that have rows or columns."""
        return [name for name in dict.fromkeys(node.input) if name and self.spatial(name)]


def understand(facts: Facts, inputs: Sequence[str], output: str) -> Locality:
    """Find what each node does.

    Parameters
    ----------
    facts
        The graph.
    inputs
        Names of the images that go in, [1, C, H, W].
    output
        Name of the restored image.

    Raises
    ------
    NotLocalError
        A node is none of the three kinds, or of an operator that is not known here.
    """
    nodes = tuple(n for n in ancestors(facts.model.graph.node, [output]) if n.output[0] not in facts.sizes)
    locality = Locality(facts, nodes)
    for name in inputs:
        locality.layouts[name] = (
            *constant((1, facts.dims[name][1][0])),
            (Spatial(False, _ONE),),
            (Spatial(True, _ONE),),
        )
        locality.phases[name] = 0
    for node in nodes:
        where = f"{node.name or node.output[0]} ({node.op_type})"
        try:
            _understand_node(locality, node)
        except NotLocalError as error:
            raise NotLocalError(f"{where}: {error}") from None
        for name in node.output:
            if name and name not in locality.expanded and name not in locality.bins:
                extents = facts.probes.extents(locality.layouts[name])
                if extents != facts.dims[name]:
                    raise NotLocalError(f"{where} gives sizes {facts.dims[name]} where {extents} were expected")
    if not is_map(locality.layouts[output]) or output in locality.statistics:
        raise NotLocalError("the result is no image")
    return locality


_ONE = Fraction(1)


def _understand_node(locality: Locality, node: NodeProto) -> None:
    layouts = [_layout(locality, name) for name in node.input]
    phase = max((locality.phases.get(name, 0) for name in node.input), default=0)
    pooling = node.op_type in ("Slice", "Concat") or node.op_type in _REDUCTIONS
    if not pooling and any(name in locality.bins for name in node.input):
        raise NotLocalError("it reads a part of the image cut out of the whole")
    for name in filter(None, node.output):
        locality.phases[name] = phase
    if node.op_type != "Expand" and not any(atoms(layout) for layout in layouts):
        for name in filter(None, node.output):
            dims = locality.facts.dims[name]
            if any(first != second for first, second in dims):
                raise NotLocalError("it makes something of the image's size out of nothing of that size")
            locality.layouts[name] = constant([first for first, _ in dims])
        return
    rule = _elementwise if node.op_type in _ELEMENTWISE else _RULES.get(node.op_type)
    if rule is None or node.domain not in ("", "ai.onnx"):
        raise NotLocalError("an operator that is not known to work tile by tile")
    given = rule(locality, node, layouts)
    for name, layout in zip(
        node.output, [given] * len(node.output) if isinstance(given, tuple) else given, strict=True
    ):
        if not name:
            continue
        rows = [atom for atom in atoms(layout) if not atom.columns]
        if len(rows) > 1 or len(atoms(layout)) - len(rows) > 1:
            raise NotLocalError("it relates pixels to pixels")
        locality.layouts[name] = layout


def _layout(locality: Locality, name: str) -> Layout:
    if not name:
        return ()
    if name in locality.layouts:
        return locality.layouts[name]
    dims = locality.facts.dims[name]
    if any(first != second for first, second in dims):
        raise NotLocalError(f"it reads {name}, whose own size follows the image's")
    locality.layouts[name] = constant([first for first, _ in dims])
    return locality.layouts[name]


# Rules: the layouts of the outputs, one for all or a list, from those of the inputs.


def _elementwise(_locality: Locality, _node: NodeProto, layouts: list[Layout]) -> Layout:
    return broadcast([layout for layout in layouts if layout])


def _transpose(_locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    order = attribute(node, "perm", list(range(len(layouts[0])))[::-1])
    return tuple(layouts[0][axis] for axis in order)


def _reshape(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    result = locality.facts.probes.regroup(layouts[0], locality.facts.dims[node.output[0]])
    if is_map(layouts[0]) and is_map(result):
        ratios = [before / after for before, after in zip(scales(layouts[0]), scales(result), strict=True)]

        def widen(reach: Reach) -> Reach:
            above, below, left, right = (math.ceil(n * ratios[side // 2]) for side, n in enumerate(reach))
            return above, below, left, right

        locality.widen[node.output[0]] = widen
    return result


def _pixel_shuffle(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    block = attribute(node, "blocksize", 1)
    factor = Fraction(block) if node.op_type == "DepthToSpace" else Fraction(1, block)
    (channels, rows, columns) = _image(layouts[0])
    count = int(channels / factor**2)
    result = (layouts[0][0], *constant((count,)), (_scaled(rows, factor),), (_scaled(columns, factor),))

    def widen(reach: Reach) -> Reach:
        above, below, left, right = (math.ceil(n / factor) for n in reach)
        return above, below, left, right

    locality.widen[node.output[0]] = widen
    return result


def _convolution(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    if any(atoms(layout) for layout in layouts[1:]):
        raise NotLocalError("its weights depend on the image's pixels")
    transposed, pool = node.op_type == "ConvTranspose", node.op_type in ("AveragePool", "MaxPool")
    channels, rows, columns = _image(layouts[0])
    kernel = attribute(node, "kernel_shape", None) or [size for (size,) in map(_numbers_of, layouts[1][2:])]
    strides = attribute(node, "strides", [1, 1])
    dilations = attribute(node, "dilations", [1, 1])
    pads = attribute(node, "pads", [0, 0, 0, 0])
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or attribute(node, "ceil_mode", 0):
        raise NotLocalError("its padding depends on the size")
    if pool:
        out = channels
    elif transposed:
        out = _count(layouts[1][1]) * attribute(node, "group", 1)
    else:
        out = _count(layouts[1][0])
    spans = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]

    def widen(reach: Reach) -> Reach:
        found = []
        for axis in (0, 1):
            before, after, stride, span, pad = *reach[2 * axis : 2 * axis + 2], strides[axis], spans[axis], pads[axis]
            if transposed:
                found += [(before - pad + span) // stride, (after - 1 + pad) // stride + 1]
            else:
                found += [before * stride + pad, (after - 1) * stride - pad + span + 1]
        above, below, left, right = (max(0, n) for n in found)
        return above, below, left, right

    locality.widen[node.output[0]] = widen
    factors = [Fraction(stride) if transposed else Fraction(1, stride) for stride in strides]
    return (
        layouts[0][0],
        *constant((out,)),
        (_scaled(rows, factors[0]),),
        (_scaled(columns, factors[1]),),
    )


def _normalisation(_locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    axis = attribute(node, "axis", -1)
    last = None if node.op_type in ("LayerNormalization", "RMSNormalization") or axis == -1 else axis + 1
    if any(atoms((part,)) for part in layouts[0][axis:last]):
        raise NotLocalError("it normalises over the image's pixels")
    return layouts[0]


def _concat(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    axis = attribute(node, "axis", 0) % len(layouts[0])
    if any(name in locality.bins for name in node.input):
        return _joined_bins(locality, node, layouts, axis)
    if any(atoms((layout[axis],)) for layout in layouts):
        raise NotLocalError("it joins images side by side")
    others = {tuple(part for position, part in enumerate(layout) if position != axis) for layout in layouts}
    if len(others) > 1:
        raise NotLocalError("it joins tensors whose rows or columns do not lie alike")
    total = sum(_count(layout[axis]) for layout in layouts)
    return tuple(merged((total,)) if position == axis else part for position, part in enumerate(layouts[0]))


def _split(locality: Locality, node: NodeProto, layouts: list[Layout]) -> list[Layout]:
    axis = attribute(node, "axis", 0) % len(layouts[0])
    if atoms((layouts[0][axis],)):
        raise NotLocalError("it takes images apart along their rows or columns")
    sizes = [locality.facts.dims[name][axis][0] for name in node.output]
    return [tuple(merged((n,)) if at == axis else part for at, part in enumerate(layouts[0])) for n in sizes]


def _gather(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    axis = attribute(node, "axis", 0) % len(layouts[0])
    if atoms((layouts[0][axis],)) or atoms(layouts[1]):
        raise NotLocalError("it picks rows or columns of the image, or depends on pixels in what it picks")
    return (*layouts[0][:axis], *layouts[1], *layouts[0][axis + 1 :])


def _resize_axes(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    """Squeeze, Unsqueeze and Flatten."""
    return locality.facts.probes.regroup(layouts[0], locality.facts.dims[node.output[0]])


def _expand(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    output = node.output[0]
    wanted = locality.facts.dims[output]
    padded: Layout = ((),) * (len(wanted) - len(layouts[0])) + layouts[0]
    result = []
    for axis, (first, second) in zip(padded, wanted, strict=True):
        # What is repeated over pixels stays as it is: whatever reads it repeats it by itself.
        result.append(merged((first,)) if axis == () and first == second else axis)
        if axis == () and first != second:
            locality.expanded.add(output)
    return tuple(result)


def _slice(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    source, output = node.input[0], node.output[0]
    rank, facts = len(layouts[0]), locality.facts
    count = facts.dims[node.input[1]][0][0]
    axes = _fixed(facts, node, 3, list(range(count)))
    steps = _fixed(facts, node, 4, [1] * count)
    bins = locality.bins.get(source, Bins(source))
    result = list(layouts[0])
    for index, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        axis %= rank
        part = layouts[0][axis]
        if not atoms((part,)):
            result[axis] = merged((facts.dims[output][axis][0],))
            continue
        if facts.dims[source][axis] == facts.dims[output][axis] and step == 1:
            continue
        if len(part) != 1 or step != 1:
            raise NotLocalError("it takes every so many pixels, or a part of flattened ones")
        bounds = ((Bound(node.input[1], index), Bound(node.input[2], index)),)
        across = atoms((part,))[0].columns
        if (bins.columns if across else bins.rows) != (None,):
            raise NotLocalError("it cuts a part of the image out of a part")
        bins = replace(bins, columns=bounds) if across else replace(bins, rows=bounds)
    if bins != Bins(source):
        if tuple(result) != layouts[0]:
            raise NotLocalError("it cuts channels and pixels at once")
        locality.bins[output] = bins
    return tuple(result)


def _joined_bins(locality: Locality, node: NodeProto, layouts: list[Layout], axis: int) -> Layout:
    """Concatenate what was reduced along one axis, along that axis."""
    parts = [locality.bins.get(name) for name in node.input]
    first = parts[0]
    if first is None or None in parts or atoms((layouts[0][axis],)):
        raise NotLocalError("it joins a part of the image with something else")
    rows = first.reduced[0]
    same = replace(first, rows=(None,)) if rows else replace(first, columns=(None,))
    joined: list[Bounds] = []
    for part in parts:
        assert part is not None
        if (replace(part, rows=(None,)) if rows else replace(part, columns=(None,))) != same:
            raise NotLocalError("it joins parts of different images")
        joined += part.rows if rows else part.columns
    locality.bins[node.output[0]] = (
        replace(first, rows=tuple(joined)) if rows else replace(first, columns=tuple(joined))
    )
    return tuple(merged((len(joined),)) if at == axis else part for at, part in enumerate(layouts[0]))


def _matmul(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    left, right = layouts
    if len(left) < 2 or len(right) < 2:
        raise NotLocalError("a product with a vector")
    batch = broadcast([left[:-2], right[:-2]]) if len(left) > 2 or len(right) > 2 else ()
    result = (*batch, left[-2], right[-1])
    summed = atoms((left[-1],))
    if not summed:
        if atoms((right[-2],)):
            raise NotLocalError("a product of pixels with something of their number")
        return result
    if left[-1] != right[-2]:
        raise NotLocalError("a product of pixels that do not lie alike")
    _statistic(locality, node, "sum", "", left[-1:], result)
    return result


def _reduction(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    facts, rank = locality.facts, len(layouts[0])
    if node.op_type.startswith("Global"):
        axes, keep = list(range(2, rank)), 1
    else:
        axes = attribute(node, "axes", None)
        if axes is None:
            axes = _fixed(facts, node, 1, None)
        if axes is None or len(axes) == 0:
            if attribute(node, "noop_with_empty_axes", 0):
                return layouts[0]
            axes = list(range(rank))
        keep = attribute(node, "keepdims", 1)
    reduced = {axis % rank for axis in axes}
    result = tuple(() if at in reduced else part for at, part in enumerate(layouts[0]) if keep or at not in reduced)
    gone = tuple(layouts[0][axis] for axis in sorted(reduced))
    if node.input[0] in locality.bins or (atoms(gone) and not is_map(gone)):
        _pool(locality, node, layouts[0], sorted(reduced), bool(keep))
    elif atoms(gone):
        _statistic(locality, node, *_REDUCTIONS[node.op_type], gone, result)
    return result


def _pool(locality: Locality, node: NodeProto, layout: Layout, reduced: list[int], keep: bool) -> None:
    """Reduce rectangles, over rows and columns at once or one after the other."""
    name = node.output[0]
    combine, finish = _REDUCTIONS[node.op_type]
    bins = locality.bins.get(node.input[0], Bins(node.input[0]))
    gone = tuple(layout[axis] for axis in reduced)
    if finish or node.op_type not in ("ReduceSum", "ReduceMax", "ReduceMin"):
        raise NotLocalError("of a part of the image, or one axis, only a sum, a maximum or a minimum can be taken")
    if is_map(gone):
        elements = numbers(gone) * area(gone)
        _enter(locality, Statistic(name, locality.phases[name], combine, "", elements, replace(bins, combine=combine)))
        return
    if not keep or len(reduced) != 1 or len(layout[reduced[0]]) != 1 or bins.combine not in ("", combine):
        raise NotLocalError("it reduces rows or columns together with other axes")
    across = atoms(gone)[0].columns
    bins = replace(bins, combine=combine, reduced=(bins.reduced[0] or not across, bins.reduced[1] or across))
    if bins.reduced != (True, True):
        locality.bins[name] = bins
        return
    source = locality.layouts[bins.source]
    places = [next(at for at, axis in enumerate(source) if atom in axis) for atom in sorted(atoms(source), key=_across)]
    statistic = Statistic(name, locality.phases[name], combine, "", area(source), bins, (places[0], places[1]))
    _enter(locality, statistic)


def _across(atom: Spatial) -> bool:
    return atom.columns


def _statistic(locality: Locality, node: NodeProto, combine: str, finish: str, summed: Layout, result: Layout) -> None:
    """Enter a node as a statistic."""
    if atoms(result) or not is_map(summed):
        raise NotLocalError("it sums over rows or columns, but not over both")
    elements = numbers(summed) * area(summed)
    _enter(locality, Statistic(node.output[0], locality.phases[node.output[0]], combine, finish, elements))


def _enter(locality: Locality, statistic: Statistic) -> None:
    locality.statistics[statistic.name] = statistic
    locality.phases[statistic.name] = statistic.phase + 1


_RULES: Mapping[str, Callable[[Locality, NodeProto, list[Layout]], Layout | list[Layout]]] = {
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(("Conv", "ConvTranspose", "AveragePool", "MaxPool"), _convolution),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Flatten"), _resize_axes),
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax", "LpNormalization"), _normalisation
    ),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _pixel_shuffle),
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """A node's attribute, or what it is when it is not there."""
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _fixed(facts: Facts, node: NodeProto, index: int, default: Any) -> Any:
    """The numbers of an optional input."""
    if len(node.input) <= index or not node.input[index]:
        return default
    values = facts.fixed(node.input[index])
    if values is None:
        raise NotLocalError("its axes or steps depend on the image")
    return [int(value) for value in np.asarray(values).reshape(-1)]


def _image(layout: Layout) -> tuple[int, Spatial, Spatial]:
    """Channels, rows and columns of [1, C, H, W]."""
    if len(layout) == 4 and not atoms(layout[:2]) and len(layout[2]) == len(layout[3]) == 1:
        rows, columns = layout[2][0], layout[3][0]
        if isinstance(rows, Spatial) and isinstance(columns, Spatial) and not rows.columns and columns.columns:
            return _count(layout[1]), rows, columns
    raise NotLocalError("its input does not lie as batch, channels, rows, columns")


def _scaled(atom: Spatial, factor: Fraction) -> Spatial:
    return Spatial(atom.columns, atom.scale * factor)


def _count(axis: tuple[Any, ...]) -> int:
    """The size of an axis of numbers."""
    return math.prod(axis)


def _numbers_of(axis: tuple[Any, ...]) -> tuple[int]:
    return (math.prod(axis),)
