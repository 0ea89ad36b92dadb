"""Networks that call `pack_graph` are exported with PackGraph nodes, which run as functions and from the library."""

from __future__ import annotations

from pathlib import Path

import keygraph
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from keygraph.export import export_module
from keygraph.export.precision import to_half
from keygraph.plugins.torch import key_graph_attention, pack_graph
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")


class Packed(nn.Module):
    """Attention of 8 x 8 windows, one for each form: to the best with a threshold, near nodes, or positive scores."""

    def __init__(self, *forms: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.forms = forms
        self.project = nn.Conv2d(3, 8, 1)
        self.back = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        nodes = self.project(x).view(b, 8, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 1, 64, 8)
        for form in self.forms:
            scores = nodes @ nodes.mT
            if form == "threshold":
                graph = pack_graph(scores, scores.topk(5).values[..., -1:])
            else:
                order = torch.arange(64)
                near = (order[:, None] - order).abs() < 10
                graph = pack_graph(near.expand(scores.shape) if form == "near" else scores.relu())
            nodes = nodes + key_graph_attention(nodes, nodes, nodes, graph)
        image = nodes.view(b, h // 8, w // 8, 8, 8, 8).permute(0, 5, 1, 3, 2, 4).reshape(b, 8, h, w)
        restored: Tensor = x + self.back(image)
        return restored


@pytest.mark.parametrize(
    ("forms", "shape"), [(("threshold",), None), (("threshold", "near"), (1, 24, 32))], ids=["one", "both"]
)
def test_it_is_exported_and_verified_with_library_and_functions(
    forms: tuple[str, ...], shape: tuple[int, int, int] | None, tmp_path: Path
) -> None:
    module, path = Packed(*forms), tmp_path / "packed.onnx"
    manifest = export_module(module, path, size_multiple=None if shape else 8, shape=shape)
    proto = onnx.load(path)
    packs = [node for node in proto.graph.node if node.op_type == "PackGraph"]
    assert len(packs) == len(forms)
    assert {f.name for f in proto.functions} == {"PackGraph", "KeyGraphAttention"}
    # A file can hold one form of the function: where both are needed, the comparison is in the graph.
    assert {len(node.input) for node in packs} == {2 if forms == ("threshold",) else 1}
    assert manifest.verification is not None
    assert set(manifest.verification) == {"library", "functions"}
    image = np.random.default_rng(0).random((24, 32, 3), np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(image.transpose(2, 0, 1)[None]))[0].numpy().transpose(1, 2, 0)
    restored = keygraph.load(path).restore(image).image
    np.testing.assert_allclose(restored, expected, atol=1e-5)


def test_a_mask_of_small_numbers_stays_in_float32() -> None:
    """1e-9 is not zero; as float16 it would be. Scores and threshold are rounded alike."""
    values = [ir.Value(name=name, shape=ir.Shape([1, 1, 4, n]), type=ir.TensorType(ir.DataType.FLOAT))
              for name, n in (("mask", 9), ("scores", 9), ("threshold", 1))]  # fmt: skip
    mask, scores, threshold = values
    nodes = [ir.node("PackGraph", given, domain="keygraph", name=given[0].name)
             for given in ([mask], [scores, threshold])]  # fmt: skip
    graph = ir.Graph(values, [node.outputs[0] for node in nodes], nodes=nodes, opset_imports={"": 20, "keygraph": 1})
    to_half(ir.Model(graph, ir_version=9), "fp16", set())
    assert [[value.dtype for value in node.inputs if value is not None] for node in nodes] == [
        [ir.DataType.FLOAT],
        [ir.DataType.FLOAT16, ir.DataType.FLOAT16],
    ]
