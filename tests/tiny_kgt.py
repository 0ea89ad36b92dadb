"""A tiny KGT with random weights as a checkpoint and an exported file, and faults to insert into the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from keygraph.export import export
from keygraph.manifest import METADATA_KEY, Manifest, from_json
from keygraph.models import LoadedModel, load_checkpoint, save_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from keygraph.runtime.backends.onnx_file import read_onnx_file
from onnx import ModelProto, helper, numpy_helper

CONFIG = KGTConfig(body="columnar", layers=(1, 1), channels=8, heads=2, window=8, k=16, k_trained=(8, 16, 32))


class Tiny(NamedTuple):
    """The two files."""

    checkpoint: Path
    onnx: Path


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch with one thread: on a busy machine, its threads spin, and tiny tensors take ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def save_network(path: Path, config: KGTConfig, change: Callable[[KGT], None] | None = None, seed: int = 0) -> Path:
    """Save a network of this configuration, with weights that depend on the seed, after `change` has modified them."""
    torch.manual_seed(seed)
    network = KGT(config)
    with torch.no_grad():
        for parameter in network.parameters():  # As after training, no two are equal, not even those of norms.
            parameter.add_(0.02 * torch.randn_like(parameter))
        if change is not None:
            change(network)
    save_checkpoint(path, network)
    return path


def overflowing(network: KGT) -> None:
    """Make one branch reach 1.1e5, out of range of fp16; the convolution after it scales it back."""
    network.get_parameter("body.1.layers.0.ffn.reduce.weight").mul_(2e5)
    network.get_parameter("body.1.layers.0.ffn.reduce.bias").mul_(2e5)
    network.get_parameter("body.1.conv.weight").mul_(1e-5)


def changed(source: Path, target: Path, change: Callable[[ModelProto], None]) -> Path:
    """Write a changed copy of an ONNX file."""
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def set_manifest(model: ModelProto, **changes: Any) -> None:
    """Replace fields of the manifest, as export does: with the digest of its text."""
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
    manifest: Manifest = from_json(entry.value, "test")
    entry.value = dataclasses.replace(manifest, **changes).sealed().to_json()


def set_weight(name: str, index: int, value: Callable[[float], float]) -> Callable[[ModelProto], None]:
    """Change one number of a tensor."""

    def change(model: ModelProto) -> None:
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[index] = value(float(values.flat[index]))
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return change


class Reweighted:
    """Exported files for any weights of one configuration, from a single export.

    The exported network has numbered weights, so that each number in the file identifies a weight of the network, even
    where the exporter has split or transposed a tensor.
    """

    def __init__(self, folder: Path, config: KGTConfig = CONFIG) -> None:
        self.config = config
        template = folder / "numbered.onnx"
        export(load_checkpoint(save_network(folder / "numbered.ckpt", config, _number)), template, verification=False)
        self._model = onnx.load(template)
        self._places = {
            tensor.name: numpy_helper.to_array(tensor).astype(np.int64)
            for tensor in self._model.graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT
        }
        used = np.unique(np.concatenate([places.ravel() for places in self._places.values()]))
        count = sum(parameter.numel() for parameter in KGT(config).parameters())
        # The file has every weight, and no other number.
        np.testing.assert_array_equal(used, np.arange(count))

    def make(self, folder: Path, seed: int) -> Tiny:
        """Write a checkpoint with random weights, and the file that exporting it gives."""
        files = Tiny(save_network(folder / f"{seed}.ckpt", self.config, seed=seed), folder / f"{seed}.onnx")
        self.write(files.onnx, load_checkpoint(files.checkpoint))
        return files

    def write(self, path: Path, loaded: LoadedModel) -> None:
        """Write the file that exporting this network gives: with its weights, and the epsilons of its norms."""
        values = np.concatenate([p.detach().numpy().ravel() for p in loaded.module.parameters()])
        model = ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in self._places:
                tensor.CopyFrom(numpy_helper.from_array(values[self._places[tensor.name]], tensor.name))
        for node in model.graph.node:
            if node.op_type == "LayerNormalization":
                (attribute,) = (one for one in node.attribute if one.name == "epsilon")
                attribute.f = loaded.module.get_submodule(node.name.rpartition("/")[0]).eps
        set_manifest(model, weights_sha256=loaded.manifest().weights_sha256)
        onnx.save(model, path)
        set_manifest(model, digest=read_onnx_file(path).digest)
        onnx.save(model, path)


def _number(network: KGT) -> None:
    count = 0
    for parameter in network.parameters():
        parameter.copy_(torch.arange(count, count + parameter.numel()).reshape(parameter.shape))
        count += parameter.numel()
    assert count < 2**24, "float32 cannot number so many"


def fewer_neighbours(model: ModelProto) -> None:
    """Insert a k that is one too small."""
    _other_k(model, "Sub")


def more_neighbours(model: ModelProto) -> None:
    """Insert a k that is one too large."""
    _other_k(model, "Add")


def _other_k(model: ModelProto, operator: str) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    model.graph.node.insert(0, helper.make_node(operator, ["k", "one"], ["other_k"]))
    for node in key_graphs(model):
        node.input[2] = "other_k"


def next_for_last(model: ModelProto) -> None:
    """Replace the k-th neighbour by the next one in the function: TopK of k + 1, without the k-th."""
    node = _top_k(model)
    (function,) = (f for f in model.functions if f.name == "KeyGraph")
    position = list(function.node).index(node)
    k, index = node.input[1], node.output[1]
    node.input[1], node.output[1] = "k_and_one", "index_and_one"
    before = [_constant("one", 1), helper.make_node("Add", [k, "one"], ["k_and_one"])]
    after = [
        *(_constant("zero", 0), _constant("last_axis", -1)),
        helper.make_node("Sub", [k, "one"], ["k_less_one"]),
        helper.make_node("Slice", ["index_and_one", "zero", "k_less_one", "last_axis"], ["first"]),
        helper.make_node("Slice", ["index_and_one", k, "k_and_one", "last_axis"], ["next"]),
        helper.make_node("Concat", ["first", "next"], [index], axis=-1),
    ]
    _replace_nodes(function, [*function.node[:position], *before, node, *after, *function.node[position + 1 :]])


def turned(model: ModelProto) -> None:
    """Rotate the output by 180 degrees."""
    limits = {"minus_ones": [-1, -1], "lowest": [-(2**63), -(2**63)], "height_width": [2, 3]}
    _after_output(model, limits, "Slice", "minus_ones", "lowest", "height_width", "minus_ones")


def nan_where_bright(model: ModelProto) -> None:
    """Set the output to NaN where the input is above 0.9."""
    for name, value in (("limit", 0.9), ("not_a_number", np.nan)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    model.graph.node.append(helper.make_node("Greater", ["image", "limit"], ["bright"]))
    for node in model.graph.node:
        node.output[:] = ["right" if name == "restored" else name for name in node.output]
    model.graph.node.append(helper.make_node("Where", ["bright", "not_a_number", "right"], ["restored"]))


def ten_bits(model: ModelProto) -> None:
    """Emulate TF32: round the factors of convolutions and matrix products to 10 bits."""
    nodes = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            for place in (0, 1):
                half, short = f"{node.name}/{place}/half", f"{node.name}/{place}/short"
                name, node.input[place] = node.input[place], short
                nodes.append(helper.make_node("Cast", [name], [half], to=onnx.TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [half], [short], to=onnx.TensorProto.FLOAT))
        nodes.append(node)
    _replace_nodes(model.graph, nodes)


def swapped_channels(model: ModelProto) -> None:
    """Swap the output's channels to BGR."""
    _after_output(model, {"bgr": [2, 1, 0]}, "Gather", "bgr", axis=1)


