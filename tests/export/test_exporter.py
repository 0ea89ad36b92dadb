"""The exported file: its results, its manifest, its nodes, and that it is written completely or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from keygraph import manifest as manifests
from keygraph.errors import InputError, KeygraphError
from keygraph.export import export, exporter, onnx_file
from keygraph.export.verify import verification_cases
from keygraph.integrity import UNCHANGED
from keygraph.manifest import Manifest
from keygraph.models import LoadedModel, load_checkpoint
from keygraph.models.kgt import KGTConfig
from keygraph.plugins import library
from keygraph.plugins.torch import forced_graphs
from keygraph.runtime.backends.onnx_file import read_onnx_file
from tiny_kgt import save_network


def session(path: Path, with_library: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if with_library:
        options.register_custom_ops_library(str(library("onnxruntime")))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("with_library", [False, True], ids=["functions", "library"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 48), (1, 112, 16)])
@pytest.mark.parametrize("k", [1, 20, 64])
def test_any_size_and_any_k_from_one_file(
    exported: tuple[Path, Manifest], unet: LoadedModel, with_library: bool, shape: tuple[int, int, int], k: int
) -> None:
    image = np.random.default_rng(1).random((shape[0], 3, *shape[1:]), np.float32)
    restored = session(exported[0], with_library).run(["restored"], {"image": image, "k": np.array([k])})[0]
    with torch.inference_mode():
        expected = unet.module(torch.from_numpy(image), k).numpy()
    # Near ties may be resolved differently, which changes a few pixels by more than rounding.
    assert np.quantile(np.abs(restored - expected), 0.99) < 1e-4


@pytest.mark.parametrize(
    "config",
    [
        KGTConfig(layers=(1, 2), channels=8, heads=2, window=8, k=9, scale=2, in_channels=1, out_channels=1),
        KGTConfig(layers=(1, 1), channels=8, heads=2, window=8, k=9, position_bias=True, similarity="cosine"),
        KGTConfig(body="unet", layers=(1,) * 6, channels=8, heads=2, window=4, k=9, in_channels=4, out_channels=3),
    ],
    ids=["gray x2", "bias and cosine", "two levels, Bayer"],
)
def test_every_kind_of_network_verifies(tmp_path: Path, config: KGTConfig) -> None:
    steps, planned = list[str](), list[int]()
    manifest = export(
        load_checkpoint(save_network(tmp_path / "kgt.ckpt", config)),
        tmp_path / "kgt.onnx",
        progress=steps.append,
        planned=planned.append,
    )
    assert planned == [len(steps)], steps
    assert manifest.verification is not None
    assert manifest.verification.keys() == {"library", "functions"}
    assert (manifest.scale, manifest.in_channels) == (config.scale, config.in_channels)
    onnx.checker.check_model(tmp_path / "kgt.onnx", full_check=True)


def test_manifest_is_in_the_file(exported: tuple[Path, Manifest]) -> None:
    path, manifest = exported
    metadata = session(path, False).get_modelmeta().custom_metadata_map
    assert manifests.from_json(metadata["keygraph"], "x") == manifest
    assert manifest.neighbours == manifests.Neighbours(default=20, maximum=64, trained=(10, 20), runtime=True)
    assert manifest.made_with.keys() == {"keygraph", "onnx", "onnxscript", "torch"}
    assert manifest.tiling is not None
    assert manifest.tiling.psnr > 40


def test_the_digest_is_that_of_the_file(exported: tuple[Path, Manifest]) -> None:
    path, manifest = exported
    assert manifest.digest == read_onnx_file(path).digest
    assert read_onnx_file(path).integrity.state == UNCHANGED


def test_the_file_runs_in_onnx_runtime_1_17(exported: tuple[Path, Manifest]) -> None:
    """Which reads IR version 9 at most."""
    assert onnx.load(exported[0]).ir_version == 9


def test_verification_covers_sizes_and_k(exported: tuple[Path, Manifest]) -> None:
    manifest = exported[1]
    cases = verification_cases(manifest)
    shapes = {shape for shape, _ in cases}
    assert {(1, 16, 16), (2, 16, 16)} < shapes
    assert any(height != width for _, height, width in shapes)
    assert len({k for _, k in cases}) == 3
    assert manifest.verification is not None
    for record in manifest.verification.values():
        assert len(record["checks"]) == len(cases)
        assert all(check["psnr"] >= record["tolerance_db"] for check in record["checks"])


def test_operators_are_nodes_and_functions(exported: tuple[Path, Manifest]) -> None:
    model = onnx.load(exported[0])
    nodes = [node for node in model.graph.node if node.domain == "keygraph"]
    assert [n.op_type for n in nodes] == ["KeyGraph", "KeyGraphAttention"] * 4
    for node in nodes:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes["plugin_namespace"] == b"keygraph"
        assert attributes["plugin_version"] == b"1"
    assert sorted(f.name for f in model.functions) == ["KeyGraph", "KeyGraphAttention"]
    assert {o.domain: o.version for o in model.opset_import} == {"": 20, "keygraph": 1}


def test_names_lead_back_to_the_module(exported: tuple[Path, Manifest], unet: LoadedModel) -> None:
    model = onnx.load(exported[0])
    names = {node.name for node in model.graph.node}
    assert "body.2.layers.0.attention/KeyGraphAttention" in names
    assert len(names) == len(model.graph.node)
    modules = {name for name, _ in unet.module.named_modules()}
    assert {name.rpartition("/")[0] for name in names} <= modules
    # Weights are named after the parameter, or after the node that uses a part of one.
    weights = {i.name for i in model.graph.initializer if not i.name.startswith("constant/")}
    parameters = set(unet.module.state_dict())
    assert len(weights & parameters) > 40
    assert {name.rpartition("/")[0] for name in weights - parameters} <= modules


def test_nothing_of_this_machine_is_in_the_file(exported: tuple[Path, Manifest]) -> None:
    content = exported[0].read_bytes()
    for text in (str(Path.cwd()), str(Path(torch.__file__).parent), "site-packages", ".py"):
        assert text.encode() not in content


def test_same_input_same_bytes(exported: tuple[Path, Manifest], unet: LoadedModel, tmp_path: Path) -> None:
    export(unet, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported[0].read_bytes()


def test_weights_are_stored_once(tmp_path: Path, unet: LoadedModel, exported: tuple[Path, Manifest]) -> None:
    floats = sum(p.numel() for p in unet.module.parameters()) * 4
    assert exported[0].stat().st_size < floats * 1.05 + 60_000
    stored = [
        hashlib.sha256(i.raw_data).digest() for i in onnx.load(exported[0]).graph.initializer if len(i.raw_data) > 64
    ]
    assert len(stored) == len(set(stored))


@pytest.mark.parametrize("k", [None, 12])
def test_fixed_shape_leaves_no_shape_arithmetic(tmp_path: Path, unet: LoadedModel, k: int | None) -> None:
    manifest = export(unet, tmp_path / "fixed.onnx", shape=(2, 32, 16), k=k)
    model = onnx.load(tmp_path / "fixed.onnx")
    assert manifest.shape == (2, 32, 16)
    assert not {node.op_type for node in model.graph.node} & {"Shape", "Gather", "Div", "Mul", "Range", "Where"}
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [2, 3, 32, 16]


def test_fixed_k_is_no_input(tmp_path: Path, unet: LoadedModel) -> None:
    manifest = export(unet, tmp_path / "k.onnx", k=12)
    assert manifest.neighbours is not None
    assert (manifest.neighbours.default, manifest.neighbours.runtime) == (12, False)
    run = session(tmp_path / "k.onnx", True)
    assert [i.name for i in run.get_inputs()] == ["image"]
    image = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    with torch.inference_mode():
        expected = unet.module(torch.from_numpy(image), 12).numpy()
    assert np.quantile(np.abs(run.run(None, {"image": image})[0] - expected), 0.99) < 1e-4


def test_no_verify_is_recorded(tmp_path: Path, unet: LoadedModel) -> None:
    manifest = export(unet, tmp_path / "quick.onnx", verification=False)
    assert manifest.verification is None
    assert manifest.tiling is None


def test_weights_above_the_limit_go_beside_the_file(
    tmp_path: Path, unet: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 10_000)
    manifest = export(unet, tmp_path / "large.onnx")
    assert manifest.verification is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert read_onnx_file(tmp_path / "large.onnx").integrity.state == UNCHANGED
    image = np.zeros((1, 3, 16, 16), np.float32)
    assert (
        session(tmp_path / "large.onnx", True).run(None, {"image": image, "k": np.array([5])})[0].shape == image.shape
    )


def test_weights_of_an_earlier_file_go_with_it_and_unrelated_ones_stay(
    tmp_path: Path, unet: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 10_000)
    data.write_bytes(b"not of this model")
    with pytest.raises(InputError, match=r"model\.onnx\.data exists and does not belong to .*model\.onnx alone"):
        export(unet, path, verification=False)
    assert data.read_bytes() == b"not of this model"
    data.unlink()
    export(unet, path, verification=False)
    before = data.read_bytes()
    export(unet, path, verification=False)
    assert data.read_bytes() == before
    monkeypatch.undo()
    export(unet, path, verification=False)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def skip_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip tracing, which takes most of the time, in tests of later steps."""
    monkeypatch.setattr(exporter, "trace", lambda _model, _manifest: None)
    monkeypatch.setattr(exporter, "canonicalize", lambda _traced: None)


