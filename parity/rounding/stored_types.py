"""Which operators of an exported file store their results in FP32, asked for by the modules of the PyTorch network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnx import ModelProto, TensorProto

_FLOATS = {TensorProto.FLOAT: True, TensorProto.FLOAT16: False, TensorProto.BFLOAT16: False}

#: Operator of PyTorch -> type of the node that it becomes, where a module may keep some nodes in FP32 and others not.
_NODE_TYPES = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "convolution": "Conv",
    "addmm": "Gemm",
    "mm": "MatMul",
    "bmm": "MatMul",
    "native_layer_norm": "LayerNormalization",
    "gelu": "Gelu",
    "_softmax": "Softmax",
    "softmax": "Softmax",
    "clamp": "Clip",
    "clamp_min": "Clip",
    "sqrt": "Sqrt",
    "sigmoid": "Sigmoid",
}

#: Name of a node, ``<module>/<type>`` with an optional number -> whether its result is FP32.
StoredTypes = Mapping[str, bool]


def stored_types(model: ModelProto) -> StoredTypes:
    """Return which nodes of a half-precision file store floating-point results in FP32.

    Parameters
    ----------
    model
        The file's model, with the type of every value in `value_info`. Casts are left out.
    """
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.output, *graph.value_info)}
    return {
        node.name: _FLOATS[types[node.output[0]]]
        for node in graph.node
        if node.op_type != "Cast" and types.get(node.output[0]) in _FLOATS
    }


class Fp32Operators:
    """Tells of each operator of one run of the network whether the file keeps it in FP32.

    A node is found by its module and type, and by its number among those; if the module has no such node, the module's
    operators are taken to be in FP32 where all of its nodes are. What the file does not name is taken to be in half
    precision.

    Parameters
    ----------
    nodes
        From `stored_types`.
    """

    def __init__(self, nodes: StoredTypes) -> None:
        self._nodes = nodes
        self._modules: dict[str, bool] = {}
        for name, fp32 in nodes.items():
            module = name.rpartition("/")[0]
            self._modules[module] = self._modules.get(module, True) and fp32
        self._calls: Counter[str] = Counter()

    def keeps(self, module: str, operator: str) -> bool:
        """Return whether the next call of an operator in a module is kept in FP32; every call counts.

        Parameters
        ----------
        module
            Name of the innermost module that is running, empty for the network itself.
        operator
            Name of the operator of PyTorch, such as ``"addmm"``.
        """
        kind = _NODE_TYPES.get(operator)
        if kind is not None:
            base = f"{module}/{kind}" if module else kind
            count = self._calls[base]
            self._calls[base] += 1
            for name in (f"{base}_{count}" if count else base, base):
                if name in self._nodes:
                    return self._nodes[name]
        return self._modules.get(module, False)
