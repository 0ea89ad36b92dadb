"""Where a difference starts: every block found on both sides, and planted faults named by their block."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_channel_attention
import tiny_kgt
import torch
from exported import Exported, ExportStore
from keygraph.errors import InputError
from keygraph.instrumentation.synthetic import synthetic_inputs as sample_inputs
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.registry import by_name
from keygraph.models.restormer import Restormer, RestormerConfig
from keygraph.parity import Comparison, OnnxProbe, TorchProbe, open_probe
from keygraph.parity import compare as compare_all
from keygraph.parity.inputs import demands, read_inputs
from keygraph.parity.piecewise import worst_piece
from keygraph.parity.sides.onnx_blocks import onnx_blocks
from onnx import ModelProto, numpy_helper
from tiny_kgt import CONFIG, Tiny, changed, set_weight
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

PICTURE = np.random.default_rng(0).random((24, 32, 3), np.float32)
RESTORMER = RestormerConfig(channels=8, blocks=(1,) * 4, refinement_blocks=1, heads=(1, 1, 2, 2))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def restormer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one block a level."""
    torch.manual_seed(0)
    network = Restormer(RESTORMER)
    path = tmp_path_factory.mktemp("restormer") / "restormer.ckpt"
    save_checkpoint(path, network)
    return path


@pytest.fixture(scope="module")
def mst(exports: ExportStore) -> Exported:
    """Takes two inputs; its file is fp16."""
    return tiny_channel_attention.exported("mst", exports)


@pytest.fixture
def with_fault(tiny: Tiny, tmp_path: Path) -> Callable[[Callable[[ModelProto], None]], Path]:
    return lambda change: changed(tiny.onnx, tmp_path / "candidate.onnx", change)


def compare(candidate: Any, reference: Any, inputs: Any = (PICTURE,), **options: Any) -> Comparison:
    """One candidate, with blocks."""
    (comparison,) = compare_all(candidate, reference, inputs, blocks=True, **options).comparisons
    return comparison


def start(comparison: Comparison) -> tuple[str, str | None]:
    """What is said to be wrong, and where."""
    assert comparison.first_divergence is not None
    return comparison.first_divergence.kind, comparison.first_divergence.block


def psnrs(comparison: Comparison) -> list[float]:
    return [block.psnr for block in comparison.blocks]


# What is compared.


@pytest.mark.parametrize("family", ["restormer", "mst"])
def test_a_file_has_every_block_that_the_network_has(family: str, exports: ExportStore) -> None:
    if family == "restormer":
        files = exports.get(RESTORMER, "restormer", precision="fp16")
    else:
        files = tiny_channel_attention.exported(family, exports)
    model = load_checkpoint(files.checkpoint)
    pattern = by_name(family).blocks
    run: list[tuple[str, tuple[int, ...], list[tuple[int, ...]]]] = []
    for name, module in model.module.named_modules():
        if re.fullmatch(pattern, name):
            module.register_forward_hook(
                lambda _module, taken, made, name=name: run.append(
                    (name, tuple(made.shape), [tuple(one.shape) for one in taken if one is not None])
                )
            )
    manifest = model.manifest()
    inputs = sample_inputs(manifest, (1, 16, 24))
    with torch.inference_mode():
        model.module(*map(torch.from_numpy, inputs))
    blocks = onnx_blocks(onnx.load(files.onnx), pattern)
    assert [block.name for block in blocks] == [name for name, _, _ in run]
    assert [len(block.inputs) for block in blocks] == [len(taken) for _, _, taken in run]
    # And so that they can be compared: the same shapes, in half and in FP32.
    comparison = compare(files.onnx, files.checkpoint, ())
    assert [block.name for block in comparison.blocks] == [name for name, _, _ in run]
    assert all(block.psnr > 50 and block.alone > 60 for block in comparison.blocks)
    assert {block.precision for block in comparison.blocks} == {"fp16", "fp32"}
    assert all(block.reference_largest == pytest.approx(block.largest, rel=0.01) for block in comparison.blocks)
    assert not any(block.over_tolerance or block.nonfinite for block in comparison.blocks)
    assert start(comparison) == ("nowhere", None)
    assert not any("not compared" in line for line in comparison.notices)