def break_weight(model: onnx.ModelProto) -> None:
    weight = next(i for i in model.graph.initializer if i.name == "tail.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.05
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def break_k(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.name == "body.1/KeyGraph")
    model.graph.node.insert(0, onnx.helper.make_node("Sub", ["k", "one"], ["fewer"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    node.input[2] = "fewer"


def break_epsilon(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "LayerNormalization")
    next(a for a in node.attribute if a.name == "epsilon").f = 1e-2


def break_finiteness(model: onnx.ModelProto) -> None:
    weight = next(i for i in model.graph.initializer if i.name == "tail.bias")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), weight.name))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (break_weight, "differs from PyTorch at"),
        (break_k, "selects other neighbours than PyTorch"),
        (break_epsilon, "differs from PyTorch|selects other neighbours"),
        (break_finiteness, "not finite.*the first such values are those of tail/Conv"),
    ],
)
def test_a_wrong_file_is_an_error_and_leaves_nothing(
    tmp_path: Path,
    unet: LoadedModel,
    exported: tuple[Path, Manifest],
    monkeypatch: pytest.MonkeyPatch,
    fault: Any,
    message: str,
) -> None:
    def save_wrong(_traced: Any, manifest: Manifest, path: Path) -> Manifest:
        model = onnx.load(exported[0])
        fault(model)
        onnx.save(model, path)
        return manifest

    skip_tracing(monkeypatch)
    monkeypatch.setattr(exporter, "save", save_wrong)
    with pytest.raises(KeygraphError, match=message) as caught:
        export(unet, tmp_path / "wrong.onnx")
    assert "no file was written" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k is 0; it must be from 1 to 64"),
        ({"k": 65}, r"k is 65; it must be from 1 to 64"),
        ({"shape": (1, 20, 16)}, r"multiples of 16; the next that fits is 1x32x16"),
        ({"shape": (0, 16, 16)}, r"the next that fits is 1x16x16"),
        ({"precision": "int8"}, "there is no precision 'int8'; choose one of: fp32, fp16, bf16, auto"),
    ],
)
def test_invalid_options(tmp_path: Path, unet: LoadedModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(unet, tmp_path / "x.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, unet: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    skip_tracing(monkeypatch)
    monkeypatch.setattr(exporter, "save", full)
    with pytest.raises(InputError, match="No space left on device"):
        export(unet, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_forced_graphs_are_what_the_file_chose(exported: tuple[Path, Manifest], unet: LoadedModel) -> None:
    """With the file's key graphs, PyTorch gives the file's result up to rounding, as verification assumes."""
    model = onnx.load(exported[0])
    names = [n.output[0] for n in model.graph.node if n.op_type == "KeyGraph"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT32, None) for n in names)
    image = np.random.default_rng(2).random((1, 3, 32, 32), np.float32)
    run = onnxruntime.InferenceSession(model.SerializeToString())
    restored, *graphs = run.run(["restored", *names], {"image": image, "k": np.array([20])})
    with torch.inference_mode(), forced_graphs([torch.from_numpy(g) for g in graphs], 1e-4) as agreements:
        expected = unet.module(torch.from_numpy(image)).numpy()
    assert len(agreements) == 4
    assert np.abs(restored - expected).max() < 1e-4


def test_manifest_json_is_stable(exported: tuple[Path, Manifest]) -> None:
    text = exported[1].to_json()
    assert json.loads(text)["format_version"] == manifests.FORMAT_VERSION
    assert manifests.from_json(text, "x").to_json() == text
