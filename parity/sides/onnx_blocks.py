"""The blocks of an exported file: the values that go in and out, by the modules in the names of its nodes."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

PRECISIONS = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


@dataclass(frozen=True)
class OnnxBlock:
    """A block of an exported file.

    Attributes
    ----------
    name
        The module.
    output
        The value that leaves it; in the type in which it was computed, where a Cast follows.
    inputs
        The floating-point values that it takes from outside, in the order in which its nodes read them: each with its
        copies in other types, what they are copies of first.
    precision
        Of the output.
    """

    name: str
    output: str
    inputs: tuple[tuple[str, ...], ...]
    precision: str


def onnx_blocks(model: ModelProto, pattern: str) -> list[OnnxBlock]:
    """Find the blocks of a file that keygraph exported, in the order in which they are done.

    Nodes are named ``<module>/<operator>``, and a module is all nodes under its name. What one of them makes and a node
    outside reads is the module's output; of several such values the last.

    Parameters
    ----------
    model
        The file; every value's type is in its `value_info`.
    pattern
        `Architecture.blocks`.
    """
    return _Graph(model, re.compile(pattern)).blocks()


class _Graph:
    def __init__(self, model: ModelProto, pattern: re.Pattern[str]) -> None:
        graph = model.graph
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
        #: The blocks that a node is in.
        self.inside = [{module for module in names if pattern.fullmatch(module)} for names in modules]

    def blocks(self) -> list[OnnxBlock]:
        outputs: dict[str, int] = {}
        inputs: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
        for i, node in enumerate(self.nodes):
            for name in filter(self._flows, node.input):
                root = self._root(name)
                for block in self.inside[i] - self._made_in(root):
                    inputs[block][root] |= {root: None, name: None}
            for name in filter(self._flows, node.output):
                for block in self._left(name):
                    producer = self.producers[self._root(name)]
                    if block in self.inside[producer]:
                        outputs[block] = max(producer, outputs.get(block, 0))
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

    def _flows(self, name: str) -> bool:
        """Whether it is no weight and of floating point."""
        return name not in self.constants and self.types.get(name) in PRECISIONS

    def _root(self, name: str) -> str:
        """What a value is a copy of in another type."""
        while name in self.producers:
            node = self.nodes[self.producers[name]]
            if node.op_type != "Cast" or not self._flows(node.input[0]):
                break
            name = node.input[0]
        return name

    def _made_in(self, name: str) -> set[str]:
        return self.inside[self.producers[name]] if name in self.producers else set()

    def _left(self, name: str) -> set[str]:
        """The blocks that a value leaves."""
        made = self._made_in(name)
        if name in self.ends:
            return made
        return {block for block in made if any(block not in self.inside[i] for i in self.readers[name])}


def _modules(node: NodeProto) -> list[str]:
    """The modules that a node is in, the outermost first."""
    parts = node.name.rpartition("/")[0].split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))] if parts != [""] else []