def test_blocks_of_a_kgt_in_the_order_of_execution(tiny: Tiny) -> None:
    comparison = compare(tiny.onnx, tiny.checkpoint)
    stage = ["layers.0.norm1", "layers.0.attention", "layers.0.norm2", "layers.0.ffn", "layers.0", "conv"]
    names = ["head", *(name for i in (0, 1) for name in [*(f"body.{i}.{part}" for part in stage), f"body.{i}"]), "tail"]
    assert [block.name for block in comparison.blocks] == names
    assert min(psnrs(comparison)) > 110
    assert min(block.alone for block in comparison.blocks) > 120
    assert comparison.threshold == 90


@pytest.mark.parametrize(
    ("candidate", "reference", "least", "precision"),
    [
        ("tiny.ckpt", "tiny.onnx", 110, "fp32"),
        ("tiny.ckpt@fp16", "tiny.ckpt", 50, "fp16"),
        ("tiny.ckpt@bf16", "tiny.onnx", 40, "bf16"),
        ("tiny.onnx", "tiny.onnx", math.inf, "fp32"),
        ("tiny.onnx@functions", "tiny.onnx", 110, "fp32"),
    ],
)
def test_any_kind_of_side(tiny: Tiny, candidate: str, reference: str, least: float, precision: str) -> None:
    comparison = compare(tiny.onnx.with_name(candidate), tiny.onnx.with_name(reference))
    assert comparison.verdict.good
    assert len(comparison.blocks) == 16
    assert min(psnrs(comparison)) >= least
    assert {block.precision for block in comparison.blocks} == {precision}
    assert not any(math.isnan(block.alone) for block in comparison.blocks)
    if least == math.inf:
        assert {block.max_abs for block in comparison.blocks} == {0}


def test_without_being_asked_for_there_are_none(tiny: Tiny) -> None:
    (comparison,) = compare_all(tiny.onnx, tiny.checkpoint, [PICTURE]).comparisons
    assert (comparison.blocks, comparison.first_divergence) == ((), None)


def test_other_key_graphs_do_not_show_in_the_blocks(tiny: Tiny, with_fault: Any) -> None:
    path = with_fault(tiny_kgt.smallest_chosen)
    comparison = compare(OnnxProbe(path, library=None), tiny.checkpoint)
    assert comparison.inputs[0].as_run.psnr < 80
    assert comparison.stages[0].misjudged > 0
    assert min(psnrs(comparison)) > 110
    assert start(comparison) == ("nowhere", None)


def test_the_worst_of_several_images(tiny: Tiny, with_fault: Any) -> None:
    path = with_fault(set_weight("body.0.conv.weight", 3, lambda value: value + 0.01))
    dark, bright = PICTURE * 0.1, PICTURE
    apart = [compare(path, tiny.checkpoint, [image]) for image in (dark, bright)]
    together = compare(path, tiny.checkpoint, [dark, bright])
    for one, other, both in zip(apart[0].blocks, apart[1].blocks, together.blocks, strict=True):
        assert both.psnr == min(one.psnr, other.psnr)
        assert both.alone == min(one.alone, other.alone)
        assert both.max_abs == max(one.max_abs, other.max_abs)
        assert both.largest == max(one.largest, other.largest)
    assert start(together) == ("block", "body.0.conv")


