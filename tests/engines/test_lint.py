"""Lint: what TensorRT would reject is found before a build, with the name of its module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from keygraph.engines.lint import ERROR, WARNING, Finding, lint, refuse
from keygraph.engines.model import load_model
from keygraph.errors import InputError
from keygraph.manifest import Neighbours
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny_kgt import changed, set_manifest

Change = Callable[[ModelProto], None]
OURS = ("KeyGraph", "KeyGraphAttention", "PackGraph", "TopKGraph")


def found(source: Path, tmp_path: Path, change: Change, plugins: tuple[str, ...] = ()) -> list[Finding]:
    return lint(load_model(changed(source, tmp_path / "changed.onnx", change)), plugins)


def add(*nodes: onnx.NodeProto, **constants: np.ndarray) -> Change:
    """Append nodes whose results are not used."""

    def change(model: ModelProto) -> None:
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())

    return change


def node(op_type: str, inputs: list[str], name: str = "body.1.layers.0.mlp/X", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, ["nowhere"], name=name, **attributes)


def test_our_files_are_clean(single: Path, half: Path, half_unet: Path) -> None:
    for path in (single, half, half_unet):
        assert lint(load_model(path)) == lint(load_model(path), OURS) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add(node("BitwiseAnd", ["image", "image"])), "TensorRT has no BitwiseAnd"),
        (add(node("TopK", ["image", "n"], sorted=0), n=np.array([4])), "TopK always sorts; set sorted to 1"),
        (add(node("TopK", ["image", "n"]), n=np.array([3841])), "TopK of 3841: TensorRT selects at most 3840"),
        (
            add(node("ScatterElements", ["image", "i", "image"], reduction="add"), i=np.array([4])),
            "TensorRT's ScatterElements has no reduction (add)",
        ),
        (add(node("Cast", ["image"], to=TensorProto.UINT16)), "the type of the Cast is uint16, which TensorRT lacks"),
        (add(node("LayerNormalization", ["image"], domain="mine")), "confuse mine::LayerNormalization with ONNX's"),
        (
            add(node("Magic", ["image"], domain="mine")),
            "TensorRT has no mine::Magic, and the file has no function",
        ),
    ],
)
def test_a_node_is_found_with_its_module(single: Path, tmp_path: Path, change: Change, words: str) -> None:
    (finding,) = found(single, tmp_path, change)
    assert (finding.severity, finding.module) == (ERROR, "body.1.layers.0.mlp")
    assert words in finding.message
    path = tmp_path / "changed.onnx"
    with pytest.raises(InputError, match=r"changed.onnx cannot become an engine: body.1.layers.0.mlp: "):
        refuse(load_model(path), [finding])


def test_what_is_allowed(single: Path, tmp_path: Path) -> None:
    for change in (
        add(node("TopK", ["image", "n"], sorted=1), n=np.array([3840])),
        add(node("ScatterElements", ["image", "i", "image"], reduction="none"), i=np.array([4])),
        add(node("ScatterElements", ["image", "i", "image"]), i=np.array([4])),
    ):
        assert found(single, tmp_path, change) == []


def test_functions_are_looked_into_unless_a_plugin_stands_for_them(single: Path, tmp_path: Path) -> None:
    def unsorted(model: ModelProto) -> None:
        (function,) = (f for f in model.functions if f.name == "KeyGraph")
        (top_k,) = (n for n in function.node if n.op_type == "TopK")
        (attribute,) = (a for a in top_k.attribute if a.name == "sorted")
        attribute.i = 0

    (finding,) = found(single, tmp_path, unsorted)  # Once, although two nodes call it.
    assert finding.module.startswith("body.0")
    assert found(single, tmp_path, unsorted, OURS) == []


def test_a_graph_inside_a_node(single: Path, tmp_path: Path) -> None:
    def branch(op_type: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op_type, ["image"], ["b"], name="tail/Y")], "g", [], [output])

    change = add(node("If", ["flag"], then_branch=branch("Det"), else_branch=branch("Relu")), flag=np.array(True))
    (finding,) = found(single, tmp_path, change)
    assert (finding.module, finding.message) == ("tail", "TensorRT has no Det; write it with other operators")


def test_types(single: Path, tmp_path: Path) -> None:
    (finding,) = found(single, tmp_path, add(**{"body.0.table": np.array([1.0])}))
    assert (finding.severity, finding.module) == (WARNING, "body.0")
    assert "is double: TensorRT computes it in float32" in finding.message
    refuse(load_model(single), [finding])

    def strings(model: ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING

    (finding,) = found(single, tmp_path, strings)
    assert "the tensor image is string, which TensorRT lacks" in finding.message


@pytest.mark.parametrize(("version", "severity"), [(8, ERROR), (99, WARNING)])
def test_opsets(single: Path, tmp_path: Path, version: int, severity: str) -> None:
    def change(model: ModelProto) -> None:
        next(opset for opset in model.opset_import if not opset.domain).version = version

    (finding,) = found(single, tmp_path, change)
    assert finding.severity == severity
    assert f"opset {version} is" in finding.message


def test_half_that_is_none(single: Path, tmp_path: Path) -> None:
    (finding,) = found(single, tmp_path, lambda model: set_manifest(model, precision="fp16"))
    assert "the manifest says fp16, but no weight is of that type" in finding.message


def test_a_window_with_more_nodes_than_top_k_selects(single: Path, tmp_path: Path) -> None:
    def large(model: ModelProto) -> None:
        set_manifest(model, neighbours=Neighbours(64, 4096))

    (finding,) = found(single, tmp_path, large)
    assert "k goes up to 4096, but without the plugin TensorRT selects at most 3840" in finding.message
    assert found(single, tmp_path, large, OURS) == []


def test_many_errors_are_counted(single: Path, tmp_path: Path) -> None:
    change = add(*(node("Det", ["image"], name=f"body.{i}/Det") for i in range(5)))
    findings = found(single, tmp_path, change)
    with pytest.raises(InputError, match=r"body\.0: .*; body\.1: .*; body\.2: .*, and 2 more$"):
        refuse(load_model(single), findings)
