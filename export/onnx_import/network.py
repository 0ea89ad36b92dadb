"""A PyTorch module that runs the nodes of an ONNX file."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, numpy_helper
from torch import Tensor, nn

from ...errors import InputError, printable
from .call import Call, Numbers, Operator, Value
from .file import ForeignOnnx, attributes_of
from .numbers import evaluate
from .operators import OPERATORS

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
    operator, function, attributes, inputs, outputs
        Of the node; inputs that are left out are empty.
    scope
        Path of the module that it belongs to; empty for the network.
    label
        Its name and operator, for messages.
    finished
        Values that no later node reads.
    """

    operator: str
    function: Operator
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scope: str
    label: str
    finished: tuple[str, ...]


class ImportedNetwork(nn.Module):
    """A network that an ONNX file describes.

    Parameters
    ----------
    source
        The file.
    """

    def __init__(self, source: ForeignOnnx) -> None:
        super().__init__()
        self._image, self._restored, self._opset = source.image, source.restored, source.opset
        #: (B, C, H, W) that the file takes; None for dynamic sizes.
        self.shape = source.shape
        self._constants: dict[str, Numbers] = {}
        self._tensors: dict[str, str] = {}
        graph = source.model.graph
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

    def forward(self, image: Tensor) -> Tensor:
        """Restore an image batch float32[B, C, H, W].

        Raises
        ------
        NodeError
            A node fails.
        """
        self._check(image)
        values: dict[str, Value] = {"": None, self._image: image}
        for step in self._steps:
            scope = self.get_submodule(step.scope) if step.scope else None
            found = self._run(step, values) if scope is None else scope(lambda step=step: self._run(step, values))
            # Results that are not named are optional, and not used.
            values.update((name, value) for name, value in zip(step.outputs, found, strict=False) if name)
            for name in step.finished:
                values.pop(name, None) if name else None
        restored = self._value(values, self._restored)
        if not isinstance(restored, Tensor):
            raise NodeError(f"the output {self._restored} does not depend on the image's values")
        return restored

    def _check(self, image: Tensor) -> None:
        for what, size, wanted in zip(("channels", "height", "width"), image.shape[1:], self.shape[1:], strict=True):
            if wanted is not None and size != wanted:
                raise NodeError(
                    f"the file takes {wanted} {what} only" if what == "channels" else f"its {what} is {wanted}"
                )

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
        return _Step(
            node.op_type,
            OPERATORS[node.op_type],
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
