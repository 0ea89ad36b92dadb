"""The operators for PyTorch's ONNX exporter: schemas, and the translation from `torch.library` to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from onnx.defs import OpSchema, register_schema
from onnxscript import opset20
from onnxscript.values import Opset

from ..plugins import torch as _operators  # noqa: F401 - registers keygraph::* with PyTorch
from .functions import DOMAIN, PLUGIN_ATTRIBUTES, VERSION


@cache
def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return PyTorch operator -> onnxscript function, for `torch.onnx.export`; the first call registers the schemas."""
    single = OpSchema.FormalParameterOption.Single
    optional = OpSchema.FormalParameterOption.Optional
    plugin = [OpSchema.Attribute(name, OpSchema.AttrType.STRING, required=False) for name in PLUGIN_ATTRIBUTES]
    scale = OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT, required=False)
    heads = OpSchema.Attribute("heads", OpSchema.AttrType.INT, required=False)
    _register(
        "KeyGraph", [("query", "T", single), ("key", "T", single), ("k", "tensor(int64)", single)], "graph", plugin
    )
    _register("PackGraph", [("mask", "M", single), ("threshold", "T", optional)], "graph", plugin)
    _register("TopKGraph", [("scores", "T", single), ("k", "tensor(int64)", single)], "graph", plugin)
    attention = [("q", "T", single), ("k", "T", single), ("v", "T", single), ("graph", "tensor(int32)", single)]
    _register("KeyGraphAttention", [*attention, ("bias", "T", optional)], "attended", [scale, heads, *plugin])
    opset = Opset(DOMAIN, VERSION)

    def key_graph(query: Any, key: Any, k: Any) -> Any:
        return opset.KeyGraph(query, key, k, **PLUGIN_ATTRIBUTES)

    def pack_graph(mask: Any, threshold: Any) -> Any:
        inputs = (mask,) if threshold is None else (mask, threshold)
        return opset.PackGraph(*inputs, **PLUGIN_ATTRIBUTES)

    def top_k_graph(scores: Any, k: Any) -> Any:
        return opset.TopKGraph(scores, k, **PLUGIN_ATTRIBUTES)

    def key_graph_attention(q: Any, k: Any, v: Any, graph: Any, bias: Any, scale: float, heads: int) -> Any:
        inputs = (q, k, v, graph) if bias is None else (q, k, v, graph, bias)
        form = {"heads": heads} if heads else {}
        return opset.KeyGraphAttention(*inputs, scale=scale, **form, **PLUGIN_ATTRIBUTES)

    return {
        torch.ops.aten.conv_transpose2d.input: _conv_transpose,
        torch.ops.keygraph.key_graph.default: key_graph,
        torch.ops.keygraph.pack_graph.default: pack_graph,
        torch.ops.keygraph.top_k_graph.default: top_k_graph,
        torch.ops.keygraph.key_graph_attention.default: key_graph_attention,
    }


def _conv_transpose(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    output_padding: Sequence[int] = (0, 0),
    groups: int = 1,
    dilation: Sequence[int] = (1, 1),
) -> Any:
    """Translate what torch.onnx would decompose first, for which it traces the whole network again."""
    strides, extra, dilations = ([*one] * (2 // len(one)) for one in (stride, output_padding, dilation))
    pads = [*padding] * (4 // len(padding))
    return opset20.ConvTranspose(
        x, weight, bias, group=groups, pads=pads, strides=strides, output_padding=extra, dilations=dilations
    )


def _register(
    name: str,
    inputs: list[tuple[str, str, OpSchema.FormalParameterOption]],
    output: str,
    attributes: list[OpSchema.Attribute],
) -> None:
    output_type = "tensor(int32)" if output == "graph" else "T"
    floats = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    types = {"T": floats, "M": ["tensor(bool)", *floats]}
    used = {type_ for _, type_, _ in inputs} | {output_type}
    register_schema(
        OpSchema(
            name,
            DOMAIN,
            VERSION,
            inputs=[OpSchema.FormalParameter(n, t, param_option=option) for n, t, option in inputs],
            outputs=[OpSchema.FormalParameter(output, output_type)],
            type_constraints=[(name, allowed, "") for name, allowed in types.items() if name in used],
            attributes=attributes,
        )
    )
