"""Layout of channels between convolutions: which graphs are changed, which are not, and that results stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from keygraph.export.channels import BLOCK, arrange_channels
from numpy.typing import NDArray

CHANNELS, HIDDEN = 6, 21


class Builder:
    """A graph from image [1, CHANNELS, H, W] to its results."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, numbers: NDArray[np.float32]) -> str:
        self.weights.append(onnx.numpy_helper.from_array(numbers, f"weight.{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"value.{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def conv(self, x: str, channels: int, into: int, bias: bool = False) -> str:
        """1x1, over all channels."""
        weights = [self.random.standard_normal((into, channels, 1, 1), np.float32)]
        weights += [self.random.standard_normal(into, np.float32)] if bias else []
        return self.add("Conv", x, *map(self.constant, weights))[0]

    def depthwise(self, x: str, channels: int, bias: bool = False) -> str:
        weights = [self.random.standard_normal((channels, 1, 3, 3), np.float32)]
        weights += [self.random.standard_normal(channels, np.float32)] if bias else []
        return self.add("Conv", x, *map(self.constant, weights), group=channels, pads=[1, 1, 1, 1])[0]

    def model(self, *results: str, rank: int = 4) -> onnx.ModelProto:
        image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, CHANNELS, "height", "width"])
        outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * rank) for name in results]
        graph = onnx.helper.make_graph(self.nodes, "test", [image], outputs, self.weights)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def gated(g: Builder, bias: bool = False) -> str:
    """A gated feed-forward network, as Restormer's."""
    y = g.depthwise(g.conv("image", CHANNELS, 2 * HIDDEN, bias), 2 * HIDDEN, bias)
    gate, y = g.add("Split", y, outputs=2, axis=1, num_outputs=2)
    (y,) = g.add("Mul", *g.add("Gelu", gate), y)
    return g.conv(y, HIDDEN, CHANNELS, bias)


def attention(g: Builder) -> str:
    """Three parts that are reshaped: nothing can be padded."""
    y = g.depthwise(g.conv("image", CHANNELS, 3 * CHANNELS), 3 * CHANNELS)
    sizes = g.constant(np.array([CHANNELS] * 3, np.int64))
    shape = g.constant(np.array([0, 0, -1], np.int64))
    q, k, v = (g.add("Reshape", y, shape)[0] for y in g.add("Split", y, sizes, outputs=3, axis=1))
    (k,) = g.add("Transpose", k, perm=[0, 2, 1])
    (scores,) = g.add("MatMul", q, k)
    return g.add("MatMul", scores, v)[0]


def plain(g: Builder) -> str:
    """A feed-forward network without a gate, as MST's."""
    (y,) = g.add("Gelu", g.conv("image", CHANNELS, HIDDEN))
    return g.conv(g.add("Gelu", g.depthwise(y, HIDDEN))[0], HIDDEN, CHANNELS)


def straight(g: Builder) -> str:
    """One convolution after the other, the last one over all channels."""
    return g.conv(g.depthwise(g.conv("image", CHANNELS, HIDDEN), HIDDEN), HIDDEN, CHANNELS)


def convolutions(model: ir.Model) -> list[tuple[int, ...]]:
    """Return the shapes of the weights."""
    convs = (node for node in model.graph if node.op_type == "Conv")
    return [node.inputs[1].const_value.numpy().shape for node in convs]  # type: ignore[union-attr]


