"""What rounding explains where the reference is an exported file, the candidate an engine, or the tiles differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from half_precision import make_half
from keygraph.manifest import Tiling
from keygraph.models import load_checkpoint
from keygraph.parity import Comparison, RoundingError, TorchProbe, open_probe
from keygraph.parity import compare as compare_all
from keygraph.parity.pass_criteria import FACTOR, TYPICAL_FACTOR, limit_of
from keygraph.parity.rounding.arithmetic import RoundedStorage
from keygraph.parity.rounding.expected import PieceRounding, network_of
from keygraph.parity.rounding.network import EXACT, Arithmetic, NotMeasuredError, rms_error
from onnx import ModelProto, helper, numpy_helper
from tiny_kgt import CONFIG, Tiny, changed, overflowing, save_network, set_weight

pytestmark = pytest.mark.usefixtures("one_thread")

RANDOM = np.random.default_rng(3)
PICTURE = RANDOM.random((16, 24, 3), np.float32)
#: On this image, some similarities of the tiny network tie.
TIES = np.random.default_rng(1).random((48, 56, 3), np.float32)
FP32 = Arithmetic("fp32")


def compare(candidate: Any, reference: Any, picture: Any = PICTURE, **options: Any) -> Comparison:
    (comparison,) = compare_all(candidate, reference, [picture], **options).comparisons
    return comparison


def _tanh(model: ModelProto) -> None:
    node = next(one for one in model.graph.node if one.name == "body.1.layers.0.ffn.activation/Gelu")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("approximate", "tanh"))


def _no_bias(model: ModelProto) -> None:
    (tensor,) = (one for one in model.graph.initializer if one.name == "body.1.layers.0.ffn.expand.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))


# Files as references.


def test_a_file_explains_what_its_checkpoint_does(tiny: Tiny) -> None:
    """PyTorch runs the file's nodes as it runs the modules that they came from."""
    images = [RANDOM.random((1, 3, 16, 24), np.float32)]
    found = []
    for path in (tiny.checkpoint, tiny.onnx):
        network = network_of(open_probe(path))
        exact, graphs = network.run(EXACT, images, 16)
        half, _ = network.run(Arithmetic("bf16"), images, 16, graphs)
        found.append((exact, graphs, rms_error(half, exact)))
    (exact, graphs, error), (other, other_graphs, other_error) = found
    assert other.dtype == np.float64
    assert rms_error(other, exact) < 1e-9  # Scale and epsilon are float32 in the file.
    assert all(map(np.array_equal, graphs, other_graphs))
    assert other_error == pytest.approx(error, rel=0.02)


def test_a_file_without_a_fault_is_within_rounding_of_another_one(tiny: Tiny) -> None:
    comparison = compare(f"{tiny.onnx}@functions", tiny.onnx, blocks=True)
    assert comparison.verdict.good, comparison.verdict.reasons
    assert "what fp32 rounding explains" in comparison.verdict.rule
    result = comparison.inputs[0]
    assert result.rounding is not None
    assert result.rounding.times < 2
    times = [block.rounding.times for block in comparison.blocks if block.rounding is not None]
    assert len(times) == len(comparison.blocks) == 16
    assert max(times) < 2


@pytest.mark.parametrize(
    ("plant", "suspect"), [(_tanh, "the other form of GELU (erf for tanh, or tanh for erf)"), (_no_bias, "no bias")]
)
def test_a_fault_is_named_against_a_file(tiny: Tiny, tmp_path: Path, plant: Any, suspect: str) -> None:
    comparison = compare(changed(tiny.onnx, tmp_path / "wrong.onnx", plant), tiny.onnx, blocks=True)
    assert not comparison.verdict.good
    (found,) = comparison.inputs[0].beyond_rounding
    assert (found.name, found.suspect) == ("body.1.layers.0.ffn", suspect)


def test_half_precision_against_a_file_and_a_file_in_half_precision(tiny: Tiny, tmp_path: Path) -> None:
    """Of a reference in half precision the weights are rounded: that is no fault of a candidate in float32."""
    half = TorchProbe(load_checkpoint(tiny.checkpoint), "fp16")
    assert compare(half, tiny.onnx, blocks=True).verdict.good
    file = make_half(tiny.onnx, tmp_path / "half.onnx")
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(file)), file)
    right = compare(tiny.onnx, file)
    assert right.verdict.good, right.verdict.reasons
    assert right.inputs[0].rounding is not None
    assert right.inputs[0].rounding.precision == "fp16"
    wrong = changed(tiny.onnx, tmp_path / "wrong.onnx", set_weight("body.1.conv.weight", 3, lambda value: value + 0.5))
    assert not compare(wrong, file).verdict.good


class _Closed:
    """A side of which only the results are known."""

    def __init__(self, path: Path) -> None:
        self._side = open_probe(path)

    def __getattr__(self, name: str) -> Any:
        if name == "session":
            raise AttributeError(name)
        return getattr(self._side, name)


def test_a_reference_of_which_only_results_are_known_says_that_a_fixed_limit_decides(tiny: Tiny) -> None:
    comparison = compare(tiny.onnx, _Closed(tiny.onnx))
    assert comparison.verdict.good
    assert "at least 90 dB" in comparison.verdict.rule
    (line,) = (line for line in comparison.notices if "a fixed limit decides" in line)
    assert "is an engine, of which only the results are known" in line


def test_a_file_with_an_operator_that_is_not_imported_cannot_be_measured(tiny: Tiny, tmp_path: Path) -> None:
    def plant(model: ModelProto) -> None:
        model.graph.node.append(helper.make_node("Bernoulli", ["image"], ["nobody"], name="chance"))

    path = changed(tiny.onnx, tmp_path / "odd.onnx", plant)
    with pytest.raises(NotMeasuredError, match=r"node chance \(Bernoulli\) is not imported"):
        network_of(open_probe(path))


