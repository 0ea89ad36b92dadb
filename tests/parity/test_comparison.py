"""`parity.compare` on real files: no false alarm, and every planted fault found and named."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_kgt
import torch
from keygraph.errors import InputError, MissingDependencyError
from keygraph.installation import install_line
from keygraph.manifest import Manifest, Neighbours
from keygraph.models.kgt import KGT
from keygraph.parity import Comparison, OnnxProbe, open_probe
from keygraph.parity import compare as compare_all
from keygraph.parity.sides.torch_blocks import running_modules
from onnx import ModelProto, numpy_helper
from tiny_kgt import CONFIG, Tiny, changed, set_manifest, set_weight
from torch import nn

PICTURE = np.random.default_rng(0).random((32, 40, 3), np.float32)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def with_fault(tiny: Tiny, tmp_path: Path) -> Callable[[Callable[[ModelProto], None]], Path]:
    return lambda change: changed(tiny.onnx, tmp_path / "candidate.onnx", change)


def compare(candidate: Any, reference: Any, inputs: Any = (), **options: Any) -> Comparison:
    """One candidate."""
    (comparison,) = compare_all(candidate, reference, inputs, **options).comparisons
    return comparison


def reason(comparison: Comparison) -> str:
    """The first one, of a comparison that must have failed."""
    assert not comparison.verdict.good
    return comparison.verdict.reasons[0]


@pytest.mark.parametrize("library", ["auto", None])
@pytest.mark.parametrize("k", [None, 1, 33, 64])
def test_an_exported_file_agrees_with_its_checkpoint(tiny: Tiny, library: str | None, k: int | None) -> None:
    comparison = compare(OnnxProbe(tiny.onnx, library), tiny.checkpoint, k=k)
    assert comparison.verdict.good, comparison.verdict.reasons
    assert comparison.k == (k or CONFIG.k)
    assert comparison.same_weights
    assert comparison.notices == ()
    (result,) = comparison.inputs
    assert (result.name, result.height, result.width) == ("generated picture", 96, 104)
    assert result.same_graphs is not None
    assert result.same_graphs.psnr > 110
    assert result.same_graphs.max_abs < 1e-5
    assert [stage.name for stage in comparison.stages] == ["body.0", "body.1"]
    for stage in comparison.stages:
        assert stage.rows == 96 * 104
        assert stage.links_candidate == stage.links_reference == stage.rows * comparison.k
        assert stage.jaccard > 0.999
        assert stage.beyond_tolerance == stage.misjudged == 0


def test_any_kind_of_file_on_either_side(tiny: Tiny) -> None:
    turned = compare(tiny.checkpoint, tiny.onnx, [PICTURE])
    assert turned.verdict.good
    assert [stage.name for stage in turned.stages] == ["body.0", "body.1"]
    for path in tiny:
        same = compare(path, path, [PICTURE])
        assert same.verdict.good
        assert same.inputs[0].as_run.psnr == math.inf
        assert same.inputs[0].as_run.identical_8bit == 1
        assert [stage.different for stage in same.stages] == [0, 0]


def test_random_pictures_raise_no_alarm(tiny: Tiny) -> None:
    pictures = [np.random.default_rng(seed).random((24, 32, 3), np.float32) for seed in range(10)]
    comparison = compare(tiny.onnx, tiny.checkpoint, pictures)
    assert comparison.verdict.good, comparison.verdict.reasons
    assert len(comparison.inputs) == 10
    assert comparison.stages[0].rows == 10 * 24 * 32


@pytest.mark.parametrize("name", ["body.1.conv.weight", "tail.weight", "head.weight"])
def test_one_changed_weight_is_found(tiny: Tiny, with_fault: Any, name: str) -> None:
    path = with_fault(set_weight(name, 40, lambda value: value + 0.01))
    said = compare(path, tiny.checkpoint, [PICTURE]).verdict
    assert not said.good
    assert "times what fp32 rounding explains" in said.reasons[-1]


def test_numbers_that_differ_before_a_stage_are_not_blamed_on_its_selection(tiny: Tiny, with_fault: Any) -> None:
    path = with_fault(set_weight("head.weight", 40, lambda value: value + 1))
    comparison = compare(path, tiny.checkpoint, [PICTURE])
    assert comparison.stages[0].beyond_tolerance > 0
    assert [stage.misjudged for stage in comparison.stages] == [0, 0]
    assert "body.0" in reason(comparison)
    assert "the numbers differ before this stage" in reason(comparison)


def test_a_changed_weight_between_checkpoints_is_found(tiny: Tiny, tmp_path: Path) -> None:
    def change(network: KGT) -> None:
        network.get_parameter("tail.weight")[0, 0, 0, 0] += 0.01

    other = tiny_kgt.save_network(tmp_path / "other.ckpt", CONFIG, change)
    comparison = compare(other, tiny.checkpoint, [PICTURE])
    assert "times what fp32 rounding explains" in reason(comparison)
    assert not comparison.same_weights
    assert "different weights" in comparison.notices[0]
    assert all(stage.different == 0 for stage in comparison.stages)


@pytest.mark.parametrize("reference", ["checkpoint", "onnx"])
def test_k_off_by_one_is_found(tiny: Tiny, with_fault: Any, reference: str) -> None:
    comparison = compare(with_fault(tiny_kgt.fewer_neighbours), getattr(tiny, reference), [PICTURE])
    assert reason(comparison) == (
        "body.0: the candidate keeps 15 neighbours of each node, the reference 16: "
        "the candidate's KeyGraph is at fault, it keeps one neighbour too few"
    )
    turned = compare(getattr(tiny, reference), comparison.candidate.name, [PICTURE])
    assert reason(turned).endswith("the reference's KeyGraph is at fault, it keeps one neighbour too few")


@pytest.mark.parametrize("reference", ["checkpoint", "onnx"])
def test_wrong_neighbours_are_found(tiny: Tiny, with_fault: Any, reference: str) -> None:
    wrong = OnnxProbe(with_fault(tiny_kgt.smallest_chosen), None)
    comparison = compare(wrong, getattr(tiny, reference), [PICTURE])
    assert "body.0" in reason(comparison)
    assert reason(comparison).endswith("the candidate's KeyGraph is at fault, it keeps the least similar nodes")
    # The arithmetic is right, and said to be: with the same graphs both give the same image.
    assert comparison.inputs[0].same_graphs is not None
    assert comparison.inputs[0].same_graphs.psnr > 110
    assert comparison.inputs[0].as_run.psnr < 90


def test_ties_broken_the_other_way_are_harmless(tiny: Tiny, with_fault: Any) -> None:
    flat = np.full((32, 32, 3), 0.5, np.float32)
    other = OnnxProbe(with_fault(tiny_kgt.ties_to_the_highest), None)
    comparison = compare(other, tiny.checkpoint, [flat])
    assert comparison.stages[0].different > 1000
    assert comparison.stages[0].jaccard < 0.9
    assert [stage.beyond_tolerance for stage in comparison.stages] == [0, 0]
    assert comparison.verdict.good, comparison.verdict.reasons


def test_nan_is_found(tiny: Tiny, with_fault: Any) -> None:
    path = with_fault(set_weight("tail.weight", 0, lambda _value: math.nan))
    comparison = compare(path, tiny.checkpoint, [PICTURE])
    numbers = comparison.inputs[0].as_run
    # The weight belongs to the first of the three channels; a border may be spared, where it meets padding.
    assert 31 * 39 <= numbers.nonfinite_candidate <= 32 * 40
    assert numbers.nonfinite_reference == 0
    assert math.isnan(numbers.psnr)
    assert numbers.identical_8bit < 0.1
    assert reason(comparison) == f"array 0: the candidate gives {numbers.nonfinite_candidate} NaN or infinite values"


def test_nan_in_the_features_is_found(tiny: Tiny, with_fault: Any) -> None:
    path = with_fault(set_weight("head.weight", 0, lambda _value: math.nan))
    assert "NaN" in reason(compare(path, tiny.checkpoint, [PICTURE]))


def test_swapped_channels_are_found(tiny: Tiny, with_fault: Any) -> None:
    comparison = compare(with_fault(tiny_kgt.swapped_channels), tiny.checkpoint, [PICTURE])
    assert "the channels are swapped" in reason(comparison)
    assert "times what fp32 rounding explains" in comparison.verdict.reasons[-1]


def test_a_file_with_fixed_k_and_shape_decides_both(tiny: Tiny, with_fault: Any) -> None:
    def fix(model: ModelProto) -> None:
        set_manifest(model, shape=(2, 24, 32), neighbours=Neighbours(default=8, maximum=64, runtime=False))
        model.graph.initializer.append(numpy_helper.from_array(np.array([8], np.int64), "k"))
        del model.graph.input[1]

    path = with_fault(fix)
    comparison = compare(path, tiny.checkpoint, [PICTURE])
    assert comparison.verdict.good
    assert comparison.k == 8
    # 2 x 2 pieces of 24 x 32 pixels cover 32 x 40, each twice to fill the batch.
    assert comparison.stages[0].rows == 4 * 24 * 32 * 2
    generated = compare(tiny.checkpoint, path)
    assert (generated.inputs[0].height, generated.inputs[0].width) == (24, 32)
    with pytest.raises(InputError, match=r"candidate\.onnx: k is fixed at 8"):
        compare(path, tiny.checkpoint, k=9)
    other = changed(path, path.with_name("other.onnx"), lambda model: set_manifest(model, shape=(1, 24, 32)))
    with pytest.raises(InputError, match=r"not the same \(2x24x32 and 1x24x32\)"):
        compare(path, other)


def test_forced_graphs_decide_the_result(tiny: Tiny) -> None:
    images = np.moveaxis(PICTURE, 2, 0)[None]
    for probe in map(open_probe, tiny):
        few, chosen = probe.record(images, 4)
        many, own = probe.record(images, 32)
        assert not np.allclose(few, many, atol=1e-6)
        forced, overruled = probe.force(images, 32, [selection.graph for selection in chosen])
        np.testing.assert_allclose(forced, few, atol=1e-6)
        # What it would have chosen with k = 32 in the first stage is told all the same.
        np.testing.assert_array_equal(overruled[0].graph, own[0].graph)
        assert [selection.name for selection in chosen] == ["body.0", "body.1"]


def test_a_stage_is_named_by_the_module_that_it_runs_in() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.child(x)
            said.append(names[-1])
            return x

    said: list[str] = []
    network = nn.Sequential(Outer(), nn.Sequential(Outer()))
    with running_modules(network) as names:
        network(torch.zeros(1))
    assert said == ["0", "1.0"]
    assert names == []
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": 2}, "scale is 1 and 2"),
        ({"in_channels": 1}, "in channels is 3 and 1"),
        ({"window": 16}, "window is 8 and 16"),
        ({"layers": (1, 1, 1)}, r"layers is \[1, 1\] and \[1, 1, 1\]"),
    ],
)
def test_different_networks_are_refused(tiny: Tiny, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    other = tiny_kgt.save_network(tmp_path / "other.ckpt", dataclasses.replace(CONFIG, **changes))
    with pytest.raises(InputError, match=f"different networks: {words}; compare two forms"):
        compare(tiny.onnx, other)


def test_other_files_are_refused(tiny: Tiny, tmp_path: Path, make_model: Any, with_fault: Any) -> None:
    with pytest.raises(InputError, match="architecture is test and kgt"):
        compare(make_model("identity"), tiny.checkpoint)
    with pytest.raises(InputError, match="does not exist"):
        compare(tmp_path / "none.onnx", tiny.checkpoint)
    with pytest.raises(InputError, match="does not exist"):
        compare(tiny.onnx, tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="cannot tell the model type"):
        compare(tiny.onnx, tmp_path / "photo.png")
    with pytest.raises(InputError, match="no KeyGraph nodes"):
        compare(with_fault(_without_key_graphs), tiny.checkpoint)
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        compare(tiny.onnx, tiny.checkpoint, [tmp_path / "none.png"])
    with pytest.raises(InputError, match=r"array 1: the image has 5 channels"):
        compare(tiny.onnx, tiny.checkpoint, [PICTURE, np.zeros((8, 8, 5), np.uint8)])
    with pytest.raises(InputError, match="k is 0"):
        compare(tiny.onnx, tiny.checkpoint, k=0)


def _without_key_graphs(model: ModelProto) -> None:
    """All nodes attend to all: the graph is a constant."""
    for node in tiny_kgt.key_graphs(model):
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = ["everyone" if "KeyGraph" in name and i == 3 else name for i, name in enumerate(node.input)]
    everyone = np.full((1, 1, 64, 2), -1, np.int32)
    model.graph.initializer.append(numpy_helper.from_array(everyone, "everyone"))


def test_models_without_key_graphs_are_compared_as_they_run(make_model: Any, tmp_path: Path) -> None:
    same = compare(make_model("identity"), make_model("identity", tmp_path / "other.onnx"), [PICTURE])
    assert same.verdict.good
    assert same.k is None
    assert (same.inputs[0].same_graphs, same.stages) == (None, ())
    blurred = compare(make_model("blur"), make_model("identity"), [PICTURE])
    assert "times what fp32 rounding explains" in reason(blurred)
    assert "key graph" not in blurred.verdict.rule


def test_external_data_is_found(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    onnx.save(onnx.load(tiny.onnx), path, save_as_external_data=True, size_threshold=256, location="large.onnx.data")
    assert compare(path, tiny.checkpoint, [PICTURE]).verdict.good
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]


def test_scikit_image_is_missed_before_a_model_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(
        MissingDependencyError, match=re.escape(f"scikit-image; install it with: {install_line('parity')}")
    ):
        compare("absent.onnx", "absent.ckpt")


class Shift:
    """A side that adds a number to everything, and is scaled by two."""

    name, description = "shift", "test"
    integrity, digests, notices = None, {}, ()  # type: ignore[var-annotated]

    def __init__(self, manifest: Manifest, change: float) -> None:
        self.manifest, self.change = manifest, change

    def run(self, images: Any, k: int | None) -> Any:
        assert k is None
        return images.repeat(2, axis=2).repeat(2, axis=3) + np.float32(self.change)


def test_large_images_and_progress(make_manifest: Any) -> None:
    manifest = make_manifest(scale=2)
    image = np.random.default_rng(0).random((300, 260, 3), np.float32)
    steps: list[tuple[int, int]] = []
    comparison = compare(
        Shift(manifest, 0.01), Shift(manifest, 0), [image, image[:8, :8]], progress=lambda *step: steps.append(step)
    )
    assert steps == [(i, 5) for i in range(1, 6)]
    for result in comparison.inputs:
        assert result.as_run.psnr == pytest.approx(40, abs=1e-3)
        assert result.as_run.mean_abs == pytest.approx(0.01, rel=1e-4)
        assert result.as_run.histogram.bits == 16
        assert sum(result.as_run.histogram.counts) == 4 * 3 * result.height * result.width
    values = comparison.as_json()
    assert values["inputs"][0]["as_run"]["psnr"] == pytest.approx(40, abs=1e-3)
    assert values["verdict"]["good"] is False


def test_k_is_refused_without_a_key_graph(make_manifest: Any) -> None:
    side = Shift(make_manifest(), 0)
    with pytest.raises(InputError, match="no key graph"):
        compare(side, side, k=3)
