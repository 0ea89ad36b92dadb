"""The operators in OpenVINO, as a host of the conformance suite."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from operator_cases import BFLOAT16, FLOATS
from operator_hosts import four_sizes, native, one_node, three_sizes


def read_node(functions: bool, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """Read `operator_hosts.one_node` of these arguments, with our library or with the functions: a core and a model."""
    openvino = pytest.importorskip("openvino")
    from onnx import inliner

    model = one_node(*arguments, functions=functions, **options)
    core = openvino.Core()
    if functions:
        model = inliner.inline_local_functions(model)
    else:
        core.add_extension(str(native("openvino")))
    return core, core.read_model(model.SerializeToString())


@functools.cache
def compiled_node(
    op: str,
    dtype: type | str,
    bias: int,
    scale: float | None,
    functions: bool,
    heads: int | None = None,
    threads: int = 2,
) -> Any:
    """Compile a node for the CPU, which computes in float32."""
    core, model = read_node(functions, op, dtype, bias, scale, heads=heads)
    return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads})


def to_openvino(array: np.ndarray) -> Any:
    """A tensor of the same numbers; NumPy's bfloat16 is a foreign type to OpenVINO, which gets its bits."""
    import openvino

    array = np.ascontiguousarray(array)
    if array.dtype == BFLOAT16:
        return openvino.Tensor(array.view(np.int16), list(array.shape), openvino.Type.bf16)
    return openvino.Tensor(array)


class OpenVino:
    """OpenVINO on the CPU with libkeygraph_openvino, or with the operators as functions, which it needs inlined.

    The CPU plugin converts inputs of half precision to float32. OpenVINO's TopK selects any of equal values.
    """

    dtypes = FLOATS

    def __init__(self, functions: bool = False, heads_last: bool = False) -> None:
        self.functions = functions
        self.finite_only = functions
        self.lowest_of_equals = not functions
        self.heads_last = heads_last

    def _run(self, compiled: Any, *inputs: np.ndarray, dtype: np.dtype) -> np.ndarray:
        request = compiled.create_infer_request()
        request.infer([to_openvino(array) for array in inputs])
        output: np.ndarray = np.array(request.get_output_tensor(0).data).view(dtype)
        return output

    def key_graph(self, query: np.ndarray, key: np.ndarray, k: int) -> np.ndarray:
        model = compiled_node("KeyGraph", name_of(query.dtype), False, None, self.functions)
        return self._run(model, query, key, np.array([k]), dtype=np.dtype(np.int32))

    def pack_graph(self, mask: np.ndarray, threshold: np.ndarray | None = None) -> np.ndarray:
        model = compiled_node("PackGraph", name_of(mask.dtype), threshold is not None, None, self.functions)
        inputs = [mask] if threshold is None else [mask, threshold]
        return self._run(model, *inputs, dtype=np.dtype(np.int32))

    def top_k_graph(self, scores: np.ndarray, k: int) -> np.ndarray:
        model = compiled_node("TopKGraph", name_of(scores.dtype), False, None, self.functions)
        return self._run(model, scores, np.array([k]), dtype=np.dtype(np.int32))

    def key_graph_attention(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        graph: np.ndarray,
        bias: np.ndarray | None = None,
        scale: float | None = None,
    ) -> np.ndarray:
        if self.functions and scale is None:
            scale = q.shape[3] ** -0.5  # a function's attribute cannot have a default that depends on a shape
        heads = q.shape[1]
        form = heads if self.heads_last else None
        rank = 0 if bias is None else bias.ndim
        model = compiled_node("KeyGraphAttention", name_of(q.dtype), rank, scale, self.functions, form)
        if self.heads_last:
            q, k, v = (three_sizes(x) for x in (q, k, v))
        output = self._run(model, q, k, v, graph, *([] if bias is None else [bias]), dtype=q.dtype)
        return four_sizes(output, heads) if self.heads_last else output


def name_of(dtype: np.dtype) -> type | str:
    """How `operator_hosts.one_node` calls a type."""
    return "bfloat16" if dtype == BFLOAT16 else dtype.type