def test_a_large_image_is_looked_at_where_it_is_off_the_most(tiny: Tiny) -> None:
    needs = demands(load_checkpoint(tiny.checkpoint).manifest())
    (given,) = read_inputs([np.random.default_rng(0).random((150, 200, 3), np.float32)], needs)
    off = np.zeros((150, 200, 3), np.float32)
    off[149, 130] = 0.1
    inputs, place = worst_piece(given, needs, off, 64)
    assert place == (128, 128, 22, 64)
    assert inputs[0].shape == (1, 3, 24, 64)
    np.testing.assert_array_equal(inputs[0][0, :, :22], np.moveaxis(given.arrays["image"][128:, 128:192], 2, 0))
    off[3, 70] = np.inf
    assert worst_piece(given, needs, off, 64)[1] == (0, 64, 64, 64)
    # A file of one shape gets that shape.
    inputs, place = worst_piece(given, dataclasses.replace(needs, shape=(2, 32, 48)), off, 64)
    assert inputs[0].shape == (2, 3, 32, 48)
    assert place == (0, 48, 32, 48)
    comparison = compare(tiny.onnx, tiny.checkpoint, [np.zeros((150, 136, 3), np.float32)])
    assert any("blocks on the" in line and "where the results differ the most" in line for line in comparison.notices)


def test_the_tiled_pipeline_too(tiny: Tiny, with_fault: Any) -> None:
    path = with_fault(set_weight("body.1.conv.weight", 3, lambda value: value + 0.1))
    assert start(compare(path, tiny.checkpoint, tile=16)) == ("block", "body.1.conv")


def test_a_side_that_tells_no_blocks_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = open_probe(tiny.onnx)
    monkeypatch.setattr(sealed, "tells_blocks", False)
    with pytest.raises(
        InputError, match=r"exposes no block outputs, since TensorRT fuses across them; leave blocks out"
    ):
        compare(sealed, tiny.checkpoint)


def test_a_change_by_tracing_is_reported(tiny: Tiny) -> None:
    class Moving(OnnxProbe):
        def trace(self, *arguments: Any) -> Any:
            restored, selections = super().trace(*arguments)
            return restored + np.float32(1e-3), selections

    comparison = compare(Moving(tiny.onnx, name="moving"), tiny.checkpoint)
    (line,) = (
        line for line in comparison.notices if line.startswith("array 0: moving: tracing its blocks changed its output")
    )
    assert "max abs 1.0e-03, 60.0 dB" in line
    assert not any("tracing" in line for line in compare(tiny.checkpoint, tiny.checkpoint).notices)


def test_a_file_whose_nodes_lost_their_names_is_not_said_to_agree(tiny: Tiny, with_fault: Any) -> None:
    def nameless(model: ModelProto) -> None:
        for node in model.graph.node:
            node.name = ""

    comparison = compare(with_fault(nameless), tiny.checkpoint)
    assert (comparison.blocks, comparison.first_divergence) == ((), None)
    assert any(line.startswith("no block could be compared") for line in comparison.notices)


# Planted faults.


@pytest.mark.parametrize(
    ("weight", "block"),
    [
        ("head.weight", "head"),
        ("body.0.layers.0.norm2.weight", "body.0.layers.0.norm2"),
        ("body.1.layers.0.attention.project.weight", "body.1.layers.0.attention"),
        ("body.1.layers.0.ffn.reduce.weight", "body.1.layers.0.ffn"),
        ("body.0.conv.weight", "body.0.conv"),
        ("tail.weight", "tail"),
    ],
)
def test_one_changed_weight(tiny: Tiny, with_fault: Any, weight: str, block: str) -> None:
    names = {tensor.name for tensor in onnx.load(tiny.onnx).graph.initializer}
    name = weight if weight in names else f"{weight}.transposed"
    comparison = compare(with_fault(set_weight(name, 5, lambda value: value + 0.05)), tiny.checkpoint)
    assert start(comparison) == ("block", block)
    assert not comparison.verdict.good
    assert f"the difference starts in {block}: " in comparison.verdict.reasons[-1]
    at = [one.name for one in comparison.blocks].index(block)
    assert all(one.psnr > 110 for one in comparison.blocks[:at])
    assert comparison.blocks[at].over_tolerance


