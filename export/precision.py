"""Convert a traced FP32 graph to a strongly typed half-precision graph in which some nodes stay in FP32."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from ..errors import KeygraphError
from ..instrumentation.metrics import LARGEST
from ..runtime.backends.emulated_half import MOVES
from .functions import OPSET

#: Precision -> type of weights and activations.
HALF_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}

#: Precision -> opset of its files. ONNX defines convolutions of bfloat16 since opset 22.
OPSETS = {"fp32": OPSET, "fp16": OPSET, "bf16": 22}

#: Operator -> inputs that ONNX defines as float32, whatever the type of the others.
_ALWAYS_FP32 = {"Resize": (1, 2)}


def float_nodes(model: ir.Model) -> list[str]:
    """Return the names of the nodes that compute floating-point values; nodes that only move values are left out."""
    return [node.name or "" for node in model.graph if _computes(node)]


def to_half(model: ir.Model, precision: str, kept: Collection[str], half_io: bool = False) -> None:
    """Convert `model` in place.

    Weights and activations become half precision; the nodes in `kept` compute in FP32. A value that passes between the
    two gets one Cast, however many nodes read it. Weights are stored in the type that their reader takes and need none.
    Operators that only move values do so in half precision wherever that loses nothing.

    Parameters
    ----------
    model
        After `canonicalize`, with all floating-point values in FP32.
    precision
        ``"fp16"`` or ``"bf16"``.
    kept
        Names of the nodes that stay in FP32. So do nodes with a scalar constant that the half type cannot represent (an
        epsilon of 1e-12, a mask of -1e9).
    half_io
        Convert the graph's inputs and outputs, too.

    Raises
    ------
    KeygraphError
        A weight is out of range of the half type.
    """
    _Conversion(model.graph, precision, kept, half_io).run()


class _Conversion:
    """One call of `to_half`."""

    def __init__(self, graph: ir.Graph, precision: str, kept: Collection[str], half_io: bool) -> None:
        self.graph, self.precision, self.half = graph, precision, HALF_TYPES[precision]
        self.ends = self.half if half_io else ir.DataType.FLOAT
        self.types = self._choose(kept)
        self.cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.names = Counter(re.sub(r"_\d+$", "", node.name or "") for node in graph)

    def run(self) -> None:
        graph = self.graph
        nodes = list(graph)
        weights = [value for value in graph.initializers.values() if value.dtype == ir.DataType.FLOAT]
        for value in graph.inputs:
            if value.dtype == ir.DataType.FLOAT:
                value.dtype = self.ends
        for node in nodes:
            for i, given in enumerate(node.inputs):
                if given is not None and _is_float(given):
                    fixed = i in _ALWAYS_FP32.get(node.op_type, ())
                    wanted = ir.DataType.FLOAT if fixed else self.types[node]
                    node.replace_input_with(i, self._typed(given, wanted))
            for value in node.outputs:
                if value.dtype == ir.DataType.FLOAT:
                    value.dtype = self.types[node]
        self._finish_outputs()
        for value in weights:
            # When only the half-precision copy is used, it takes over the name.
            if not value.uses() and value.name is not None:
                graph.initializers.pop(value.name)
                copy = self.cast.get((value, self.half))
                if copy is not None and copy.name is not None:
                    graph.initializers.pop(copy.name)
                    copy.name = value.name
                    graph.initializers.add(copy)

    def _choose(self, kept: Collection[str]) -> dict[ir.Node, ir.DataType]:
        """Choose the type in which each node computes."""
        full = ir.DataType.FLOAT
        outputs = set(self.graph.outputs)
        types: dict[ir.Node, ir.DataType] = {}
        # A node that moves values for half-precision readers only is half, too: the readers would round the values.
        for node in reversed(list(self.graph)):
            if _computes(node):
                source = not any(value is not None and _is_float(value) for value in node.inputs)
                keep = source or node.name in kept or self._beyond_half(node) or _packs_a_mask(node)
                types[node] = full if keep else self.half
            else:
                wanted = {types[user] for value in node.outputs for user, _ in value.uses()}
                if outputs & set(node.outputs):
                    wanted.add(self.ends)
                types[node] = self.half if wanted == {self.half} else full
        for node in self.graph:
            if not _computes(node) and types[node] == full:
                made = {
                    types[producer] if (producer := value.producer()) is not None else self.ends
                    for value in node.inputs
                    if value is not None and _is_float(value) and value.const_value is None
                }
                # Moving values that are all half precision already in FP32 gains nothing.
                types[node] = full if full in made else self.half
        return types

    def _beyond_half(self, node: ir.Node) -> bool:
        """Tell whether a scalar constant of the node overflows or underflows in the half type."""
        for i, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value.const_value.size != 1 or not _is_float(value):
                continue
            if i in _ALWAYS_FP32.get(node.op_type, ()):
                continue
            number = abs(float(value.const_value.numpy().reshape(-1)[0]))
            smallest = 2.0**-24 if self.precision == "fp16" else 1e-38
            if number and not smallest <= number <= LARGEST[self.precision]:
                return True
        return False

    def _typed(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """Return the value in this type: itself, or a conversion that is added once."""
        if value.dtype == wanted:
            return value
        made = self.cast.get((value, wanted))
        if made is None:
            made = self._convert_weight(value, wanted) if value.const_value is not None else self._cast(value, wanted)
            self.cast[value, wanted] = made
        return made

    def _convert_weight(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """Add a copy of an initializer in another type."""
        assert value.const_value is not None
        given = value.const_value.numpy()
        with np.errstate(over="ignore"):
            numbers = given.astype(wanted.numpy())
        if not np.isfinite(numbers.astype(np.float32)).all():
            user, _ = next(iter(value.uses()))
            raise KeygraphError(
                f"the weight {value.name} reaches {np.abs(given).max():.3g}, more than {self.precision} holds "
                f"({LARGEST[self.precision]:.5g}); keep its operator in FP32 with --keep-fp32 '{user.name}', let "
                "--precision auto find what to keep, or export with --precision bf16; no file was written"
            )
        name = f"{value.name}.{self.precision}"
        stored = ir.Value(name=name, type=ir.TensorType(wanted), shape=value.shape)
        stored.const_value = ir.Tensor(numbers, dtype=wanted, name=name)
        self.graph.initializers.add(stored)
        return stored

    def _cast(self, value: ir.Value, wanted: ir.DataType, name: str | None = None) -> ir.Value:
        producer = value.producer()
        module = (producer.name or "").rpartition("/")[0] if producer is not None else ""
        node = ir.node("Cast", [value], {"to": wanted}, name=self._unique("/".join(filter(None, [module, "Cast"]))))
        (made,) = node.outputs
        made.name, made.dtype, made.shape = name or node.name, wanted, value.shape
        if producer is not None:
            self.graph.insert_after(producer, node)
        else:
            self.graph.insert_before(self.graph[0], node)
        return made

    def _finish_outputs(self) -> None:
        for i, value in enumerate(self.graph.outputs):
            if _is_float(value) and value.dtype != self.ends:
                producer, name = value.producer(), value.name
                assert producer is not None
                value.name = producer.name
                self.graph.outputs[i] = self._cast(value, self.ends, name)

    def _unique(self, name: str) -> str:
        self.names[name] += 1
        return name if self.names[name] == 1 else f"{name}_{self.names[name] - 1}"


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype in (ir.DataType.FLOAT, *HALF_TYPES.values())


def _packs_a_mask(node: ir.Node) -> bool:
    """Tell whether a node is PackGraph without a threshold, for which a value that rounds to 0 is another mask."""
    return node.op_type == "PackGraph" and len(node.inputs) == 1


def _computes(node: ir.Node) -> bool:
    """Tell whether a node computes floating-point values or, like KeyGraph, an integer result from them."""
    floats = any(value is not None and _is_float(value) for value in (*node.inputs, *node.outputs))
    return floats and not (node.domain == "" and node.op_type in MOVES) and node.op_type not in ("Shape", "Size")
