"""Blocks of an exported file: their input and output values, found by the module names in the names of its nodes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

from ..metrics.blocks import EVERY_MODULE

PRECISIONS = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


@dataclass(frozen=True)
class OnnxBlock:
    """A block of an exported file.

    Attributes
    ----------
    name
        Name of the module.
    output
        Name of its output value; the one before the Cast, where a Cast follows.
    inputs
        Names of the floating-point values that it reads from outside, in the order in which its nodes read them. Each
        is a tuple of the value itself and its casts to other types.
    precision
        Of the output.
    """

    name: str
    output: str
    inputs: tuple[tuple[str, ...], ...]
    precision: str

    def contains(self, node: str) -> bool:
        """Return whether the node of this name belongs to the block."""
        return f"{node.rpartition('/')[0]}.".startswith(f"{self.name}.")


def onnx_blocks(model: ModelProto, pattern: str) -> list[OnnxBlock]:
    """Find the blocks of a file that keygraph exported, in the order of execution.

    Nodes are named ``<module>/<operator>``; a module consists of all nodes whose names start with its own. The module's
    output is the value that it computes and a node outside reads; of several such values the last.

    Parameters
    ----------
    model
        The file's model, with the type of every value in `value_info`.
    pattern
        Regular expression for the names of the blocks: `Architecture.blocks`.
    """
    return _Graph(model, re.compile(pattern)).blocks()


class _Graph:
    def __init__(self, model: ModelProto, pattern: re.Pattern[str]) -> None:
        graph = model.graph
        self.every_module = pattern.pattern == EVERY_MODULE
        self.nodes: list[NodeProto] = list(graph.node)
        self.types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
        self.ends = {value.name for value in graph.output}
        self.constants = {tensor.name for tensor in graph.initializer}
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for i, node in enumerate(self.nodes):
            for name in node.input:
                self.readers[name].append(i)
        modules = [_modules(node) for node in self.nodes]
        #: For each node, the blocks that contain it.
        self.inside = [{module for module in names if pattern.fullmatch(module)} for names in modules]

    def blocks(self) -> list[OnnxBlock]:
        outputs: dict[str, int] = {}
        inputs: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
        for i, node in enumerate(self.nodes):
            for name in filter(self._is_feature, node.input):
                root = self._root(name)
                for block in self.inside[i] - self._blocks_computing(root):
                    inputs[block][root] |= {root: None, name: None}
            for name in filter(self._is_feature, node.output):
                for block in self._blocks_leaving(name):
                    producer = self.producers[self._root(name)]
                    if block in self.inside[producer]:
                        outputs[block] = max(producer, outputs.get(block, 0))
        if self.every_module:  # In no network that keygraph knows are norms merged.
            for block in self._merged():
                inputs.pop(block, None)
        found = sorted(outputs.items(), key=lambda item: (item[1], -item[0].count(".")))
        return [
            OnnxBlock(
                name=block,
                output=self.nodes[producer].output[0],
                inputs=tuple(tuple(copies) for copies in inputs[block].values()),
                precision=PRECISIONS[self.types[self.nodes[producer].output[0]]],
            )
            for block, producer in found
        ]

    def _merged(self) -> set[str]:
        """Find the blocks that are norms into which the convolution before them was merged.

        The node of both has the name of the norm and the convolution's input and weight; the convolution has no node.
        """
        present = {module for node in self.nodes for module in _modules(node)}
        merged: set[str] = set()
        for i, node in enumerate(self.nodes):
            if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in self.constants:
                owner = node.input[1].rpartition(".")[0]
                if owner and owner not in present:
                    merged |= {block for block in self.inside[i] if not owner.startswith(f"{block}.")}
        return merged

    def _is_feature(self, name: str) -> bool:
        """Whether a value is of floating point and no weight."""
        return name not in self.constants and self.types.get(name) in PRECISIONS

    def _root(self, name: str) -> str:
        """Follow Casts back to the value that was computed."""
        while name in self.producers:
            node = self.nodes[self.producers[name]]
            if node.op_type != "Cast" or not self._is_feature(node.input[0]):
                break
            name = node.input[0]
        return name

    def _blocks_computing(self, name: str) -> set[str]:
        return self.inside[self.producers[name]] if name in self.producers else set()

    def _blocks_leaving(self, name: str) -> set[str]:
        """Find the blocks that compute a value which is read outside of them."""
        made = self._blocks_computing(name)
        if name in self.ends:
            return made
        return {block for block in made if any(block not in self.inside[i] for i in self.readers[name])}


def _modules(node: NodeProto) -> list[str]:
    """List the modules that contain a node, the outermost first."""
    parts = node.name.rpartition("/")[0].split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))] if parts != [""] else []
