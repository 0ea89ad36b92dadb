"""A PyTorch module that runs the nodes of an ONNX file."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ...errors import InputError, printable
from .call import Call, Numbers, Operator, Value
from .numbers import evaluate
from .operators import KEYGRAPH_OPERATORS, OPERATORS

#: Metadata of a node that `torch.onnx.export` with ``dynamo=True`` writes: the paths of its modules, then its own name.
_SCOPES = "pkg.torch.onnx.name_scopes"

#: Most integers of a constant that are computed with when the network is traced.
_SMALL = 256


class NodeError(InputError):
    """A node of the file fails; the message names it."""


class Scope(nn.Module):
    """A module of the network that the file was exported from: what runs in it is known to belong to it."""

    def forward(self, run: Callable[[], Any]) -> Any:
        """Run a node."""
        return run()


@dataclass(frozen=True)
class _Step:
    """A node, ready to run.

    Attributes
    ----------
    name, operator, function, attributes, inputs, outputs
        Of the node; inputs that are left out are empty.
    scope
        Path of the module that it belongs to; empty for the network.
    label
        Its name and operator, for messages.
    finished
        Values that no later node reads.
    """

    name: str
    operator: str
    function: Operator
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scope: str
    label: str
    finished: tuple[str, ...]


class OnnxModule(nn.Module):
    """A network that an ONNX file describes; subclasses add `forward`.

    Parameters
    ----------
    model
        The file's content with its weights; all nodes are standard operators or keygraph's.
    opset
        Version of the standard operators.
    inputs, restored
        Names of the graph's inputs, and of its result.

    Attributes
    ----------
    watch
        Called with the name of each input and result, and its value; returns what later nodes get in its place. None
        for nothing.
    """

    def __init__(self, model: ModelProto, opset: int, inputs: Sequence[str], restored: str) -> None:
        super().__init__()
        self._inputs, self._restored, self._opset = tuple(inputs), restored, opset
        self.watch: Callable[[str, Value], Value] | None = None
        self._constants: dict[str, Numbers] = {}
        self._tensors: dict[str, str] = {}
        graph = model.graph
        for weight in graph.initializer:
            self._add_constant(weight.name, numpy_helper.to_array(weight))
        nodes = []
        for node in graph.node:
            if node.op_type == "Constant":
                self._add_constant(node.output[0], _constant(node))
            else:
                nodes.append(node)
        last = {name: i for i, node in enumerate(nodes) for name in (*node.input, *node.output)}
        last.pop(self._restored, None)
        ended: dict[int, list[str]] = {}
        for name, i in last.items():
            ended.setdefault(i, []).append(name)
        self._steps = [self._step(node, tuple(ended.get(i, ()))) for i, node in enumerate(nodes)]

    def compute(self, *inputs: Tensor) -> Tensor:
        """Restore an image batch; a subclass has the `forward` that its users trace or call.

        Parameters
        ----------
        inputs
            As many as the graph has, in its order.

        Raises
        ------
        NodeError
            A node fails.
        """
        values: dict[str, Value] = {"": None}
        for name, value in zip(self._inputs, inputs, strict=True):
            values[name] = self._watched(name, value)
        for step in self._steps:
            self._execute(step, values)
            for name in step.finished:
                values.pop(name, None) if name else None
        restored = self._value(values, self._restored)
        if not isinstance(restored, Tensor):
            raise NodeError(f"the output {self._restored} does not depend on the image's values")
        return restored

    def run_nodes(self, inside: Callable[[str], bool], values: dict[str, Value], result: str) -> Value:
        """Run some of the nodes alone, in their order.

        Parameters
        ----------
        inside
            Tells by its name whether a node runs.
        values
            What these nodes read from others, by name.
        result
            Name of the value to return.

        Raises
        ------
        NodeError
            A node fails.
        """
        computed = {"": None, **values}
        for step in self._steps:
            if inside(step.name):
                self._execute(step, computed)
        return self._value(computed, result)

    def reads(self, inside: Callable[[str], bool]) -> set[str]:
        """Return the names of the values that some of the nodes read from others; see `run_nodes`."""
        steps = [step for step in self._steps if inside(step.name)]
        made = {name for step in steps for name in step.outputs}
        return {name for step in steps for name in step.inputs if name} - made

    def _execute(self, step: _Step, values: dict[str, Value]) -> None:
        scope = self.get_submodule(step.scope) if step.scope else None
        found = self._run(step, values) if scope is None else scope(lambda: self._run(step, values))
        # Results that are not named are optional, and not used.
        values.update((name, self._watched(name, one)) for name, one in zip(step.outputs, found, strict=False) if name)

    def _watched(self, name: str, value: Value) -> Value:
        return value if self.watch is None else self.watch(name, value)

    def _value(self, values: dict[str, Value], name: str) -> Value:
        if name in values:
            return values[name]
        if name in self._tensors:
            tensor: Tensor = self.get_buffer(self._tensors[name])
            return tensor
        return self._constants.get(name)

    def _run(self, step: _Step, values: dict[str, Value]) -> list[Value]:
        call = Call(
            step.operator,
            [self._value(values, name) for name in step.inputs],
            [self._constants.get(name) for name in step.inputs],
            step.attributes,
            self._opset,
            sum(map(bool, step.outputs)),
        )
        try:
            numbers = evaluate(call)
            if numbers is not None:
                return list(numbers)
            found = step.function(call)
        except (InputError, RuntimeError, ValueError, IndexError, TypeError, KeyError, NotImplementedError) as error:
            if torch.compiler.is_exporting():
                raise  # What it says of symbolic sizes is read by who traces.
            reason = str(error).strip().splitlines()
            raise NodeError(f"{step.label}: {reason[0][:200] if reason else type(error).__name__}") from error
        return list(found) if isinstance(found, list | tuple) else [found]  # type: ignore[list-item]

    def _add_constant(self, name: str, value: Numbers) -> None:
        """Store a constant: small numbers as such, everything else as a buffer as well."""
        self._constants[name] = value
        integral = value.dtype == np.bool_ or np.issubdtype(value.dtype, np.integer)
        if value.size <= (_SMALL if integral else 1):
            return
        parts = [part for part in name.replace("/", ".").replace("::", ".").split(".") if part] or ["weight"]
        owner = self._scope(parts[:-1])
        leaf = parts[-1]
        while hasattr(owner, leaf):
            leaf += "_"
        owner.register_buffer(leaf, torch.from_numpy(np.array(value)))
        self._tensors[name] = ".".join((*self._path, leaf))

    def _scope(self, parts: list[str]) -> nn.Module:
        """Return the module at a path, made where it is missing."""
        owner: nn.Module = self
        path = []
        for part in parts:
            name = part
            while name not in owner._modules and hasattr(owner, name):
                name += "_"
            if name not in owner._modules:
                owner.add_module(name, Scope())
            owner = owner._modules[name]  # type: ignore[assignment]
            path.append(name)
        self._path = path
        return owner

    def _step(self, node: NodeProto, finished: tuple[str, ...]) -> _Step:
        self._scope(_module(node))
        table = OPERATORS if node.domain in ("", "ai.onnx") else KEYGRAPH_OPERATORS
        if node.op_type not in table:
            raise NodeError(f"node {printable(node.name or node.output[0])} ({node.op_type}) is not imported")
        return _Step(
            node.name,
            node.op_type,
            table[node.op_type],
            attributes_of(node),
            tuple(node.input),
            tuple(node.output),
            ".".join(self._path),
            f"node {printable(node.name or node.output[0])} ({node.op_type})",
            finished,
        )


def _module(node: NodeProto) -> list[str]:
    """Return the path of the PyTorch module that a node was exported from, as far as the exporter wrote it.

    A softmax without any is its own module, so that messages can name it.
    """
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                scopes = [scope for scope in ast.literal_eval(entry.value) if isinstance(scope, str)]
            except (ValueError, SyntaxError):
                break
            if len(scopes) > 1 and scopes[-2] and not scopes[-2].startswith("_"):
                return [part for part in scopes[-2].split(".") if part]
    *scopes, _ = node.name.split("/")
    parts = [part for scope in scopes for part in scope.split(".") if part]
    return parts or ([node.name.replace(".", "_")] if node.op_type == "Softmax" and node.name else [])


def _constant(node: NodeProto) -> Numbers:
    (name, value), *_ = attributes_of(node).items()
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if name == "value":
        return np.asarray(value)
    if name not in kinds:
        raise InputError(f"constant {printable(node.output[0])} is no numbers ({name})")
    return np.asarray(value, kinds[name])


def attributes_of(node: NodeProto) -> dict[str, object]:
    """Return a node's attributes: numbers, lists, strings, and tensors as arrays."""
    found: dict[str, object] = {}
    for one in node.attribute:
        value = helper.get_attribute_value(one)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, TensorProto):
            value = numpy_helper.to_array(value)
        elif isinstance(value, list | tuple) or hasattr(value, "__iter__"):
            value = list(value)
        found[one.name] = value
    return found
