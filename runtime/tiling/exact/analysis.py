"""Analyse a graph: find for each node whether it is local, a statistic, or computed from statistics.

The rules depend on operators and sizes alone, not on names, modules or architectures.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from .graph_nodes import ancestors
from .locality import Locality
from .operator_rules import REDUCTIONS, RULES
from .shape_inference import InferredGraph
from .spatial_layout import Layout, NotLocalError, Spatial, atoms, constant, is_map

if TYPE_CHECKING:
    from onnx import NodeProto


def analyze(graph: InferredGraph, inputs: Sequence[str], output: str) -> Locality:
    """Find what each node does to the image's pixels.

    Parameters
    ----------
    graph
        The network, with the sizes of all values.
    inputs
        Names of the input images, [1, C, H, W].
    output
        Name of the restored image.

    Raises
    ------
    NotLocalError
        A node is of none of the three kinds, or its operator has no rule.
    """
    nodes = tuple(n for n in ancestors(graph.model.graph.node, [output]) if n.output[0] not in graph.sizes)
    locality = Locality(graph, nodes)
    for name in inputs:
        locality.layouts[name] = (
            *constant((1, graph.dims[name][1][0])),
            (Spatial(False, Fraction(1)),),
            (Spatial(True, Fraction(1)),),
        )
        locality.phases[name] = 0
    for node in nodes:
        where = f"{node.name or node.output[0]} ({node.op_type})"
        try:
            _analyze_node(locality, node)
        except NotLocalError as error:
            raise NotLocalError(f"{where}: {error}") from None
        for name in node.output:
            if name and name not in locality.expanded and name not in locality.bins:
                extents = graph.probes.extents(locality.layouts[name])
                if extents != graph.dims[name]:
                    raise NotLocalError(f"{where} gives sizes {graph.dims[name]} where {extents} were expected")
    if not is_map(locality.layouts[output]) or output in locality.statistics:
        raise NotLocalError("the result is not an image")
    return locality


def _analyze_node(locality: Locality, node: NodeProto) -> None:
    """Enter the phases and layouts of a node's outputs, and whatever its rule finds."""
    layouts = [_layout(locality, name) for name in node.input]
    phase = max((locality.phases.get(name, 0) for name in node.input), default=0)
    pooling = node.op_type in ("Slice", "Concat") or node.op_type in REDUCTIONS
    if not pooling and any(name in locality.bins for name in node.input):
        raise NotLocalError("it reads a part of the image cut out of the whole")
    for name in filter(None, node.output):
        locality.phases[name] = phase
    if node.op_type != "Expand" and not any(atoms(layout) for layout in layouts):
        for name in filter(None, node.output):
            dims = locality.graph.dims[name]
            if any(first != second for first, second in dims):
                raise NotLocalError("its result has the image's size, but none of its inputs has")
            locality.layouts[name] = constant([first for first, _ in dims])
        return
    rule = RULES.get(node.op_type)
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
    """Return the layout of an input, which may be a constant or follow from sizes."""
    if not name:
        return ()
    if name in locality.layouts:
        return locality.layouts[name]
    dims = locality.graph.dims[name]
    if any(first != second for first, second in dims):
        raise NotLocalError(f"it reads {name}, whose size depends on the image's")
    locality.layouts[name] = constant([first for first, _ in dims])
    return locality.layouts[name]
