"""A file holds attentions of all forms: with and without a bias, one per window, heads first and last."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from keygraph.errors import KeygraphError
from keygraph.export.attention_forms import unify_attentions
from keygraph.export.canonicalize import canonicalize
from keygraph.export.functions import DOMAIN, OPSET, PLUGIN_ATTRIBUTES, VERSION, operator_functions
from keygraph.export.schemas import translation_table
from keygraph.plugins import library
from keygraph.plugins.torch import key_graph, key_graph_attention
from onnx import TensorProto, helper, inliner
from onnx_ir import from_proto, to_proto
from torch import Tensor, nn
from torch.export import Dim

#: Windows of an image, heads, nodes and channels of a head.
WINDOWS, HEADS, NODES, CHANNELS = 2, 3, 20, 4


class AllForms(nn.Module):
    """Attentions whose forms are given: the rank of the bias, 0 for none, and whether heads are last."""

    def __init__(self, forms: list[tuple[int, bool]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.forms = forms
        shape = (WINDOWS, HEADS, NODES, NODES)
        self.bias = nn.ParameterList(torch.randn(shape[4 - max(rank, 1) :]) for rank, _ in forms)

    def forward(self, x: Tensor) -> Tensor:
        graph = key_graph(x[:, None], x[:, None], torch.tensor([7]))
        for (rank, heads_last), bias in zip(self.forms, self.bias, strict=True):
            given = x if heads_last else x.unflatten(2, (HEADS, CHANNELS)).transpose(1, 2)
            attended = key_graph_attention(
                given, given, given, graph, bias if rank else None, heads=HEADS if heads_last else None
            )
            x = (x + (attended if heads_last else attended.transpose(1, 2).flatten(2))) / 2
        return x


FORMS = {
    "no bias": [(0, True), (0, True)],
    "biases, heads first": [(3, False), (4, False)],
    "some biased": [(0, True), (3, True), (4, True), (0, True)],
    "both layouts": [(3, False), (4, True)],
    "everything": [(0, True), (0, False), (3, True), (4, False), (4, True)],
}


@functools.cache
def written(name: str) -> tuple[nn.Module, onnx.ModelProto]:
    """A module of these `FORMS`, and its file, as `export.onnx_file.save` makes it but for the manifest."""
    module = AllForms(FORMS[name])
    windows = WINDOWS * Dim("images", max=64)
    program = torch.export.export(
        module.eval(), (torch.rand(2 * WINDOWS, NODES, HEADS * CHANNELS),), dynamic_shapes=({0: windows},)
    )
    traced = torch.onnx.export(
        program, (), dynamo=True, opset_version=OPSET, custom_translation_table=translation_table(), verbose=False
    )
    assert traced is not None
    canonicalize(traced.model)
    proto = to_proto(traced.model)
    nodes = attentions(proto)
    forms = {(len(node.input), any(a.name == "heads" for a in node.attribute)) for node in nodes}
    assert len(forms) == 1
    ((inputs, heads_last),) = forms
    del proto.functions[:], proto.opset_import[:]
    proto.functions.extend(operator_functions(inputs == 5, heads_last))
    proto.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)])
    proto.ir_version = 9
    onnx.checker.check_model(proto, full_check=True)
    return module, proto


def attentions(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type == "KeyGraphAttention"]


def run(proto: onnx.ModelProto, image: np.ndarray, path: Path | None = None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if path is not None:
        options.register_custom_ops_library(str(path))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: image})[0]
    return result


@pytest.mark.parametrize("name", FORMS)
def test_a_file_of_any_forms_runs_with_library_and_functions(name: str) -> None:
    module, proto = written(name)
    assert len(attentions(proto)) == len(FORMS[name])
    for images in (1, 3):
        image = torch.randn(images * WINDOWS, NODES, HEADS * CHANNELS)
        with torch.no_grad():
            expected = module(image).numpy()
        np.testing.assert_allclose(run(proto, image.numpy()), expected, atol=1e-4)
        np.testing.assert_allclose(run(proto, image.numpy(), library("onnxruntime")), expected, atol=1e-4)


def test_openvino_runs_it_with_library_and_functions() -> None:
    openvino = pytest.importorskip("openvino")
    module, proto = written("everything")
    image = torch.randn(2 * WINDOWS, NODES, HEADS * CHANNELS)
    with torch.no_grad():
        expected = module(image).numpy()
    for functions in (False, True):
        core = openvino.Core()
        if not functions:
            core.add_extension(str(library("openvino")))
        source = inliner.inline_local_functions(proto) if functions else proto
        compiled = core.compile_model(
            core.read_model(source.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        np.testing.assert_allclose(compiled([image.numpy()])[0], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["no bias", "biases, heads first"])
def test_what_is_alike_is_left_alone(name: str) -> None:
    _, proto = written(name)
    assert not any(list(i.dims) == [1, 1, 1] for i in proto.graph.initializer)
    found = [(len(node.input), any(a.name == "heads" for a in node.attribute)) for node in attentions(proto)]
    assert found == [(5 if rank else 4, heads_last) for rank, heads_last in FORMS[name]]


def test_a_missing_bias_is_one_zero_for_all() -> None:
    _, proto = written("some biased")
    first, *_, last = attentions(proto)
    assert first.input[4] == last.input[4]
    (zero,) = (i for i in proto.graph.initializer if i.name == first.input[4])
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(zero), np.zeros((1, 1, 1), np.float32))


def test_heads_that_are_not_fixed_are_an_error_that_names_the_node() -> None:
    def node(name: str, rank: int, **attributes: Any) -> onnx.NodeProto:
        q = f"q{rank}"
        return helper.make_node(
            "KeyGraphAttention", [q, q, q, "graph"], [name], name=name, domain=DOMAIN, **attributes, **PLUGIN_ATTRIBUTES
        )

    info = helper.make_tensor_value_info
    inputs = [
        info("q3", TensorProto.FLOAT, [1, 8, 12]),
        info("q4", TensorProto.FLOAT, [1, "heads", 8, 4]),
        info("graph", TensorProto.INT32, [1, 1, 8, 1]),
    ]
    outputs = [info("last", TensorProto.FLOAT, [1, 8, 12]), info("first", TensorProto.FLOAT, [1, "heads", 8, 4])]
    graph = helper.make_graph([node("last", 3, heads=3), node("first", 4)], "both", inputs, outputs)
    model = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]))
    with pytest.raises(KeygraphError, match="first: the number of heads is not fixed"):
        unify_attentions(model.graph)
