"""Sides of an image in units of the size multiple, so that tracing takes seconds instead of minutes.

torch.export gives each side of an image a symbol, and proves only at the end that it is a multiple of the size multiple
m. Until then a reshape to windows makes divisions with unknown remainders, the next one divisions of these, and each is
compared with all that were made before: a KGT of 44 layers took two minutes. So an image is traced as
[B, C, H/m, m, W/m, m]. Its sides are products of a number and a symbol then, which divide without a remainder.
Afterwards the program is changed to take the image as it is.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

_sym_size = torch.ops.aten.sym_size.int


def is_in_units(image: Tensor) -> bool:
    """Tell whether an input of a network is an image in units."""
    return image.ndim == 6


def split_units(image: Tensor, multiple: int) -> Tensor:
    """Return [B, C, H, W] as [B, C, H/m, m, W/m, m] for the size multiple m."""
    batch, channels, height, width = image.shape
    return image.reshape(batch, channels, height // multiple, multiple, width // multiple, multiple)


def merge_units(image: Tensor) -> Tensor:
    """Return [B, C, R, m, S, m] as [B, C, R m, S m]: the inverse of `split_units`."""
    batch, channels, rows, multiple, columns, _ = image.shape
    return image.reshape(batch, channels, rows * multiple, columns * multiple)


def take_whole_images(program: ExportedProgram) -> ExportedProgram:
    """Return a program whose images are in units as one that takes them as [B, C, H, W].

    Parameters
    ----------
    program
        Of a module that merges the units of its images (`merge_units`) before anything else. It is changed. Its guards
        stay those of sides in units: it cannot check them in a run.
    """
    given = set(program.graph_signature.user_inputs)
    for node in list(program.graph.nodes):
        if node.op == "placeholder" and node.name in given and is_in_units(node.meta["val"]):
            _take_whole(node)
    program.graph_module.recompile()
    arguments, named = program.example_inputs
    whole = tuple(merge_units(each) if is_in_units(each) else each for each in arguments)
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=(whole, named),
        constants=program.constants,
        verifiers=program.verifiers,
    )


def _take_whole(image: Node) -> None:
    """Make a placeholder for [B, C, R, m, S, m] one for [B, C, R m, S m]."""
    multiple = image.meta["val"].shape[3]
    sizes = [node for node in image.users if node.target is _sym_size]
    (merged,) = (node for node in image.users if node not in sizes)
    graph, value = image.graph, merged.meta["val"]
    for units in sizes:
        axis = units.args[1]
        if axis == 0:
            continue
        whole_axis = 2 if axis == 2 else 3
        with graph.inserting_before(units):
            side = graph.call_function(_sym_size, (image, whole_axis))
            count = graph.call_function(operator.floordiv, (side, multiple))
        side.meta, count.meta = {**units.meta, "val": value.shape[whole_axis]}, dict(units.meta)
        for node in list(units.users):
            if node.target is operator.mul and node.args == (units, multiple):
                node.replace_all_uses_with(side)
        units.replace_all_uses_with(count)
    merged.replace_all_uses_with(image)
    image.meta = {**image.meta, "val": value, "tensor_meta": merged.meta["tensor_meta"]}
    graph.eliminate_dead_code()
