"""keygraph's operators on the CPU, as users run them there: in an ONNX Runtime session with keygraph's library.

With `functions`, the operators' bodies in standard ONNX operators, the session runs these instead of the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..plugins import library
from .implementations import Call
from .problem import Inputs


def our_attention(inputs: Inputs, functions: Sequence[Any] = ()) -> Call:
    """Prepare one inference of a KeyGraphAttention node."""
    tensors = {"q": inputs.q, "k": inputs.k, "v": inputs.v, "graph": inputs.graph}
    output = torch.empty_like(inputs.q)
    return _node("KeyGraphAttention", list(tensors), tensors, output, functions, scale=inputs.scale)


def our_graph(inputs: Inputs, functions: Sequence[Any] = ()) -> Call:
    """Prepare one inference of a KeyGraph node, with one tensor as query and key."""
    tensors = {"query": inputs.nodes, "k": torch.tensor([inputs.neighbours])}
    return _node("KeyGraph", ["query", "query", "k"], tensors, torch.empty_like(inputs.graph), functions)


def our_pack(mask: Tensor, threshold: Tensor | None = None, functions: Sequence[Any] = ()) -> Call:
    """Prepare one inference of a PackGraph node.

    Parameters
    ----------
    mask, threshold
        As for `plugins.torch.pack_graph`, on the CPU; bool, float32 or float16.
    functions
        See above.
    """
    tensors = {"mask": mask} if threshold is None else {"mask": mask, "threshold": threshold}
    output = torch.empty((*mask.shape[:3], -(-mask.shape[3] // 32)), dtype=torch.int32)
    return _node("PackGraph", list(tensors), tensors, output, functions)


def our_top_k(scores: Tensor, k: int, functions: Sequence[Any] = ()) -> Call:
    """Prepare one inference of a TopKGraph node.

    Parameters
    ----------
    scores
        As for `plugins.torch.top_k_graph`, on the CPU; float32 or float16.
    k
        Nodes to select.
    functions
        See above.
    """
    tensors = {"scores": scores, "k": torch.tensor([k])}
    output = torch.empty((*scores.shape[:3], -(-scores.shape[3] // 32)), dtype=torch.int32)
    return _node("TopKGraph", list(tensors), tensors, output, functions)


def _node(
    op: str,
    inputs: list[str],
    tensors: dict[str, Tensor],
    output: Tensor,
    functions: Sequence[Any],
    **attributes: Any,
) -> Call:
    """Return a call that runs a session of one node with bound inputs, on as many threads as PyTorch uses."""
    import onnx
    import onnxruntime

    numbers = {
        torch.float32: onnx.TensorProto.FLOAT,
        torch.float16: onnx.TensorProto.FLOAT16,
        torch.bool: onnx.TensorProto.BOOL,
        torch.int32: onnx.TensorProto.INT32,
        torch.int64: onnx.TensorProto.INT64,
    }
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(op, inputs, ["output"], domain="keygraph", **attributes)
    values = [value(name, numbers[tensor.dtype], list(tensor.shape)) for name, tensor in tensors.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], op, values, [value("output", numbers[output.dtype], None)]),
        opset_imports=[onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("keygraph", 1)],
        functions=list(functions),
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if not functions:
        options.register_custom_ops_library(str(library("onnxruntime")))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, tensor in tensors.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy()))
    # Bound to our own memory: reading the result from the session would copy it.
    element = output.numpy().dtype
    binding.bind_output("output", "cpu", 0, element, list(output.shape), output.data_ptr())

    def call() -> Tensor:
        session.run_with_iobinding(binding)
        return output

    return call
