"""A tiny KGT with random weights, as a checkpoint and as an exported file, and faults to plant in the latter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from keygraph.export import export
from keygraph.manifest import METADATA_KEY, Manifest, from_json
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from onnx import ModelProto, helper, numpy_helper

CONFIG = KGTConfig(body="columnar", layers=(1, 1), channels=8, heads=2, window=8, k=16, k_trained=(8, 16, 32))


class Tiny(NamedTuple):
    """The two files."""

    checkpoint: Path
    onnx: Path


def make_tiny(folder: Path) -> Tiny:
    """Make both files in `folder`, or find them there."""
    files = Tiny(folder / "tiny.ckpt", folder / "tiny.onnx")
    if not files.onnx.exists():
        save_network(files.checkpoint, CONFIG)
        export(load_checkpoint(files.checkpoint), files.onnx, verification=False)
    return files


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's threads wait for each other by spinning: on a busy machine, tiny tensors take ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def save_network(path: Path, config: KGTConfig, change: Callable[[KGT], None] = lambda _network: None) -> Path:
    """Save a network of this configuration; the same weights every time, but for what `change` does."""
    torch.manual_seed(0)
    network = KGT(config)
    with torch.no_grad():
        for parameter in network.parameters():  # as after training: no two are equal, not even the norms'
            parameter += 0.02 * torch.randn_like(parameter)
        change(network)
    save_checkpoint(path, network)
    return path


def overflowing(network: KGT) -> None:
    """One branch reaches 1.1e5; the convolution after it brings it back, so FP32 is none the worse."""
    reduce = network.body[1].layers[0].ffn.reduce
    reduce.weight *= 2e5
    reduce.bias *= 2e5
    network.body[1].conv.weight *= 1e-5


def changed(source: Path, target: Path, change: Callable[[ModelProto], None]) -> Path:
    """Write a changed copy of an ONNX file."""
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def set_manifest(model: ModelProto, **changes: object) -> None:
    """Replace fields of the manifest."""
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    manifest: Manifest = from_json(entry.value, "test")
    entry.value = dataclasses.replace(manifest, **changes).to_json()


def set_weight(name: str, index: int, value: Callable[[float], float]) -> Callable[[ModelProto], None]:
    """Change one number of a tensor."""

    def change(model: ModelProto) -> None:
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[index] = value(float(values.flat[index]))
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return change


def fewer_neighbours(model: ModelProto) -> None:
    """Plant a k that is off by one."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    model.graph.node.insert(0, helper.make_node("Sub", ["k", "one"], ["fewer"]))
    for node in key_graphs(model):
        node.input[2] = "fewer"


def swapped_channels(model: ModelProto) -> None:
    """Plant BGR for RGB in the output."""
    for node in model.graph.node:
        node.output[:] = ["rgb" if name == "restored" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "bgr"))
    model.graph.node.append(helper.make_node("Gather", ["rgb", "bgr"], ["restored"], axis=1))


def smallest_chosen(model: ModelProto) -> None:
    """Plant a KeyGraph that keeps the least similar nodes, in the function."""
    (attribute,) = (a for a in _top_k(model).attribute if a.name == "largest")
    attribute.i = 0


def ties_to_the_highest(model: ModelProto) -> None:
    """Let the function give ties to the highest index: TopK on the reversed row."""
    node = _top_k(model)
    (function,) = (f for f in model.functions if f.name == "KeyGraph")
    position = list(function.node).index(node)
    ranked, index = node.input[0], node.output[1]
    node.input[0], node.output[1] = "reversed", "reversed_index"

    def constant(name: str, value: int) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array([value], np.int64)))

    before = [
        constant("minus_one", -1),
        constant("lowest", -(2**63)),
        helper.make_node("Slice", [ranked, "minus_one", "lowest", "minus_one", "minus_one"], ["reversed"]),
    ]
    after = [
        helper.make_node("Shape", [ranked], ["row"], start=-1),
        helper.make_node("Add", ["row", "minus_one"], ["last"]),
        helper.make_node("Sub", ["last", "reversed_index"], [index]),
    ]
    nodes = [*function.node[:position], *before, node, *after, *function.node[position + 1 :]]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del function.node[:]
    function.node.extend(copies)


def key_graphs(model: ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "KeyGraph"]


def _top_k(model: ModelProto) -> onnx.NodeProto:
    (function,) = (f for f in model.functions if f.name == "KeyGraph")
    (node,) = (node for node in function.node if node.op_type == "TopK")
    return node
