"""The rules of `analysis`, per operator: where pixels lie in its result, how far it reaches, and what it sums up.

Each rule takes the locality so far, a node, and the layouts of the node's inputs. It returns the layout of the node's
outputs, one for all or a list, and records in the locality what it finds: `widen`, `statistics`, `bins`, `expanded`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from .graph_nodes import attribute
from .locality import Bins, Bound, Bounds, Locality, Reach, Statistic
from .shape_inference import InferredGraph
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

#: Operators that compute each element from those at the same position.
ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "And", "BitShift", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Equal"),
        *("Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf"),
        *("IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not"),
        *("Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus"),
        *("Softsign", "Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Where", "Xor"),
    )
)

#: Operator -> `Statistic.combine` and `Statistic.finish`.
REDUCTIONS = {
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


def _elementwise(_locality: Locality, _node: NodeProto, layouts: list[Layout]) -> Layout:
    return broadcast([layout for layout in layouts if layout])


def _transpose(_locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    order = attribute(node, "perm", list(range(len(layouts[0])))[::-1])
    return tuple(layouts[0][axis] for axis in order)


def _reshape(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    result = locality.graph.probes.regroup(layouts[0], locality.graph.dims[node.output[0]])
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
        raise NotLocalError("it joins tensors whose rows or columns are on different axes")
    total = sum(_count(layout[axis]) for layout in layouts)
    return tuple(merged((total,)) if position == axis else part for position, part in enumerate(layouts[0]))


def _split(locality: Locality, node: NodeProto, layouts: list[Layout]) -> list[Layout]:
    axis = attribute(node, "axis", 0) % len(layouts[0])
    if atoms((layouts[0][axis],)):
        raise NotLocalError("it splits images along their rows or columns")
    sizes = [locality.graph.dims[name][axis][0] for name in node.output]
    return [tuple(merged((n,)) if at == axis else part for at, part in enumerate(layouts[0])) for n in sizes]


def _gather(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    axis = attribute(node, "axis", 0) % len(layouts[0])
    if atoms((layouts[0][axis],)) or atoms(layouts[1]):
        raise NotLocalError("it picks rows or columns of the image, or depends on pixels in what it picks")
    return (*layouts[0][:axis], *layouts[1], *layouts[0][axis + 1 :])


def _resize_axes(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    """Return the layout after Squeeze, Unsqueeze or Flatten."""
    return locality.graph.probes.regroup(layouts[0], locality.graph.dims[node.output[0]])


def _expand(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    output = node.output[0]
    wanted = locality.graph.dims[output]
    padded: Layout = ((),) * (len(wanted) - len(layouts[0])) + layouts[0]
    result = []
    for axis, (first, second) in zip(padded, wanted, strict=True):
        # Repetition over pixels is left out: whatever reads the value broadcasts it.
        result.append(merged((first,)) if axis == () and first == second else axis)
        if axis == () and first != second:
            locality.expanded.add(output)
    return tuple(result)


def _slice(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    source, output = node.input[0], node.output[0]
    rank, graph = len(layouts[0]), locality.graph
    count = graph.dims[node.input[1]][0][0]
    axes = _fixed(graph, node, 3, list(range(count)))
    steps = _fixed(graph, node, 4, [1] * count)
    bins = locality.bins.get(source, Bins(source))
    result = list(layouts[0])
    for index, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        axis %= rank
        part = layouts[0][axis]
        if not atoms((part,)):
            result[axis] = merged((graph.dims[output][axis][0],))
            continue
        if graph.dims[source][axis] == graph.dims[output][axis] and step == 1:
            continue
        if len(part) != 1 or step != 1:
            raise NotLocalError("it slices with a step, or slices flattened pixels")
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
    """Concatenate rectangles that were reduced along one axis, along that axis."""
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
            raise NotLocalError("it multiplies pixels with a constant of the image's size")
        return result
    if left[-1] != right[-2]:
        raise NotLocalError("it multiplies pixels whose rows or columns are on different axes")
    _statistic(locality, node, "sum", "", left[-1:], result)
    return result


def _reduction(locality: Locality, node: NodeProto, layouts: list[Layout]) -> Layout:
    graph, rank = locality.graph, len(layouts[0])
    if node.op_type.startswith("Global"):
        axes, keep = list(range(2, rank)), 1
    else:
        axes = attribute(node, "axes", None)
        if axes is None:
            axes = _fixed(graph, node, 1, None)
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
        _statistic(locality, node, *REDUCTIONS[node.op_type], gone, result)
    return result


def _pool(locality: Locality, node: NodeProto, layout: Layout, reduced: list[int], keep: bool) -> None:
    """Reduce rectangles over rows and columns, at once or one after the other."""
    name = node.output[0]
    combine, finish = REDUCTIONS[node.op_type]
    bins = locality.bins.get(node.input[0], Bins(node.input[0]))
    gone = tuple(layout[axis] for axis in reduced)
    if finish or node.op_type not in ("ReduceSum", "ReduceMax", "ReduceMin"):
        raise NotLocalError(
            "a part of the image, or one axis of it, can only be reduced by a sum, a maximum or a minimum"
        )
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
    """Record a node as a statistic over the whole image."""
    if atoms(result) or not is_map(summed):
        raise NotLocalError("it sums over rows or columns, but not over both")
    elements = numbers(summed) * area(summed)
    _enter(locality, Statistic(node.output[0], locality.phases[node.output[0]], combine, finish, elements))


def _enter(locality: Locality, statistic: Statistic) -> None:
    locality.statistics[statistic.name] = statistic
    locality.phases[statistic.name] = statistic.phase + 1


#: Operator -> rule.
RULES: Mapping[str, Callable[[Locality, NodeProto, list[Layout]], Layout | list[Layout]]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduction),
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


def _fixed(graph: InferredGraph, node: NodeProto, index: int, default: Any) -> Any:
    """Return the values of an optional input, which must not depend on the image."""
    if len(node.input) <= index or not node.input[index]:
        return default
    values = graph.fixed(node.input[index])
    if values is None:
        raise NotLocalError("its axes or steps depend on the image")
    return [int(value) for value in np.asarray(values).reshape(-1)]


def _image(layout: Layout) -> tuple[int, Spatial, Spatial]:
    """Return the channels, rows and columns of a tensor [1, C, H, W]."""
    if len(layout) == 4 and not atoms(layout[:2]) and len(layout[2]) == len(layout[3]) == 1:
        rows, columns = layout[2][0], layout[3][0]
        if isinstance(rows, Spatial) and isinstance(columns, Spatial) and not rows.columns and columns.columns:
            return _count(layout[1]), rows, columns
    raise NotLocalError("its input is not laid out as batch, channels, rows, columns")


def _scaled(atom: Spatial, factor: Fraction) -> Spatial:
    return Spatial(atom.columns, atom.scale * factor)


def _count(axis: tuple[Any, ...]) -> int:
    """Return the size of an axis without rows or columns."""
    return math.prod(axis)


def _numbers_of(axis: tuple[Any, ...]) -> tuple[int]:
    return (math.prod(axis),)
