"""Tracing: what is spared in programs that do not need it, and names that depend on the graph alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import onnx_ir as ir
import pytest
import torch
from keygraph.export import trace
from keygraph.export.canonicalize import canonicalize
from keygraph.export.pattern_matching import quick_matching
from keygraph.models import LoadedModel
from keygraph.models.architecture import CUSTOM
from keygraph.plugins.torch import key_graph
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn
from torch.export import Dim
from torch.onnx._internal.exporter import _fx_passes


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "converts"),
    [
        (lambda x: (x + 1.0).softmax(1), False),
        (lambda x: x + torch.arange(5), True),
        (lambda x: x * (x > 0), True),
        (lambda x: x + torch.arange(5) / torch.arange(2, 7), True),
        (lambda x: x + x.half(), True),
        (lambda x: key_graph(x[None, None], x[None, None], torch.tensor([2])), False),
    ],
    ids=["one type", "whole numbers", "comparison", "quotient", "half", "operator of keygraph"],
)
@pytest.mark.parametrize("own", [True, False], ids=["own", "of others"])
def test_types_are_made_explicit_where_they_are_converted(
    unet: LoadedModel, function: Callable[[Tensor], Tensor], converts: bool, own: bool
) -> None:
    manifest = unet.manifest() if own else replace(unet.manifest(), architecture=CUSTOM)
    program = torch.export.export(Applied(function), (torch.zeros(3, 5),), dynamic_shapes=({0: Dim("n", max=32)},))
    original = _fx_passes.insert_type_promotion_nodes
    with trace._types_as_they_are(program, manifest):
        assert (_fx_passes.insert_type_promotion_nodes is original) == (converts or not own)
    assert _fx_passes.insert_type_promotion_nodes is original


def test_a_version_of_pytorch_without_the_pass_is_no_error(unet: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    program = torch.export.export(Applied(torch.relu), (torch.zeros(3, 5),))
    for name in ("keygraph.export.trace.not_there", "keygraph.not_there.anything"):
        monkeypatch.setattr(trace, "_TYPE_PASS", name)
        with trace._types_as_they_are(program, unet.manifest()):
            pass


def test_the_optimizer_lists_all_nodes_as_often_in_a_longer_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each node, the export of a network of 160 attentions took minutes more."""
    listed, iterate = [0], ir.Graph.__iter__

    def counted(graph: ir.Graph) -> Iterator[ir.Node]:
        listed[-1] += 1
        return iterate(graph)

    monkeypatch.setattr(ir.Graph, "__iter__", counted)
    for length in (8, 24):
        model = ir.from_onnx_text(f"""
            <ir_version: 10, opset_import: ["" : 20]>
            chain (float[2] x0) => (float[2] x{length}) {{
                {" ".join(f"x{i + 1} = Sigmoid(x{i})" for i in range(length))}
            }}
        """)
        listed.append(0)
        with quick_matching():
            optimize_ir(model)
    assert listed[2] - listed[1] < 16  # Of so many more nodes.


def test_two_halves_are_still_found_to_be_a_split() -> None:
    """By the pattern that ends in two nodes."""
    model = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 20]>
        halves (float[2, 4] x) => (float[2, 2] y)
            <int64[1] start = {0}, int64[1] middle = {2}, int64[1] end = {4}, int64[1] axis = {1}>
        {
            one = Sigmoid(x)
            right = Slice(one, middle, end, axis)
            left = Slice(one, start, middle, axis)
            y = Mul(left, right)
        }
    """)
    with quick_matching():
        optimize_ir(model)
    assert [node.op_type for node in model.graph] == ["Sigmoid", "Split", "Mul"]


@pytest.mark.parametrize("turned", [False, True])
def test_names_do_not_depend_on_the_order_of_edits(turned: bool) -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        small (float[n, 2] x) => (float[n, 2] restored) <float[2] shift = {1.0, 2.0}, float[2] other = {3.0, 4.0}>
        {
            first = Add(x, shift)
            scaled = Mul(first, other)
            restored = Add(scaled, shift)
        }
    """
    model = ir.from_onnx_text(text)
    nodes = [node for node in model.graph if node.op_type == "Add"]
    shift = nodes[0].inputs[1]
    for node in reversed(nodes) if turned else nodes:
        node.replace_input_with(1, None)
        node.replace_input_with(1, shift)
    canonicalize(model)
    assert set(model.graph.initializers) == {"Add.1", "Mul.1"}
    assert [value.name for value in (node.inputs[1] for node in model.graph) if value] == ["Add.1", "Mul.1", "Add.1"]
