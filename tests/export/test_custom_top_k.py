"""Selections by top-k in networks of unknown architecture: near ties are no difference, another selection is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import own_modules
import pytest
import torch
from keygraph.errors import KeygraphError
from keygraph.export import export_module, exporter, trace
from keygraph.export.custom import model
from keygraph.export.custom.attention import Attentions
from keygraph.export.custom.top_k import ForcedTopK, TopKReference, UncomparableError

pytestmark = pytest.mark.usefixtures("one_thread")


def network(form: str) -> own_modules.TopKAttention:
    """Return a network whose attentions are packed, because a bias is inside, and whose scores tie in flat images."""
    torch.manual_seed(0)
    module = own_modules.TopKAttention(form, biased=True)
    module.bias.data = module.bias.data[:, :1].repeat(1, module.bias.shape[1])
    return module


@pytest.mark.parametrize("form", ["mask", "threshold", "sort"])
def test_networks_that_select_are_verified_on_ties_as_well(form: str, tmp_path: Path) -> None:
    """On the flat image all scores of the inner nodes tie, and PyTorch and ONNX Runtime select different ones."""
    module = network(form)
    manifest = export_module(module, tmp_path / "top_k.onnx")
    assert manifest.verification is not None
    assert "functions" in manifest.verification
    checks = manifest.verification["functions"]["checks"]
    assert min(check["psnr"] for check in checks) > 120
    if form == "sort":
        return
    assert max(check["links_different"] for check in checks if check["content"] == "flat") > 0.05


def test_without_forcing_the_ties_would_count_as_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias, which does not select here, makes a difference of what ties."""
    monkeypatch.setattr(model, "fuse_attentions", lambda program, *_, **__: Attentions(program, (), program))
    torch.manual_seed(0)
    module = own_modules.TopKAttention("mask")
    export_module(module, tmp_path / "top_k.onnx", verification=False)
    reference = TopKReference(module.eval(), 1e-4)
    image = np.full((1, 3, 40, 56), 0.5, np.float32)
    restored, selections = reference.probe(tmp_path / "top_k.onnx", None, False).record(image, None)
    assert len(selections) == 2
    forced, agreements = reference.restore((image,), None, [selection.graph for selection in selections])
    own, none = reference.restore((image,), None)
    assert [a.beyond_tolerance for a in agreements] == [0, 0]
    assert none == []
    assert np.abs(restored - forced).max() < 1e-5
    assert np.abs(restored - own).max() > 1e-4


@pytest.mark.parametrize("form", ["mask", "threshold"])
def test_another_selection_is_found(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translate = trace.translate

    def smallest_instead(*arguments: Any) -> ir.Model:
        traced = translate(*arguments)
        for node in [node for node in traced.graph if node.op_type in ("TopK", "TopKGraph")][:1]:
            if node.op_type == "TopK":
                node.attributes["largest"] = ir.AttrInt64("largest", 0)
                continue
            negated = ir.node("Neg", node.inputs[:1])
            (scores,) = negated.outputs
            assert node.inputs[0] is not None
            scores.name, scores.type, scores.shape = "negated", node.inputs[0].type, node.inputs[0].shape
            traced.graph.insert_before(node, negated)
            node.replace_input_with(0, scores)
        return traced

    monkeypatch.setattr(exporter, "translate", smallest_instead)
    with pytest.raises(KeygraphError, match="selects other neighbours than PyTorch"):
        export_module(network(form), tmp_path / "top_k.onnx")
    assert not list(tmp_path.iterdir())


def forced(scores: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, ForcedTopK]:
    with ForcedTopK([given], 1e-4) as mode:
        values = scores.topk(given.shape[-1]).values
    mode.check_complete()
    return values, mode


def test_a_near_tie_is_counted_and_within_tolerance() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 2.0 - 1e-5, 0.0]])
    values, mode = forced(scores, torch.tensor([[1, 0, 3]]))
    (agreement,) = mode.agreements
    assert (agreement.selected, agreement.different, agreement.beyond_tolerance) == (3, 1, 0)
    assert agreement.jaccard == 0.5
    assert values.tolist() == [[3.0, 4.0, scores[0, 3].item()]]


@pytest.mark.parametrize("given", [[[0, 1, 4]], [[0, 1, 1]]], ids=["not near", "repeated"])
def test_a_wrong_selection_is_beyond_tolerance(given: list[list[int]]) -> None:
    _, mode = forced(torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]]), torch.tensor(given))
    assert mode.agreements[0].beyond_tolerance > 0


def test_thresholds_are_forced_as_masks() -> None:
    scores, limit = torch.tensor([[4.0, 3.0, 2.0]]), torch.tensor([[3.0]]).expand(1, 3)
    with ForcedTopK([torch.tensor([[True, False, False]])], 1e-4) as near:
        assert (scores >= limit).tolist() == [[True, False, False]]
        assert (scores >= 0).all()  # no comparison of two tensors
    assert (near.agreements[0].different, near.agreements[0].beyond_tolerance) == (1, 0)
    with ForcedTopK([torch.tensor([[False, True, False]])], 1e-4) as wrong:
        assert (scores >= limit).tolist() == [[False, True, False]]
    assert wrong.agreements[0].beyond_tolerance == 1


def test_a_file_that_selects_another_number_of_times_cannot_be_compared() -> None:
    with ForcedTopK([], 1e-4) as mode:
        torch.rand(2, 5).topk(2)
    with pytest.raises(UncomparableError, match="selects 1 times by topk or sort, and the exported file 0 times"):
        mode.check_complete()
    with pytest.raises(UncomparableError, match="has shape"), ForcedTopK([torch.zeros(2, 3, dtype=torch.int64)], 1e-4):
        torch.rand(2, 5).topk(2)


def test_what_cannot_be_compared_is_run_with_its_own_selections() -> None:
    module = network("mask").eval()
    reference = TopKReference(module, 1e-4)
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    own, _ = reference.restore((image,), None)
    found, agreements = reference.restore((image,), None, [])
    assert np.array_equal(found, own)
    assert agreements == []
