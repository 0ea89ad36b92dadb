"""What rounding explains: the arithmetic in which it is measured, the rule, and faults that a fixed limit missed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_kgt
import torch
from keygraph.models import load_checkpoint
from keygraph.parity import Comparison, RoundingError, TorchProbe
from keygraph.parity import compare as compare_all
from keygraph.parity.pass_criteria import FACTOR, judge, judge_blocks, rounding_note
from keygraph.parity.rounding.arithmetic import UNIT_ROUNDOFF, ReorderedSums, RoundedStorage
from keygraph.parity.rounding.expected import one_rounding
from keygraph.parity.rounding.network import EXACT, Arithmetic, Network, rms_error
from keygraph.parity.rounding.stored_types import Fp32Operators
from keygraph.plugins.torch import key_graph, key_graph_attention
from onnx import ModelProto, helper, numpy_helper
from tiny_kgt import Tiny, changed
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURE = np.random.default_rng(3).random((16, 24, 3), np.float32)


def compare(candidate: Any, reference: Any, **options: Any) -> Comparison:
    (comparison,) = compare_all(candidate, reference, [PICTURE], **options).comparisons
    return comparison


@pytest.fixture(scope="module")
def clean(tiny: Tiny) -> Comparison:
    """The exported file against its checkpoint, with blocks."""
    return compare(tiny.onnx, tiny.checkpoint, blocks=True)


# The arithmetic.


class Everything(nn.Module):
    """Every operator whose sums are reordered."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(6, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 16, 2)
        self.norm, self.linear, self.plain = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 16, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 6, H, W] -> [B, N, 16]."""
        x = self.plain(self.linear(self.norm(self.up(self.conv(image)).flatten(2).mT)))
        graph = key_graph(x[:, None], x[:, None], torch.tensor([5]))
        x = key_graph_attention(x, x * 1.5, x, graph, heads=2)
        return x @ (x.mT @ x)


def test_another_order_of_summation_changes_rounding_only() -> None:
    network, image = Everything().eval(), torch.randn(2, 6, 5, 7)
    with torch.no_grad():
        plain, exact = network(image), Everything().double()(image.double())
        results = []
        for seed in (1, 2):
            with ReorderedSums(seed):
                results.append(network(image))
    assert exact.dtype == torch.float64
    errors = [rms_error(one.numpy(), exact.numpy()) for one in (plain, *results)]
    assert len({one.numpy().tobytes() for one in (plain, *results)}) == 3
    size = rms_error(exact.numpy(), np.zeros(()))
    assert all(1e-8 * size < error < 1e-6 * size for error in errors)
    assert max(errors) < 2 * min(errors)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_emulated_half_precision_errs_like_pytorchs_own(tiny: Tiny, precision: str) -> None:
    own = TorchProbe(load_checkpoint(tiny.checkpoint), precision)
    images = np.random.default_rng(0).random((1, 3, 16, 24), np.float32)
    network = Network(load_checkpoint(tiny.checkpoint).module.eval(), own.manifest)
    exact, graphs = network.run(EXACT, [images], 16)
    emulated, used = network.run(Arithmetic(precision), [images], 16, graphs)
    half, _ = own.force(images, 16, graphs)
    assert all(map(np.array_equal, used, graphs))
    assert rms_error(half, exact) == pytest.approx(rms_error(emulated, exact), rel=0.2)


def test_what_a_file_keeps_in_fp32_is_not_rounded() -> None:
    names: list[str] = []

    def kept(name: str) -> bool:
        names.append(name)
        return name == "native_layer_norm"

    values = torch.randn(4, 8)
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 8)
    with torch.no_grad(), RoundedStorage("bf16", kept):
        normed = norm(values)
        product = linear(normed)
        in_place = torch.randn(4, 8).relu_()
    with torch.no_grad():
        assert torch.equal(normed, norm(values))
        expected = linear.weight.bfloat16().float() @ normed.bfloat16().float().mT + linear.bias[:, None].bfloat16()
        assert torch.equal(product, product.bfloat16().float())
        torch.testing.assert_close(product, expected.mT, rtol=2**-7, atol=1e-3)
    assert torch.equal(in_place, in_place.bfloat16().float())
    assert {"native_layer_norm", "addmm"} <= set(names)


def test_operators_are_found_by_module_type_and_number() -> None:
    nodes = {"a/Add": False, "a/Add_1": True, "b/Gemm": True, "b/Gelu": True, "Add": True}
    operators = Fp32Operators(nodes)
    assert [operators.keeps("a", "add") for _ in range(3)] == [False, True, False]
    assert operators.keeps("b", "rsqrt")  # All nodes of b are FP32.
    assert not operators.keeps("a", "rsqrt")
    assert operators.keeps("", "add")
    assert not operators.keeps("unknown", "add")


def test_the_operators_compute_in_float64() -> None:
    x = torch.randn(1, 1, 40, 6, dtype=torch.float64)
    graph = key_graph(x, x, torch.tensor([40]))
    scores = (x[0, 0] @ x[0, 0].mT / math.sqrt(6)).exp()
    expected = scores @ x[0, 0] / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(key_graph_attention(x, x, x, graph)[0, 0], expected, rtol=1e-13, atol=1e-13)


# The rule.


def _with_error(comparison: Comparison, times: float) -> Any:
    result = comparison.inputs[0]
    assert result.rounding is not None
    error = dataclasses.replace(result.rounding, found=1e-5, expected=1e-5 / times, peak=1.0)
    judged = dataclasses.replace(result.judged, psnr=100.0)
    return dataclasses.replace(result, rounding=error, same_graphs=judged, as_run=judged, typical=math.inf)


def test_the_rule_is_a_multiple_of_the_expected_error(clean: Comparison) -> None:
    precisions = ("fp32", "fp32")
    assert judge([_with_error(clean, 0.99 * FACTOR)], (), precisions).good
    failed = judge([_with_error(clean, 1.01 * FACTOR)], (), precisions)
    assert not failed.good
    assert "error 4.0 times what fp32 rounding explains (rounding alone: 112.1 dB)" in failed.reasons[0]
    assert "at most 4 times what fp32 rounding explains" in failed.rule
    # A limit that was requested decides alone, and the rest is a note.
    result = _with_error(clean, 1000)
    assert judge([result], (), precisions, 90).good
    assert not judge([result], (), precisions, 110).good
    note = rounding_note(result, 90, 90)
    assert note is not None
    assert "but the error is 1,000 times what fp32 rounding explains" in note
    # What rounding explains passes below the usual limit, with a note.
    low = dataclasses.replace(result.judged, psnr=70.0)
    explained = dataclasses.replace(_with_error(clean, 1), same_graphs=low)
    assert judge([explained], (), precisions).good
    note = rounding_note(explained, 90, None)
    assert note is not None
    assert "70.0 dB is little (usual are 90 dB)" in note
    # Where rounding is unknown or overflows, a fixed limit decides.
    unknown = RoundingError("fp16", 1.0, math.nan)
    for rounding in (None, unknown):
        assert not judge([dataclasses.replace(explained, rounding=rounding)], (), precisions).good


def test_blocks_are_judged_by_their_own_error(clean: Comparison) -> None:
    block = clean.blocks[3]
    assert block.rounding is not None
    wrong = dataclasses.replace(block.rounding, found=5 * block.rounding.expected)
    blocks = [dataclasses.replace(block, rounding=wrong), dataclasses.replace(block, over_tolerance=True)]
    assert [one.over_tolerance for one in judge_blocks(blocks, None)] == [True, False]
    assert [one.over_tolerance for one in judge_blocks(blocks, 90.0)] == [False, True]
    assert wrong.worse(block.rounding) == block.rounding.worse(wrong) == wrong


def test_no_program_is_expected_to_be_closer_than_one_rounding() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    for precision, half in (("fp32", np.float32), ("fp16", np.float16)):
        error = rms_error(values.astype(half), values)
        assert 0.6 * one_rounding(values, precision) < error < one_rounding(values, precision)
    assert UNIT_ROUNDOFF["bf16"] == torch.finfo(torch.bfloat16).eps / 2


# Whole comparisons.


def test_a_file_is_within_rounding_everywhere(clean: Comparison) -> None:
    assert clean.verdict.good, clean.verdict.reasons
    result = clean.inputs[0]
    assert result.rounding is not None
    assert 0.1 < result.rounding.times < 2
    assert 1 <= result.rounding.spread < 2
    assert result.beyond_rounding == ()
    times = [block.rounding.times for block in clean.blocks if block.rounding is not None]
    assert len(times) == len(clean.blocks)
    assert 0.1 < min(times) < max(times) < 2
    assert clean.as_json()["blocks"][0]["rounding"]["times"] == times[0]


def _node(model: ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def _attribute(node: str, **attributes: Any) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        found = _node(model, node)
        kept = [one for one in found.attribute if one.name not in attributes]
        del found.attribute[:]
        found.attribute.extend([*kept, *(helper.make_attribute(*one) for one in attributes.items())])

    return change


def _weight(name: str, function: Callable[[Any], Any]) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        tensor = next(one for one in model.graph.initializer if one.name == name)
        values = np.ascontiguousarray(function(numpy_helper.to_array(tensor)), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return change


def _exchange_q_and_k(model: ModelProto) -> None:
    node = _node(model, "body.1.layers.0.attention/KeyGraphAttention")
    node.input[0], node.input[1] = node.input[1], node.input[0]


def _other_graph(model: ModelProto) -> None:
    _node(model, "body.1.layers.0.attention/KeyGraphAttention").input[3] = tiny_kgt.key_graphs(model)[0].output[0]


def _bf16(values: Any) -> Any:
    return torch.from_numpy(values.copy()).bfloat16().float().numpy()


ATTENTION = "body.1.layers.0.attention"


def _reflected(model: ModelProto) -> None:
    node = _node(model, "body.1.conv/Conv")
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "sides"))
    pad = helper.make_node("Pad", [node.input[0], "sides"], ["padded"], mode="reflect", name="body.1.conv/Pad")
    node.input[0] = "padded"
    next(one for one in node.attribute if one.name == "pads").ints[:] = [0] * 4
    model.graph.node.insert(list(model.graph.node).index(node), pad)


#: What is planted, the block that is accused, and what it is said to compute with.
FAULTS: dict[str, tuple[Callable[[ModelProto], None], str, str | None]] = {
    "q and k": (_exchange_q_and_k, ATTENTION, "q and k exchanged"),
    "scale": (
        _attribute(f"{ATTENTION}/KeyGraphAttention", scale=0.51),
        ATTENTION,
        "the scale of the scores multiplied by 1.02",
    ),
    "epsilon": (
        _attribute("body.0.layers.0.norm2/LayerNormalization", epsilon=1e-6),
        "body.0.layers.0.norm2",
        "an epsilon of 1e-06",
    ),
    "another stage's graph": (_other_graph, ATTENTION, None),
    "kernel": (
        _weight("body.0.conv.weight", lambda w: np.roll(w, 1, 3)),
        "body.0.conv",
        "a kernel moved by a pixel to the right",
    ),
    "transposed": (_weight(f"{ATTENTION}.project.weight", np.transpose), ATTENTION, "a transposed weight"),
    "one layer in bf16": (
        _weight("body.0.layers.0.ffn.reduce.weight", _bf16),
        "body.0.layers.0.ffn",
        "weights in bf16",
    ),
    "GELU by tanh": (
        _attribute("body.1.layers.0.ffn.activation/Gelu", approximate="tanh"),
        "body.1.layers.0.ffn",
        "the other form of GELU (erf for tanh, or tanh for erf)",
    ),
    "bias": (
        _weight("body.1.layers.0.ffn.expand.bias", np.zeros_like),
        "body.1.layers.0.ffn",
        "no bias",
    ),
    "padding": (_reflected, "body.1.conv", "padding of mode reflect"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_and_is_named(tiny: Tiny, tmp_path: Path, fault: str) -> None:
    change, block, suspect = FAULTS[fault]
    comparison = compare(changed(tiny.onnx, tmp_path / "wrong.onnx", change), tiny.checkpoint, blocks=True)
    assert not comparison.verdict.good
    assert comparison.first_divergence is not None
    assert comparison.first_divergence.block == block
    (found,) = comparison.inputs[0].beyond_rounding
    assert (found.name, found.suspect) == (block, suspect)
    assert f"times what fp32 rounding explains in {block}, given the same input" in comparison.verdict.reasons[-2]
    assert suspect is None or f"it computes as with {suspect}" in comparison.verdict.reasons[-2]
    assert {one.name for one in comparison.blocks if one.over_tolerance} <= {
        ".".join(block.split(".")[: i + 1]) for i in range(block.count(".") + 1)
    }


def test_a_network_that_does_not_run_in_float64_keeps_the_fixed_limit(tiny: Tiny) -> None:
    model = load_checkpoint(tiny.checkpoint)
    head: Any = model.module.get_submodule("head")
    weight = head.weight.detach().clone()
    head.forward = lambda image: nn.functional.conv2d(image, weight, padding=1)
    comparison = compare(TorchProbe(model), TorchProbe(model), blocks=True)
    assert comparison.verdict.good
    assert "at least 90 dB" in comparison.verdict.rule
    (line,) = (line for line in comparison.notices if "rounding could not be measured" in line)
    assert "the network does not run in fp64" in line