def operators(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


def arranged(proto: onnx.ModelProto) -> ir.Model:
    """Return the model after `arrange_channels`; check that its results are the same."""
    model = ir.from_proto(proto)
    arrange_channels(model.graph)
    # The conversion to half precision needs types and shapes.
    assert all(value.dtype is not None and value.shape is not None for value in model.graph.initializers.values())
    changed = ir.to_proto(model)
    onnx.checker.check_model(changed, full_check=True)
    image = np.random.default_rng(1).standard_normal((1, CHANNELS, 9, 11), np.float32)
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"image": image}
        )
        for m in (proto, changed)
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_network_is_split_and_filled_up(bias: bool) -> None:
    g = Builder()
    model = arranged(g.model(gated(g, bias)))
    full = -(-HIDDEN // BLOCK) * BLOCK
    pair = [(full, CHANNELS, 1, 1), (full, 1, 3, 3)]
    assert convolutions(model) == [*pair, *pair, (CHANNELS, full, 1, 1)]
    assert "Split" not in operators(model)


def test_attention_is_split_but_keeps_its_channels() -> None:
    g = Builder()
    model = arranged(g.model(attention(g), rank=3))
    assert convolutions(model) == [(CHANNELS, CHANNELS, 1, 1), (CHANNELS, 1, 3, 3)] * 3
    assert "Split" not in operators(model)


def test_a_network_without_a_gate_is_filled_up_behind_the_depthwise_convolution_alone() -> None:
    # What comes before it goes through Gelu first: it is no pair of convolutions.
    g = Builder()
    assert (HIDDEN, 1, 3, 3) in convolutions(arranged(g.model(plain(g))))
    g = Builder()
    assert (32, 1, 3, 3) in convolutions(arranged(g.model(straight(g))))


def _used_twice(g: Builder) -> list[str]:
    y = g.depthwise(g.conv("image", CHANNELS, 2 * HIDDEN), 2 * HIDDEN)
    a, b = g.add("Split", y, outputs=2, axis=1, num_outputs=2)
    return [*g.add("Mul", a, b), *g.add("Relu", y)]


def _given_out(g: Builder) -> list[str]:
    y = g.depthwise(g.conv("image", CHANNELS, HIDDEN), HIDDEN)
    return [g.conv(y, HIDDEN, CHANNELS), y]


def _another_axis(g: Builder) -> list[str]:
    y = g.depthwise(g.conv("image", CHANNELS, HIDDEN), HIDDEN)
    return g.add("Split", y, outputs=3, axis=2, num_outputs=3)


def _scaled_by_one_plane(g: Builder) -> list[str]:
    y = g.depthwise(g.conv("image", CHANNELS, HIDDEN), HIDDEN)
    (y,) = g.add("Mul", y, g.conv("image", CHANNELS, 1))
    return [g.conv(y, HIDDEN, CHANNELS)]


def _first_used_elsewhere(g: Builder) -> list[str]:
    x = g.conv("image", CHANNELS, HIDDEN)
    return [g.conv(g.depthwise(x, HIDDEN), HIDDEN, CHANNELS), *g.add("Relu", x)]


@pytest.mark.parametrize("build", [_used_twice, _given_out, _another_axis, _scaled_by_one_plane, _first_used_elsewhere])
def test_what_is_needed_as_it_is_stays(build: Callable[[Builder], list[str]]) -> None:
    g = Builder()
    proto = g.model(*build(g))
    before = convolutions(ir.from_proto(proto))
    assert convolutions(arranged(proto)) == before


def test_parts_of_different_sizes() -> None:
    g = Builder()
    y = g.depthwise(g.conv("image", CHANNELS, HIDDEN), HIDDEN)
    sizes = g.constant(np.array([2, 3, HIDDEN - 5], np.int64))
    model = arranged(g.model(*g.add("Split", y, sizes, outputs=3, axis=-3)))
    # The parts are results themselves, so the split stays.
    assert operators(model) == {"Conv", "Split"}
    g = Builder()
    y = g.depthwise(g.conv("image", CHANNELS, HIDDEN), HIDDEN)
    parts = g.add("Split", y, g.constant(np.array([2, 3, HIDDEN - 5], np.int64)), outputs=3, axis=-3)
    model = arranged(g.model(*(g.add("Relu", part)[0] for part in parts)))
    assert [w[0] for w in convolutions(model)] == [2, 2, 3, 3, HIDDEN - 5, HIDDEN - 5]


def test_names_tell_the_module_and_the_part() -> None:
    g = Builder()
    model = ir.from_proto(g.model(gated(g)))
    for node in model.graph:
        node.metadata_props["scope"] = node.op_type
    arrange_channels(model.graph)
    assert all(node.metadata_props["scope"] == node.op_type for node in model.graph)
    assert {"weight.0.0.filled", "weight.0.1.filled"} <= set(model.graph.initializers)