# Engines, which select for themselves.


def test_an_engine_is_judged_by_rounding_and_near_ties(tiny: Tiny, tmp_path: Path) -> None:
    picture = RANDOM.random((32, 40, 3), np.float32)
    right = compare(f"{tiny.onnx}@openvino", tiny.checkpoint, picture)
    assert right.verdict.good, right.verdict.reasons
    assert "at most 4 times what fp32 rounding and near ties explain" in right.verdict.rule
    error = right.inputs[0].rounding
    assert error is not None
    assert (error.beside, error.times < 2) == (("near ties",), True)
    assert any("it is judged as run, with what near ties explain" in line for line in right.notices)
    wrong = changed(tiny.onnx, tmp_path / "wrong.onnx", _tanh)
    found = compare(f"{wrong}@openvino", tiny.checkpoint, picture)
    assert found.inputs[0].judged.psnr > 90
    assert not found.verdict.good


def test_near_ties_are_what_a_multiple_of_rounding_decides_otherwise(tiny: Tiny) -> None:
    """On this image some similarities tie; the error of another choice is far above rounding, and is expected."""
    images = [np.moveaxis(TIES, -1, 0)[None]]
    network = network_of(open_probe(tiny.checkpoint))
    piece = PieceRounding(network, images, 16)
    alone, both = (piece.explained(1.0, FP32, FP32, own, peak=1.0) for own in (False, True))
    assert both.expected > 20 * alone.expected
    assert both.alone == pytest.approx(alone.expected)
    assert both.psnr_of_rounding() == pytest.approx(alone.psnr())
    assert both.causes == "fp32 rounding and near ties"
    exact, graphs = network.run(EXACT, images, 16)
    other = [graph.copy() for graph in graphs]
    row = np.unpackbits(other[0][0, 0, 0].view(np.uint8), bitorder="little")
    row[[int(row.argmax()), int(row.argmin())]] = 0, 1  # One link of one row.
    other[0][0, 0, 0] = np.packbits(row, bitorder="little").view(np.int32)
    moved, _ = network.run(EXACT, images, 16, other)
    assert rms_error(moved, exact) > 20 * alone.expected


def test_the_usual_value_must_be_near_although_ties_may_not_be(tiny: Tiny, tmp_path: Path) -> None:
    """Where ties are expected to move the image far, a fault that moves every value a little is found by the median."""
    assert compare(f"{tiny.onnx}@openvino", tiny.checkpoint, TIES).verdict.good
    wrong = changed(tiny.onnx, tmp_path / "wrong.onnx", _tanh)
    found = compare(f"{wrong}@openvino", tiny.checkpoint, TIES)
    result = found.inputs[0]
    assert result.rounding is not None
    assert result.rounding.times < FACTOR
    assert result.typical < result.rounding.psnr_of_rounding(TYPICAL_FACTOR)
    assert [reason for reason in found.verdict.reasons if "near ties do not explain that" in reason]


# Half precision that overflows, and tiles.


def test_rounding_is_measured_where_half_precision_overflows(tmp_path: Path) -> None:
    """The search for what must stay in FP32 aims at it, so it may not be unknown."""
    checkpoint = save_network(tmp_path / "hot.ckpt", CONFIG, overflowing)
    comparison = compare(TorchProbe(load_checkpoint(checkpoint), "fp16"), checkpoint)
    assert not comparison.verdict.good
    result = comparison.inputs[0]
    assert result.rounding is not None
    assert 45 < limit_of(result, 50.0, None) < 75
    assert limit_of(result, 50.0, None) != 50
    assert limit_of(result, 20.0, 20.0) == 20


def test_unbounded_half_precision_rounds_as_float16_and_does_not_overflow() -> None:
    values = torch.tensor([1.0009, 3e5, -1e-3])
    with RoundedStorage("fp16", lambda _: False, unbounded=True):
        found = values * 1
    assert found[0] == values[0].half().float()
    assert found[2] == values[2].half().float()
    assert found[1].item() == pytest.approx(3e5, rel=2**-11)


def test_different_tiles_are_within_what_tiling_explains(make_model: Any, tmp_path: Path) -> None:
    """A blur sees two pixels far, so that tiles without overlap differ at their borders."""
    tilings = [Tiling(128, 0, 32.0), Tiling(256, 8, 80.0)]
    files = [make_model("blur", tmp_path / f"{one.tile}.onnx", tiling=one) for one in tilings]
    picture = np.random.default_rng(0).random((576, 512, 3), np.float32)
    found = compare(files[0], files[1], picture, tile="auto")
    assert any("the sides use different tiles" in line for line in found.notices)
    assert found.verdict.good, found.verdict.reasons
    error = found.inputs[0].rounding
    assert error is not None
    assert error.beside == ("tiling",)
    assert error.psnr() == pytest.approx(32, abs=0.1)
    assert "what fp32 rounding and tiling explain" in found.verdict.rule
    # The same difference is beyond what a better calibration explains.
    exact = [
        make_model("blur", tmp_path / f"{one.tile}.onnx", tiling=Tiling(one.tile, one.overlap, 90.0)) for one in tilings
    ]
    assert not compare(exact[0], exact[1], picture, tile="auto").verdict.good


def test_further_errors_add_up_as_squares() -> None:
    error = RoundingError("fp32", 1.0, 3e-3, peak=1.0).with_others("tiling", [4e-3, 0.0])
    assert error.expected == pytest.approx(5e-3)
    assert error.psnr_of_rounding() == pytest.approx(-20 * np.log10(3e-3))
    assert error.causes == "fp32 rounding and tiling"
    assert error.with_others("near ties", [0.0]) is error
