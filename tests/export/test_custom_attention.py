"""Attentions to a top-k of networks of unknown architecture are exported as keygraph's operators, or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import own_modules
import pytest
import torch
from keygraph.export import export_module
from keygraph.export.custom import attention
from keygraph.export.recognition import Case
from keygraph.instrumentation.metrics import psnr
from torch import Tensor, nn
from torch.export import ExportedProgram

pytestmark = pytest.mark.usefixtures("one_thread")


class Nested(nn.Module):
    """The attentions in a module below the network's own."""

    def __init__(self, form: str = "mask", biased: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = own_modules.TopKAttention(form, biased=biased)

    def forward(self, x: Tensor) -> Tensor:
        restored: Tensor = self.body(x)
        return restored


class ChangedInPlace(nn.Module):
    """An attention between channels, which stays as it is, with a mask that is made in place."""

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        scores = pixels @ pixels.mT
        mask = torch.zeros_like(scores)
        mask.scatter_(-1, scores.topk(2).indices, 1.0)
        weights = scores.masked_fill(mask == 0, -torch.inf).softmax(-1)
        mixed: Tensor = (weights @ pixels).unflatten(2, x.shape[2:])
        return mixed


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node if node.domain == "keygraph"]


def attentions(notes: list[str]) -> list[str]:
    return [note for note in notes if note.startswith("`body`")]


@pytest.mark.parametrize("form", ["mask", "threshold", "sort"])
@pytest.mark.parametrize("shape", [None, (1, 24, 32)])
def test_they_are_fused_and_verified_with_library_and_functions(
    form: str, shape: tuple[int, int, int] | None, tmp_path: Path
) -> None:
    module, path, notes = Nested(form), tmp_path / "own.onnx", list[str]()
    manifest = export_module(module, path, shape=shape, notice=notes.append)
    assert operators(path) == ["KeyGraph", "KeyGraphAttention"] * 2
    ties = "; of nodes that tie with the k-th, the first are kept, not all" if form == "threshold" else ""
    assert attentions(notes) == [f"`body`: fused, k = 5{ties} (2 attentions)"]
    # A threshold keeps ties, and its k; see test_custom_k.py.
    assert (manifest.neighbours is None) == (form == "threshold")
    assert manifest.verification is not None
    assert set(manifest.verification) == {"library", "functions"}
    assert min(check["psnr"] for record in manifest.verification.values() for check in record["checks"]) > 120
    image = np.random.default_rng(0).random((24, 32, 3), np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].numpy().transpose(1, 2, 0)
    # As run: a near tie that falls the other way is not excluded.
    assert psnr(keygraph.load(path)(image), expected, (0.0, 1.0)) > 60


def test_a_network_whose_attention_stays_is_decomposed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes a tensor in place, and is not decomposed again to be translated: both take as long as tracing."""
    calls, decompose = list[object](), ExportedProgram.run_decompositions

    def counted(program: ExportedProgram, *arguments: Any) -> ExportedProgram:
        calls.append(program)
        decomposed: ExportedProgram = decompose(program, *arguments)
        return decomposed

    monkeypatch.setattr(ExportedProgram, "run_decompositions", counted)
    notes: list[str] = []
    manifest = export_module(ChangedInPlace(), tmp_path / "own.onnx", verification=False, notice=notes.append)
    assert len(calls) == 1
    assert [one.verdict for one in manifest.attentions] == ["unchanged"]


def test_equal_verdicts_of_one_module_are_one_line(tmp_path: Path) -> None:
    class Twice(ChangedInPlace):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))

    notes = list[str]()
    export_module(Twice().eval(), tmp_path / "twice.onnx", shape=(1, 16, 16), verification=False, notice=notes.append)
    (line,) = [note for note in notes if note.startswith("the model: ")]
    assert line.endswith(" (2 attentions)")


def test_other_selections_are_packed_and_named_with_the_reason(tmp_path: Path) -> None:
    notes: list[str] = []
    manifest = export_module(Nested(biased=True), tmp_path / "own.onnx", notice=notes.append)
    assert operators(tmp_path / "own.onnx") == ["TopKGraph", "KeyGraphAttention"] * 2
    assert attentions(notes) == ["`body`: packed; the bias is inside the selection (2 attentions)"]
    assert manifest.verification is not None
    assert set(manifest.verification) == {"library", "functions"}
    assert min(check["psnr"] for record in manifest.verification.values() for check in record["checks"]) > 120


def test_an_attention_that_is_not_verified_is_not_fused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network computes something else than its program says: only running it can show that."""
    module, notes, cases = Nested(), list[str](), attention._cases

    def other(*arguments: Any) -> list[Case]:
        module.body.bias = nn.Parameter(1.5 * module.body.bias.detach())  # The program keeps the earlier one.
        return cases(*arguments)

    monkeypatch.setattr(attention, "_cases", other)
    export_module(module, tmp_path / "own.onnx", notice=notes.append, verification=False)
    assert operators(tmp_path / "own.onnx") == []
    assert all("is only" in note and "dB from the module's" in note for note in attentions(notes))
    assert [note.endswith(" (2 attentions)") for note in attentions(notes)] == [True]
