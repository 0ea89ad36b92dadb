"""The plugin in TensorRT-RTX: a real TensorRT parser and builder, which need no GPU.

RTX's makers do not support plugins; that its parser imports them and its builder puts them into engines is what we see,
not what they promise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported import ExportStore
from keygraph.errors import MissingDependencyError
from keygraph.export.functions import DOMAIN, PLUGIN_ATTRIBUTES, operator_functions
from onnx import TensorProto, helper, numpy_helper
from operator_hosts import native
from tiny_kgt import CONFIG, changed

PACKAGES = ("tensorrt_rtx_libs", "tensorrt_rtx_bindings")
#: What the functions' bodies are made of, and nothing else in a KGT.
OF_THE_FUNCTIONS = {"TOPK", "SCATTER", "SOFTMAX"}


@pytest.fixture(scope="module")
def loader_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where RTX's parser finds the unversioned name that it opens, which the package lacks."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install keygraph[rtx]")
    package = importlib.util.find_spec("tensorrt_rtx_libs")
    assert package is not None
    assert package.origin is not None
    folder = tmp_path_factory.mktemp("rtx")
    (folder / "libtensorrt_rtx.so").symlink_to(Path(package.origin).parent / "libtensorrt_rtx.so.1")
    return folder


@pytest.fixture(scope="module")
def plugin() -> Path:
    try:
        path: Path = native("tensorrt").absolute()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    if not path.is_file():
        pytest.skip(f"{path} is not built")
    return path


@pytest.fixture(scope="module")
def tiny(exports: ExportStore) -> Path:
    return exports.get(CONFIG, "tiny").onnx


def build(loader_path: Path, model: Path, plugin: Path | None = None) -> dict[str, Any]:
    script = Path(__file__).with_name("rtx_build.py")
    command: list[str | Path] = [sys.executable, script, model, *([] if plugin is None else [plugin])]
    search = os.pathsep.join(filter(None, [str(loader_path), os.environ.get("LD_LIBRARY_PATH")]))
    run = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"LD_LIBRARY_PATH": search}, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    result: dict[str, Any] = json.loads(run.stdout)
    return result | {"stderr": run.stderr}


def plugins_of(result: dict[str, Any]) -> list[str]:
    return [name for type_, name in result["layers"] if type_ == "PLUGIN_V3"]


def operators_of(model: Path) -> list[str]:
    return [node.name for node in onnx.load(model).graph.node if node.domain == DOMAIN]


def two_nodes(path: Path, dtype: type) -> Path:
    """KeyGraph and KeyGraphAttention in one storage type: 2 heads, windows of a run-time number."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    sizes: dict[str, list[str | int | None]] = {"x": ["windows", 64, 16], "v": ["windows", 64, 20]}
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Unsqueeze", ["x", "one"], ["nodes"]),
            node("KeyGraph", ["nodes", "nodes", "k"], ["graph"], name="a graph", domain=DOMAIN, **PLUGIN_ATTRIBUTES),
            node(
                "KeyGraphAttention", ["x", "x", "v", "graph"], ["attended"],
                name="an attention", domain=DOMAIN, heads=2, scale=0.25, **PLUGIN_ATTRIBUTES,
            ),
        ],
        "two nodes",
        [
            *(helper.make_tensor_value_info(name, element, dims) for name, dims in sizes.items()),
            helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("attended", element, ["windows", 64, 20])],
        [numpy_helper.from_array(np.array([1]), "one")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    functions = operator_functions(bias=False, heads_last=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10), path)
    return path


def test_an_exported_model_takes_the_plugins(loader_path: Path, plugin: Path, tiny: Path) -> None:
    result = build(loader_path, tiny, plugin)
    assert plugins_of(result) == operators_of(tiny)
    assert not OF_THE_FUNCTIONS & {type_ for type_, _ in result["layers"]}
    assert result["engine"], result["log"][-5:]
    assert result["carried"] >= len(operators_of(tiny))


def test_without_the_library_the_functions_are_built(loader_path: Path, tiny: Path) -> None:
    result = build(loader_path, tiny)
    assert plugins_of(result) == []
    assert {type_ for type_, _ in result["layers"]} >= OF_THE_FUNCTIONS
    assert result["engine"], result["log"][-5:]
    assert result["carried"] == 0


def test_float16(loader_path: Path, plugin: Path, tmp_path: Path) -> None:
    model = two_nodes(tmp_path / "half.onnx", np.float16)
    for library in (plugin, None):
        result = build(loader_path, model, library)
        assert plugins_of(result) == (["a graph", "an attention"] if library else [])
        assert result["engine"], result["log"][-5:]


def test_attentions_with_and_without_a_bias(loader_path: Path, plugin: Path, tmp_path: Path) -> None:
    """As `export.attention_forms` writes them: one function for both; the bias of one differs between windows."""
    with_one_more = onnx.load(two_nodes(tmp_path / "one.onnx", np.float32))
    graph, (attention,) = with_one_more.graph, (n for n in with_one_more.graph.node if n.op_type == "KeyGraphAttention")
    biased = graph.node.add()
    biased.CopyFrom(attention)
    biased.name, biased.output[0] = "a biased attention", "biased"
    biased.input.append("bias")
    attention.input.append("no bias")
    graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 1), np.float32), "no bias"))
    graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [4, 2, 64, 64]))
    graph.output.append(helper.make_tensor_value_info("biased", TensorProto.FLOAT, ["windows", 64, 20]))
    del with_one_more.functions[:]
    with_one_more.functions.extend(operator_functions(bias=True, heads_last=True))
    path = tmp_path / "both.onnx"
    onnx.save(with_one_more, path)
    for library in (plugin, None):
        result = build(loader_path, path, library)
        assert plugins_of(result) == (["a graph", "an attention", "a biased attention"] if library else [])
        assert result["engine"], result["log"][-5:]


def test_an_error_names_the_node(loader_path: Path, plugin: Path, tmp_path: Path) -> None:
    """In the logger; on stderr where the library was built with TensorRT 10's headers, whose loggers differ."""

    def no_heads(model: onnx.ModelProto) -> None:
        (heads,) = (a for node in model.graph.node for a in node.attribute if a.name == "heads")
        heads.i = 0

    good = two_nodes(tmp_path / "good.onnx", np.float32)
    result = build(loader_path, changed(good, tmp_path / "bad.onnx", no_heads), plugin)
    assert result["engine"] is None
    said = [line for severity, line in result["log"] if severity == "ERROR"] + result["stderr"].splitlines()
    line = "keygraph: KeyGraphAttention node 'an attention': attribute heads is 0; it must be at least 1"
    assert said.count(line) == 1