def test_a_changed_weight_that_the_images_forgive_is_noted(tiny: Tiny, with_fault: Any) -> None:
    path = with_fault(set_weight("body.1.conv.weight", 3, lambda value: value + 0.001))
    comparison = compare(path, tiny.checkpoint, at_least=60)
    assert comparison.verdict.good
    assert start(comparison) == ("hint", "body.1.conv")
    comparison = compare(with_fault(set_weight("body.1.conv.weight", 3, lambda value: value + 0.1)), tiny.checkpoint)
    asked = compare(with_fault(set_weight("body.1.conv.weight", 3, lambda v: v + 0.1)), tiny.checkpoint, at_least=20)
    assert not comparison.verdict.good
    assert asked.verdict.good
    assert asked.threshold == 20


@pytest.mark.parametrize("every", [False, True])
def test_a_wrong_epsilon(tiny: Tiny, with_fault: Any, every: bool) -> None:
    def change(model: ModelProto) -> None:
        norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
        assert len(norms) == 4
        for norm in norms if every else norms[2:3]:
            (epsilon,) = (attribute for attribute in norm.attribute if attribute.name == "epsilon")
            epsilon.f = 1e-2

    comparison = compare(with_fault(change), tiny.checkpoint)
    assert start(comparison) == ("block", "body.0.layers.0.norm1" if every else "body.1.layers.0.norm1")
    assert ("3 more (2 x norm2, 1 x norm1) are affected in the same way" in comparison.verdict.reasons[-1]) == every