def _after_output(
    model: ModelProto, constants: dict[str, list[int]], operator: str, *inputs: str, **attributes: Any
) -> None:
    """Add an operator after the output, with these further inputs."""
    for node in model.graph.node:
        node.output[:] = ["right" if name == "restored" else name for name in node.output]
    for name, values in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    model.graph.node.append(helper.make_node(operator, ["right", *inputs], ["restored"], **attributes))


def smallest_chosen(model: ModelProto) -> None:
    """Let the function KeyGraph keep the least similar nodes."""
    (attribute,) = (a for a in _top_k(model).attribute if a.name == "largest")
    attribute.i = 0


def ties_to_the_highest(model: ModelProto) -> None:
    """Let the function resolve ties to the highest index: TopK on the reversed row."""
    node = _top_k(model)
    (function,) = (f for f in model.functions if f.name == "KeyGraph")
    position = list(function.node).index(node)
    ranked, index = node.input[0], node.output[1]
    node.input[0], node.output[1] = "reversed", "reversed_index"

    before = [
        _constant("minus_one", -1),
        _constant("lowest", -(2**63)),
        helper.make_node("Slice", [ranked, "minus_one", "lowest", "minus_one", "minus_one"], ["reversed"]),
    ]
    after = [
        helper.make_node("Shape", [ranked], ["row"], start=-1),
        helper.make_node("Add", ["row", "minus_one"], ["last"]),
        helper.make_node("Sub", ["last", "reversed_index"], [index]),
    ]
    _replace_nodes(function, [*function.node[:position], *before, node, *after, *function.node[position + 1 :]])


def _constant(name: str, value: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array([value], np.int64)))


def _replace_nodes(graph: onnx.GraphProto | onnx.FunctionProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def key_graphs(model: ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "KeyGraph"]


def _top_k(model: ModelProto) -> onnx.NodeProto:
    node: onnx.NodeProto
    (function,) = (f for f in model.functions if f.name == "KeyGraph")
    (node,) = (node for node in function.node if node.op_type == "TopK")
    return node
