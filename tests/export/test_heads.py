"""Padding of heads in exported files: which heads are padded, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from keygraph.export import export
from keygraph.export import heads as export_heads
from keygraph.export.heads import pad_attention_heads
from keygraph.models import LoadedModel, load_checkpoint
from keygraph.models.heads import padded_size
from keygraph.models.kgt import KGTConfig
from onnx import TensorProto, helper, numpy_helper
from tiny_kgt import save_network

# With one stage, padding cannot affect a key graph.
CONFIG = KGTConfig(layers=(2,), channels=60, heads=2, window=8, k=20, position_bias=True)
IMAGE = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Heads of 30 channels, as the paper's base network."""
    return load_checkpoint(save_network(tmp_path_factory.mktemp("heads") / "kgt.ckpt", CONFIG))


def attention_shapes(path: Path) -> set[tuple[tuple[int, ...], ...]]:
    """Weights of the three projections before each attention, and of the one after it."""
    model = ir.load(path)
    found = set()
    for node in model.graph:
        if node.op_type == "KeyGraphAttention":
            reshapes = [value.producer() for value in node.inputs[:3]]  # type: ignore[union-attr]
            gemms = [reshape.inputs[0].producer() for reshape in reshapes]  # type: ignore[union-attr]
            (use,) = node.outputs[0].uses()
            gemms += [next(iter(use[0].outputs[0].uses()))[0]]
            found.add(tuple(tuple(gemm.inputs[1].const_value.shape) for gemm in gemms))  # type: ignore[union-attr]
    return found


def test_sizes() -> None:
    assert [padded_size(size) for size in (30, 60, 32, 29, 15)] == [32, 64, 32, 32, 16]
    assert [padded_size(size) for size in (10, 20, 28, 4, 1)] == [10, 20, 28, 4, 1]


@pytest.mark.parametrize("precision", ["fp32", "fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_heads_of_30_channels_are_padded(
    base: LoadedModel, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Verified against PyTorch on the way, with the library and with the file's functions.
    export(base, tmp_path / "padded.onnx", precision=precision)
    assert attention_shapes(tmp_path / "padded.onnx") == {((64, 60), (64, 60), (64, 60), (60, 64))}
    monkeypatch.setattr(export_heads, "padded_size", lambda size: size)
    export(base, tmp_path / "plain.onnx", precision=precision, verification=False)
    assert attention_shapes(tmp_path / "plain.onnx") == {((60, 60),) * 4}
    padded, plain = onnx.load(tmp_path / "padded.onnx"), onnx.load(tmp_path / "plain.onnx")
    for one, other in zip(padded.graph.node, plain.graph.node, strict=True):
        assert (one.name, one.op_type, list(one.output)) == (other.name, other.op_type, list(other.output))
        assert list(one.attribute) == list(other.attribute)  # among them the attention's scale
    if precision == "bf16":
        return  # No CPU engine computes bf16.
    # The added zeros may change the order of a sum.
    tolerance = 1e-5 if precision == "fp32" else 2e-3
    ways: tuple[dict[str, Any], ...] = ({}, {"library": None})
    for options in ways:
        one, other = (
            keygraph.load(tmp_path / name, threads=1, **options).session.run(IMAGE, CONFIG.k)
            for name in ("padded.onnx", "plain.onnx")
        )
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=0)


def test_padding_that_would_cost_much_is_left_out(tmp_path: Path) -> None:
    config = replace(CONFIG, heads=6)  # of 10 channels
    loaded = load_checkpoint(save_network(tmp_path / "kgt.ckpt", config))
    export(loaded, tmp_path / "kgt.onnx", verification=False)
    assert attention_shapes(tmp_path / "kgt.onnx") == {((60, 60),) * 4}


HEADS, SIZE, NODES = 2, 15, 4
WIDTH = HEADS * SIZE


def attention(change: Callable[[list[onnx.NodeProto]], None], form: dict[str, Any]) -> ir.Model:
    """Return a graph of one attention between its projections, with a fault."""
    weights = [
        numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "weight"),
        numpy_helper.from_array(np.array([-1, NODES, WIDTH]), "windows"),
        numpy_helper.from_array(np.array([-1, WIDTH]), "rows"),
    ]
    nodes = []
    for name in "qkv":
        nodes += [helper.make_node("Gemm", ["x", "weight"], [f"{name}.rows"], name=name, transB=1)]
        nodes += [helper.make_node("Reshape", [f"{name}.rows", "windows"], [name])]
    nodes += [
        helper.make_node("KeyGraphAttention", ["q", "k", "v", "graph"], ["y"], domain="keygraph", scale=0.5, **form),
        helper.make_node("Reshape", ["y", "rows"], ["y.rows"]),
        helper.make_node("Gemm", ["y.rows", "weight"], ["result"], name="project", transB=1),
    ]
    change(nodes)
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [NODES, WIDTH]) for name in ("x", "result")]
    graph = helper.make_tensor_value_info("graph", TensorProto.INT32, [1, 1, NODES, 1])
    proto = helper.make_graph(nodes, "test", [floats[0], graph], [floats[1]], weights)
    return ir.from_proto(helper.make_model(proto))


def padded(model: ir.Model) -> bool:
    """Tell whether padding changes a weight."""
    before = [node.inputs for node in model.graph]
    pad_attention_heads(model.graph)
    return before != [node.inputs for node in model.graph]


def test_a_layer_without_bias_is_padded() -> None:
    assert padded(attention(lambda _nodes: None, {"heads": HEADS}))


def _no_transpose(nodes: list[onnx.NodeProto]) -> None:
    nodes[0].attribute.pop()


def _weight_computed(nodes: list[onnx.NodeProto]) -> None:
    nodes.insert(0, helper.make_node("Relu", ["weight"], ["computed"]))
    nodes[1].input[1] = "computed"


def _key_is_query(nodes: list[onnx.NodeProto]) -> None:
    nodes[6].input[1] = "q"


def _result_used_twice(nodes: list[onnx.NodeProto]) -> None:
    nodes.append(helper.make_node("Relu", ["y"], ["also"]))


def _result_multiplied_first(nodes: list[onnx.NodeProto]) -> None:
    nodes[7:7] = [helper.make_node("Relu", ["y"], ["z"])]
    nodes[8].input[0] = "z"


def _result_as_a_weight(nodes: list[onnx.NodeProto]) -> None:
    nodes[8].input[:] = ["x", "y.rows"]


@pytest.mark.parametrize(
    "change",
    [
        _no_transpose,
        _weight_computed,
        _key_is_query,
        _result_used_twice,
        _result_multiplied_first,
        _result_as_a_weight,
    ],
)
def test_what_does_not_come_from_linear_layers_stays(change: Callable[[list[onnx.NodeProto]], None]) -> None:
    assert not padded(attention(change, {"heads": HEADS}))


def test_heads_apart_stay() -> None:
    assert not padded(attention(lambda _nodes: None, {}))
