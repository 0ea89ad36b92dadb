"""Networks that compute their attention by keygraph.attend: exported as the operators, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import own_modules
import pytest
import torch
from keygraph.errors import KeygraphError
from keygraph.export import export_module
from keygraph.export.custom import attention
from keygraph.export.recognition import Case, arrange_by_hand
from keygraph.plugins.torch import key_graph_attention, pack_graph
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 16, 24)


class Layer(nn.Module):
    """Attention of 2 heads to the nodes whose normalised features are the most similar."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.norm = nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(2, 16, 16))
        self.k: Tensor
        self.register_buffer("k", torch.tensor([5]))

    def forward(self, x: Tensor, nodes: Tensor) -> Tensor:
        nodes = self.norm(nodes)
        if self.form == "heads last":
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.changed(x, keygraph.attend(q, k, v, similarity=(nodes, nodes), k=5, bias=self.bias, heads=2))
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        given: dict[str, Any] = {"similarity": (nodes, nodes), "k": 5}
        if self.form == "graph":
            given = {"graph": keygraph.key_graph(nodes, nodes, self.k)}
        return self.changed(x, keygraph.attend(q, k, v, bias=self.bias, **given).transpose(1, 2).flatten(2))

    def changed(self, x: Tensor, attended: Tensor) -> Tensor:
        result: Tensor = x + self.proj(attended)
        return result


class Network(nn.Module):
    """Two layers that attend to the same nodes, then own_modules' masks, or again two such layers."""

    def __init__(self, form: str, then: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.first, self.second = Layer(form), Layer(form)
        self.masked = own_modules.TopKAttention() if then == "masks" else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        b, c, h, w = x.shape
        nodes = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        y = self.second(self.first(nodes, nodes), nodes)
        x = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        restored: Tensor = self.masked(image + self.tail(x))
        return restored


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node if node.domain == "keygraph"]


def runs_as(path: Path, module: nn.Module) -> None:
    image = np.random.default_rng(0).random((*SHAPE[1:], 3), np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].numpy().transpose(1, 2, 0)
    for library in ("auto", None):
        with keygraph.load(path, library=library) as restore:
            np.testing.assert_allclose(restore(image, tile="none"), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["heads last", "heads first", "graph"])
def test_equal_key_graphs_are_computed_once_and_heads_are_last(form: str, tmp_path: Path) -> None:
    """The norms of the layers differ, but their values are the same, as in a network that is not trained."""
    module, path, notes = Network(form), tmp_path / "own.onnx", list[str]()
    manifest = export_module(module, path, shape=SHAPE, notice=notes.append, verification=form == "graph")
    assert [note for note in notes if "fused" in note] == [
        "`first`: fused by hand, k = 5",
        "`second`: fused by hand, k = 5",
    ]
    assert operators(path) == ["KeyGraph", "KeyGraphAttention", "KeyGraphAttention"]
    for node in onnx.load(path).graph.node:
        if node.op_type == "KeyGraphAttention":
            assert {each.name: each.i for each in node.attribute}["heads"] == 2
    runs_as(path, module)
    if form == "graph":
        assert manifest.verification is not None
        assert set(manifest.verification) == {"library", "functions"}
        assert min(check["psnr"] for record in manifest.verification.values() for check in record["checks"]) > 120


def test_key_graphs_that_differ_are_kept(tmp_path: Path) -> None:
    module = Network("heads last")
    with torch.no_grad():
        module.second.norm.weight.mul_(torch.linspace(0.5, 2, 8))
    export_module(module, tmp_path / "own.onnx", shape=SHAPE, verification=False)
    assert operators(tmp_path / "own.onnx") == ["KeyGraph", "KeyGraphAttention"] * 2
    runs_as(tmp_path / "own.onnx", module)


def test_beside_attentions_that_are_recognised(tmp_path: Path) -> None:
    module, path, notes = Network("heads first", then="masks"), tmp_path / "own.onnx", list[str]()
    export_module(module, path, shape=SHAPE, notice=notes.append)
    assert [note for note in notes if "fused" in note] == [
        "`first`: fused by hand, k = 5",
        "`second`: fused by hand, k = 5",
        "`masked`: fused, k = 5 (2 attentions)",
    ]
    attend = ["KeyGraph", "KeyGraphAttention"]
    assert operators(path) == [*attend, "KeyGraphAttention", *attend, *attend]
    runs_as(path, module)


def test_a_program_that_is_not_the_module_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, cases = Network("heads last"), attention._cases

    def other(*arguments: Any) -> list[Case]:
        module.first.bias = nn.Parameter(2 * module.first.bias.detach())  # The program keeps the earlier one.
        return cases(*arguments)

    monkeypatch.setattr(attention, "_cases", other)
    message = r"the network as it was traced, on .*, is only [\d.]+ dB from the module's, .*; no file was written"
    with pytest.raises(KeygraphError, match=message):
        export_module(module, tmp_path / "own.onnx", shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def biased(self: own_modules.TopKAttention, x: Tensor) -> Tensor:
    """What TopKAttention computes."""
    p = self.window
    f = self.head(x)
    b, c, h, w = f.shape
    nodes = f.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(-1, p * p, c)
    for layer in self.qkv:
        q, k, v = layer(nodes).chunk(3, -1)
        nodes = nodes + keygraph.attend(q, k, v, k=self.k, bias=self.bias, scale=1)
    f = nodes.view(b, h // p, w // p, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
    restored: Tensor = x + self.tail(f)
    return restored


def test_a_replaced_forward_is_exported_and_the_module_given_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, notes = nn.Sequential(own_modules.TopKAttention()), list[str]()
    with keygraph.replace({own_modules.TopKAttention: biased}):
        export_module(module, tmp_path / "own.onnx", shape=SHAPE, notice=notes.append, verification=False)
    assert [note for note in notes if "fused" in note] == ["`0`: fused by hand, k = 5 (2 attentions)"]
    assert own_modules.TopKAttention.forward is not biased
    runs_as(tmp_path / "own.onnx", module)


def test_a_selection_of_no_fixed_number_has_no_k() -> None:
    class Packed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return key_graph_attention(x, x, x, pack_graph((x @ x.mT > 0)[:, None]), heads=1)

    program = torch.export.export(Packed(), (torch.randn(2, 40, 8),)).run_decompositions({})
    found = arrange_by_hand(program)
    assert list(map(str, found.verdicts)) == ["the model: fused by hand"]
    assert found.calls == ()
