"""Lay out the channels between convolutions for the engines: no Split, and channel counts that kernels exist for.

The released networks compute queries, keys and values (Restormer also the gate and the gated features) with one
convolution and split its result, which copies it. Their hidden channel counts (127, 255, 1021) are no multiple of a
vector: ONNX Runtime leaves its blocked layout for them, and GPUs pad their matrices. Both are changed here in the
weights alone, and exactly: all added channels are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .weights import constant, new_constant, only_user

#: Channels are padded to a multiple of this: the longest float32 vector, and the tile of float16 tensor cores.
BLOCK = 16

#: Operators that do not mix channels and give finite numbers for zeros and finite numbers.
_CHANNELWISE = ("Gelu", "Mul")


def arrange_channels(graph: ir.Graph) -> None:
    """Lay out channels in place.

    - A Split over the channels of a pair (a convolution followed by a depth-wise convolution) becomes one pair for each
      part.
    - The output channels of a pair are padded with zeros to a multiple of `BLOCK`, where they reach only convolutions,
      by way of channel-wise operators.

    Parameters
    ----------
    graph
        Changed in place.
    """
    for node in list(graph):
        if node.op_type == "Split":
            _split_pair(graph, node)
    done: set[ir.Node] = set()
    for node in list(graph):
        if node not in done and _pair(node) is not None:
            done |= _pad_channels(graph, node)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def _constants(conv: ir.Node) -> list[tuple[ir.Value, NDArray[Any]]]:
    """Return the weights of a convolution and its bias, if it has one."""
    pairs = [(value, constant(value)) for value in conv.inputs[1:] if value is not None]
    return [(value, numbers) for value, numbers in pairs if numbers is not None]


def _attribute(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def _dense(node: ir.Node | None) -> bool:
    """Tell whether a node is a convolution over all channels with constant weights."""
    return (
        node is not None
        and node.op_type == "Conv"
        and _attribute(node, "group", 1) == 1
        and all(constant(value) is not None for value in node.inputs[1:])
    )


def _pair(node: ir.Node) -> ir.Node | None:
    """Return the dense convolution before a depth-wise one that is its only user; None for any other node."""
    if node.op_type != "Conv" or any(constant(value) is None for value in node.inputs[1:]):
        return None
    weight, value = constant(node.inputs[1]), node.inputs[0]
    assert weight is not None
    assert value is not None
    source = value.producer()
    depthwise = weight.shape[1] == 1 and _attribute(node, "group", 1) == weight.shape[0]
    return source if depthwise and _dense(source) and only_user(value) else None


def _split_pair(graph: ir.Graph, split: ir.Node) -> None:
    """Replace a Split after a pair of convolutions by a pair for each part."""
    value = split.inputs[0]
    depthwise = value.producer() if value is not None else None
    if depthwise is None or not only_user(value) or _attribute(split, "axis", 0) not in (1, -3):
        return
    dense = _pair(depthwise)
    if dense is None or any(part.is_graph_output() for part in split.outputs):
        return
    channels, parts = _channels(depthwise), len(split.outputs)
    sizes = constant(split.inputs[1]) if len(split.inputs) > 1 else None
    if sizes is None:
        most = -(-channels // parts)  # The last part may be smaller.
        sizes = np.array([most] * (parts - 1) + [channels - most * (parts - 1)])
    edges = np.cumsum(sizes)[:-1]
    for i, part in enumerate(split.outputs):
        x = dense.inputs[0]
        for conv in (dense, depthwise):
            weights = [
                new_constant(graph, value, np.split(numbers, edges)[i], f".{i}") for value, numbers in _constants(conv)
            ]
            attributes = dict(conv.attributes)
            if conv is depthwise:
                attributes["group"] = ir.AttrInt64("group", int(sizes[i]))
            new = ir.Node("", "Conv", [x, *weights], attributes.values(), metadata_props=dict(conv.metadata_props))
            graph.insert_before(split, new)
            x = new.outputs[0]
            x.name, x.type, x.shape = f"{conv.outputs[0].name}.{i}", conv.outputs[0].type, part.shape
        assert x is not None
        part.replace_all_uses_with(x)
    graph.remove([split, depthwise, dense], safe=True)


def _channels(conv: ir.Node) -> int:
    weight = constant(conv.inputs[1])
    assert weight is not None
    return int(weight.shape[0])


def _pad_channels(graph: ir.Graph, first: ir.Node) -> set[ir.Node]:
    """Pad the channels of a depth-wise convolution and all that are combined with them; return these convolutions."""
    found = _reach(first)
    if found is None:
        return {first}
    sources, values, users = found
    more = -_channels(first) % BLOCK
    if more:
        for depthwise in sources:
            dense = _pair(depthwise)
            assert dense is not None
            for conv in (dense, depthwise):
                _grow(graph, conv, 0, more)
            depthwise.attributes["group"] = ir.AttrInt64("group", _channels(depthwise))
            values.add(dense.outputs[0])
        for conv in users:
            _grow(graph, conv, 1, more)
        for value in values:
            value.shape = None  # Outdated; shape inference finds the new one.
    return sources


def _grow(graph: ir.Graph, conv: ir.Node, axis: int, more: int) -> None:
    """Append zeros to a convolution's weights along an axis, and to its bias along axis 0."""
    for place, (value, numbers) in enumerate(_constants(conv), start=1):
        if axis < 1 or place == 1:
            margin = [(0, more if i == axis else 0) for i in range(numbers.ndim)]
            conv.replace_input_with(place, new_constant(graph, value, np.pad(numbers, margin), ".filled"))


def _reach(first: ir.Node) -> tuple[set[ir.Node], set[ir.Value], set[ir.Node]] | None:
    """Follow a depth-wise convolution's channels through channel-wise operators.

    Returns
    -------
    tuple or None
        The depth-wise convolutions whose channels are combined, the values between, and the convolutions that read
        them; None when other nodes compute or read one of the values.
    """
    sources: set[ir.Node] = set()
    values: set[ir.Value] = set()
    users: set[ir.Node] = set()
    waiting = [first.outputs[0]]
    while waiting:
        value = waiting.pop()
        if value in values:
            continue
        values.add(value)
        producer = value.producer()
        if producer is None or value.is_graph_output():
            return None
        if producer.op_type in _CHANNELWISE:
            waiting += [x for x in producer.inputs if x is not None]
        elif _pair(producer) is not None and _channels(producer) == _channels(first):
            sources.add(producer)
        else:
            return None
        for user, place in value.uses():
            if user.op_type in _CHANNELWISE:
                waiting.append(user.outputs[0])
            elif _dense(user) and place == 0:
                users.add(user)
            else:
                return None
    return sources, values, users
