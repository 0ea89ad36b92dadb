"""k is an input of the files of networks whose attentions are all to the same number of nodes; else a line says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import own_modules
import pytest
import torch
from keygraph.errors import InputError
from keygraph.export import export_module
from keygraph.export.custom.neighbours import offered_k
from keygraph.export.recognition import recognize
from keygraph.instrumentation.metrics import psnr
from keygraph.manifest import Neighbours
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = np.random.default_rng(0).random((24, 32, 3), np.float32)
NODES = 16  # of a window


def attention(form: str = "mask", k: int = 5, biased: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return own_modules.TopKAttention(form, k=k, biased=biased).eval()


def expected(module: nn.Module) -> np.ndarray:
    with torch.no_grad():
        restored: Tensor = module(torch.from_numpy(IMAGE.transpose(2, 0, 1)[None]))[0].permute(1, 2, 0)
    return np.asarray(restored)


def choice(notes: list[str]) -> list[str]:
    return [note for note in notes if note.startswith(("k is an input", "k stays", "of nodes that tie"))]


def inputs(path: Path) -> list[str]:
    return [given.name for given in onnx.load(path).graph.input]


@pytest.mark.parametrize(("form", "biased"), [("mask", False), ("mask", True)], ids=["fused", "packed"])
def test_one_file_computes_what_the_module_computes_at_every_k(form: str, biased: bool, tmp_path: Path) -> None:
    """Verified at export at other k by the operators' definition; here the module itself is built with them."""
    path, notes = tmp_path / "own.onnx", list[str]()
    manifest = export_module(attention(form, biased=biased), path, notice=notes.append)
    assert manifest.neighbours == Neighbours(default=5, maximum=NODES, trained=(5,))
    assert choice(notes) == [
        f"k is an input of the file: 1 to {NODES}, 5 by default (restore --k); the network itself has k = 5"
    ]
    assert manifest.verification is not None
    checks = [check for record in manifest.verification.values() for check in record["checks"]]
    assert {check["k"] for check in checks} == {2, 5, NODES}
    assert min(check["psnr"] for check in checks) > 110
    restore = keygraph.load(path)
    for k in (None, 3, 11):
        assert psnr(restore(IMAGE, k=k), expected(attention(form, k or 5, biased)), (0.0, 1.0)) > 60


def test_a_threshold_keeps_its_k_unless_ties_may_change(tmp_path: Path) -> None:
    path, notes = tmp_path / "own.onnx", list[str]()
    manifest = export_module(attention("threshold"), path, notice=notes.append, verification=False)
    assert manifest.neighbours is None
    assert inputs(path) == ["image"]
    (line,) = choice(notes)
    assert line.startswith("k stays fixed: ")
    assert line.endswith("keeps all nodes that tie with the k-th; --tie k makes it an input all the same")
    notes.clear()
    manifest = export_module(attention("threshold"), path, notice=notes.append, tie="k")
    assert manifest.neighbours is not None
    assert inputs(path) == ["image", "k"]
    assert choice(notes)[1] == "of nodes that tie with the k-th, exactly k are kept, not all as in the network: --tie k"
    assert psnr(keygraph.load(path)(IMAGE, k=7), expected(attention("threshold", 7)), (0.0, 1.0)) > 60


def test_k_can_be_fixed_at_another_value(tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    manifest = export_module(attention(), path, k=3)
    assert manifest.neighbours == Neighbours(default=3, maximum=NODES, trained=(5,), runtime=False)
    assert inputs(path) == ["image"]
    assert psnr(keygraph.load(path)(IMAGE), expected(attention(k=3)), (0.0, 1.0)) > 60


class Attends(nn.Module):
    """Attentions of [B, N, C] to so many nodes each; with `pooled`, also a top-k of what is no attention."""

    def __init__(self, *counts: int, pooled: bool = False) -> None:
        super().__init__()
        self.counts, self.pooled = counts, pooled

    def forward(self, x: Tensor) -> Tensor:
        for count in self.counts:
            scores = x @ x.mT
            kept = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(count).indices, True)
            x = scores.masked_fill(~kept, -torch.inf).softmax(-1) @ x
        return x + x.topk(2, dim=1).values.sum(1, keepdim=True) if self.pooled else x


def offered(module: nn.Module, any_size: bool = False, global_statistics: bool = False) -> tuple[Any, list[str]]:
    sizes = ({1: torch.export.Dim("nodes", min=8, max=64)},) if any_size else None
    program = torch.export.export(module, (torch.randn(2, 12, 4),), dynamic_shapes=sizes, strict=False)
    found = recognize(program.run_decompositions({}))
    assert found.fused
    return offered_k(found.program, found.verdicts, "keep", global_statistics)


def test_one_number_of_a_fixed_number_of_nodes_can_be_chosen() -> None:
    neighbours, (line,) = offered(Attends(3, 3))
    assert neighbours == Neighbours(default=3, maximum=12, trained=(3,))
    assert line.startswith("k is an input of the file: 1 to 12, 3 by default")


@pytest.mark.parametrize(
    ("module", "options", "reason"),
    [
        (Attends(3, 5), {}, "its attentions are to different numbers of nodes, 3, 5"),
        (Attends(3, pooled=True), {}, "the network also selects in a way that the operators do not compute"),
        (Attends(3), {"any_size": True}, "how many nodes there are to choose from depends on the image's size"),
        (Attends(3), {"global_statistics": True}, "the network has statistics over the whole image"),
    ],
    ids=["different", "other", "any size", "statistics"],
)
def test_everything_else_stays_fixed_and_is_said(module: nn.Module, options: dict[str, bool], reason: str) -> None:
    neighbours, (line,) = offered(module, **options)
    assert neighbours is None
    assert line.startswith(f"k stays fixed: {reason}")


def test_a_wrong_choice_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tie is 'all'; give keep, or k"):
        export_module(attention(), tmp_path / "own.onnx", tie="all")
    assert not any(tmp_path.iterdir())