def _smaller_epsilons(model: ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon" and node.op_type == "LayerNormalization":
                attribute.f = 9e-6


def test_a_small_fault_is_beyond_rounding(tiny: Tiny, with_fault: Any) -> None:
    """An epsilon that is a tenth too small: the images agree at more than 90 dB, the usual limit."""
    comparison = compare(with_fault(_smaller_epsilons), tiny.checkpoint)
    assert comparison.inputs[0].judged.psnr > 90
    assert not comparison.verdict.good
    assert start(comparison) == ("block", "body.0.layers.0.norm1")
    found = comparison.inputs[0].beyond_rounding
    assert [block.name for block in found] == [f"body.{i}.layers.0.norm{j}" for i in (0, 1) for j in (1, 2)]


def test_a_small_fault_that_the_requested_limit_allows_is_hinted_at(tiny: Tiny, with_fault: Any) -> None:
    comparison = compare(with_fault(_smaller_epsilons), tiny.onnx, at_least=60)
    assert comparison.verdict.good
    assert start(comparison) == ("hint", "body.0.layers.0.norm1")
    assert any(
        "a block stands out: the difference starts in body.0.layers.0.norm1" in line for line in comparison.notices
    )


def test_a_wrong_epsilon_in_a_module(restormer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = load_checkpoint(restormer)
    norm = wrong.module.get_submodule("latent.0.norm2.body")
    right: Callable[..., Tensor] = torch.nn.functional.layer_norm

    def with_epsilon(*arguments: Any) -> Tensor:
        return right(*arguments[:-1], 1e-1 if arguments[2] is norm.weight else arguments[-1])

    monkeypatch.setattr("keygraph.models.restormer.functional.layer_norm", with_epsilon)
    assert start(compare(TorchProbe(wrong), restormer)) == ("block", "latent.0.norm2")


def test_a_dropped_bias(tiny: Tiny, with_fault: Any) -> None:
    def change(model: ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.name == "body.1.layers.0.ffn.expand/Gemm")
        del node.input[2]

    assert start(compare(with_fault(change), tiny.checkpoint)) == ("block", "body.1.layers.0.ffn")


def test_a_dropped_bias_in_a_module(tiny: Tiny) -> None:
    wrong = load_checkpoint(tiny.checkpoint)
    wrong.module.get_submodule("body.0.layers.0.attention.project").register_parameter("bias", None)
    for reference in tiny:
        comparison = compare(TorchProbe(wrong), reference)
        assert start(comparison) == ("block", "body.0.layers.0.attention")


def test_a_residual_that_is_left_out_is_the_layers_own(tiny: Tiny) -> None:
    wrong = load_checkpoint(tiny.checkpoint)
    layer: Any = wrong.module.get_submodule("body.1.layers.0")

    def forward(tokens: Tensor, graph: Tensor) -> Tensor:
        tokens = layer.attention(layer.norm1(tokens), graph)
        change: Tensor = layer.ffn(layer.norm2(tokens))
        return tokens + change

    layer.forward = forward
    assert start(compare(TorchProbe(wrong), tiny.checkpoint)) == ("block", "body.1.layers.0")


def test_a_fault_behind_the_last_block(tiny: Tiny, with_fault: Any) -> None:
    comparison = compare(with_fault(tiny_kgt.swapped_channels), tiny.checkpoint)
    assert start(comparison) == ("behind", None)
    assert "starts after the last block, tail" in comparison.verdict.reasons[-1]


def test_fp16_that_overflows_in_one_block(tmp_path: Path) -> None:
    checkpoint = tiny_kgt.save_network(tmp_path / "hot.ckpt", CONFIG, tiny_kgt.overflowing)
    comparison = compare(f"{checkpoint}@fp16", checkpoint)
    assert start(comparison) == ("overflow", "body.1.layers.0.ffn")
    assert "fp16 overflows in body.1.layers.0.ffn: " in comparison.verdict.reasons[-1]
    assert "holds at most 65504, the reference's output reaches 1" in comparison.verdict.reasons[-1]
    found = {block.name: block for block in comparison.blocks}
    hot = found["body.1.layers.0.ffn"]
    assert hot.nonfinite > 0
    assert hot.precision == "fp16"
    assert hot.largest <= 65504 < hot.reference_largest
    assert math.isnan(hot.psnr)
    assert hot.over_tolerance
    assert found["body.1.layers.0.norm2"].nonfinite == 0


def test_an_fp16_file_that_overflows_in_one_block(mst: Exported, tmp_path: Path) -> None:
    def change(model: ModelProto) -> None:
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        for layer in ("net.0", "net.4"):
            tensor = weights[f"bottleneck.blocks.0.1.fn.{layer}.weight"]
            values = np.full_like(numpy_helper.to_array(tensor), 1000)
            values[:, ::2] = -1000  # Not all alike: the norm before it leaves a mean of 0.
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    comparison = compare(changed(mst.onnx, tmp_path / "hot.onnx", change), mst.checkpoint, ())
    assert start(comparison) == ("overflow", "bottleneck.blocks.0.1.fn")


class Tf32(TorchProbe):
    """What a GPU does that rounds the factors of matrix products to 10 bits."""

    def run(self, *arguments: Any) -> Any:
        with _Tf32():
            return super().run(*arguments)


class _Tf32(TorchFunctionMode):
    PRODUCTS = (nn.functional.linear, torch.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self.PRODUCTS:
            args = (*map(_ten_bits, args[:2]), *args[2:])
        return function(*args, **(kwargs or {}))


def _ten_bits(values: Tensor) -> Tensor:
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("family", ["kgt", "restormer"])
def test_rounding_accuses_no_block(tiny: Tiny, restormer: Path, family: str) -> None:
    checkpoint = tiny.checkpoint if family == "kgt" else restormer
    comparison = compare(Tf32(load_checkpoint(checkpoint)), checkpoint)
    assert not comparison.verdict.good
    assert start(comparison) == ("rounding", None)
    assert "no block stands out" in comparison.verdict.reasons[-1]
    assert "grows evenly" in comparison.verdict.reasons[-1]


def test_a_fault_among_rounding_is_found(restormer: Path) -> None:
    wrong = load_checkpoint(restormer)
    with torch.no_grad():
        wrong.module.get_parameter("latent.0.ffn.project_out.weight")[0, 0] += 1
    assert start(compare(Tf32(wrong), restormer)) == ("block", "latent.0.ffn")


def test_half_precision_below_what_was_asked_for_is_rounding(tiny: Tiny) -> None:
    comparison = compare(f"{tiny.checkpoint}@bf16", tiny.checkpoint, at_least=80)
    assert start(comparison) == ("rounding", None)


# The reading, where networks give no example.
