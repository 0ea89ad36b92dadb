"""Bring a traced graph into one canonical form: no duplicates, names of the PyTorch modules, nothing of the machine."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from .attention_forms import unify_attentions
from .channels import arrange_channels
from .heads import pad_attention_heads

#: The name of the traced module inside the exporter's wrapper; `body.0.conv` is `model.body.0.conv` there.
WRAPPER = "model."

_SCOPES = "pkg.torch.onnx.name_scopes"


def canonicalize(model: ir.Model) -> None:
    """Canonicalize `model` in place; the same graph always gives the same result.

    - Reshape targets that follow from the input's shape become constants, so that the graph computes no sizes for them.
    - Whatever depends on weights alone is folded.
    - KeyGraphAttention nodes get one form, where they differ (`export.attention_forms`).
    - Channels between convolutions are laid out for the engines (`export.channels`), and attention heads are padded
      (`export.heads`).
    - Equal initializers and common subexpressions are stored once.
    - Nodes are named ``<module>/<operator>``, for instance ``body.2.layers.0.attention/KeyGraphAttention``, with
      ``_1``, ``_2`` appended to repeated names; values are named after the node that computes them.
    - Initializers have the parameter's name, with ``.transposed`` appended where the exporter transposed it; small
      integer constants are named by their values.
    - The exporter's metadata on nodes (stack traces with paths of this machine) is removed.

    Parameters
    ----------
    model
        From `trace`.
    """
    _constant_targets(model.graph)
    fold_constants(model, input_size_limit=sys.maxsize, output_size_limit=sys.maxsize)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    unify_attentions(model.graph)
    arrange_channels(model.graph)
    pad_attention_heads(model.graph)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    graph = model.graph
    outputs = {value.name for value in graph.outputs}
    counts: Counter[str] = Counter()

    def unique(name: str) -> str:
        counts[name] += 1
        return name if counts[name] == 1 else f"{name}_{counts[name] - 1}"

    for node in graph:
        node.name = unique("/".join(filter(None, [_module(node), node.op_type])))
        for i, value in enumerate(node.outputs):
            if value.name not in outputs:
                value.name = node.name if i == 0 else f"{node.name}.{i}"
        node.metadata_props.clear()
        node.meta.clear()
    initializers = list(graph.initializers.values())
    graph.initializers.clear()  # A new name may be the earlier one of another.
    places = {node: place for place, node in enumerate(graph)}
    for value in initializers:
        value.name = unique(_initializer_name(value, places))
        graph.initializers.add(value)
    for value in [*graph.inputs, *graph.outputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)]:
        value.metadata_props.clear()
    graph.metadata_props.clear()
    graph.name = "keygraph"
    graph.doc_string = None
    model.metadata_props.clear()
    model.doc_string = None


def _constant_targets(graph: ir.Graph) -> None:
    """Give Reshapes constant targets: sizes, 0 for an unchanged dimension, and -1 for at most one other."""
    for node in list(graph):
        if node.op_type != "Reshape" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        before, after = node.inputs[0].shape, node.outputs[0].shape
        if node.inputs[1].const_value is not None or before is None or after is None:
            continue
        target = [
            size if isinstance(size, int) else 0 if i < len(before) and before[i] == size and size.value else -1
            for i, size in enumerate(after)
        ]
        if target.count(-1) > 1 or any(size == 0 for size in after):
            continue
        name = f"{node.outputs[0].name}.target"
        tensor = ir.tensor(target, ir.DataType.INT64, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(target)]), const_value=tensor)
        graph.register_initializer(value)
        node.replace_input_with(1, value)
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _initializer_name(value: ir.Value, places: Mapping[ir.Node, int]) -> str:
    """Return the parameter's name; for small integer constants their values; else a name from the first user.

    `places` are the nodes' places in the graph. The order of `value.uses` is that of edits to the graph.
    """
    assert value.name is not None
    if value.name.startswith(WRAPPER):
        return value.name.removeprefix(WRAPPER)
    tensor = value.const_value
    if tensor is not None and tensor.size <= 8 and tensor.dtype in (ir.DataType.INT64, ir.DataType.INT32):
        return "constant/" + ",".join(str(number) for number in tensor.numpy().reshape(-1))
    user, index = min(value.uses(), key=lambda use: (places[use.node], use.idx))
    if user.op_type == "MatMul" and index == 1 and user.name is not None:
        return user.name.rpartition("/")[0] + ".weight.transposed"
    return f"{user.name}.{index}"


def _module(node: ir.Node) -> str:
    """Return the module's name, from the exporter's list of scopes: wrapper, ..., module, operator."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    name = scopes[-2] if len(scopes) >= 2 else ""
    # Nodes that read the inputs' sizes are outside any module; the exporter has a placeholder name for that.
    return "" if name.startswith("_") or f"{name}." == WRAPPER else name.removeprefix(WRAPPER)
