"""Half precision: types in the file, results, and that overflow is detected, named and repaired."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from keygraph.cli import main
from keygraph.errors import InputError, KeygraphError
from keygraph.export import export, mixed_precision
from keygraph.export.calibration_data import calibration_images
from keygraph.instrumentation.metrics import TOLERANCES, psnr
from keygraph.manifest import Manifest
from keygraph.models import LoadedModel, load_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from keygraph.parity import compare
from keygraph.runtime.backends.emulated_half import MOVES, emulate_half
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.io.images import Picture, write
from onnx import ModelProto, TensorProto
from tiny_kgt import one_thread, overflowing, save_network

EXAMPLES = Path(__file__).parents[2] / "examples"
UNIT = (0.0, 1.0)
HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
SMALL = KGTConfig(layers=(1, 1, 1), channels=8, heads=2, window=8, k=16)

sys.path.insert(0, str(EXAMPLES))
from photos import add_noise, unseen_photo  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def half(
    request: pytest.FixtureRequest, unet: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest]:
    path = tmp_path_factory.mktemp(request.param) / "kgt.onnx"
    steps, planned = list[str](), list[int]()
    manifest = export(unet, path, precision=request.param, progress=steps.append, planned=planned.append)
    assert planned == [len(steps)], steps
    return path, manifest


def types_of(model: ModelProto) -> dict[str, int]:
    """Return value -> element type, by strict inference, which also checks the types."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    values = (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {
        w.name: w.data_type for w in inferred.graph.initializer
    }


def check_borders(model: ModelProto) -> None:
    """Check that a value has at most one Cast to each type, and weights have none."""
    made = {name: node for node in model.graph.node for name in node.output}
    weights = {weight.name for weight in model.graph.initializer}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)
    for node in casts:
        assert node.input[0] not in weights
        source = made.get(node.input[0])
        assert source is None or source.op_type != "Cast"


def test_types_in_the_file(half: tuple[Path, Manifest], unet: LoadedModel) -> None:
    path, manifest = half
    half_type = HALVES[manifest.precision]
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    types = types_of(model)
    check_borders(model)
    assert types["image"] == types["restored"] == TensorProto.FLOAT
    nodes = {node.name: node for node in model.graph.node}
    for name, node in nodes.items():
        if node.op_type == "LayerNormalization" or name == "tail/Conv":
            assert {types[i] for i in node.input} == {TensorProto.FLOAT}, name
        if node.op_type in ("Gemm", "Gelu", "KeyGraphAttention") or (node.op_type == "Conv" and name != "tail/Conv"):
            assert types[node.output[0]] == half_type, name
    # The sum with the image is the end of the network.
    assert {types[name] for name in nodes["Add"].input} == {TensorProto.FLOAT}
    assert types[nodes["body.0/KeyGraph"].input[0]] == half_type
    parameters = sum(p.numel() for p in unet.module.parameters())
    stored = sum(int(np.prod(w.dims)) for w in model.graph.initializer if w.data_type == half_type)
    assert stored > 0.95 * parameters - 1000


def test_half_agrees_with_pytorch(half: tuple[Path, Manifest]) -> None:
    manifest = half[1]
    assert manifest.verification is not None
    assert manifest.verification.keys() == (
        {"library", "functions"} | ({"rounded"} if manifest.precision == "fp16" else set())
    )
    for record in manifest.verification.values():
        assert record["tolerance_db"] == TOLERANCES[manifest.precision].psnr
        assert all(check["psnr"] >= record["tolerance_db"] for check in record["checks"])
        assert [check["picture"] for check in record["checks"] if check["picture"]] == ["generated picture"]
    ways = [record["arithmetic"] for record in manifest.verification.values()]
    assert f"float32, every stored tensor rounded to {manifest.precision}" in ways


def test_head_room_is_that_of_the_largest_value(half: tuple[Path, Manifest], unet: LoadedModel) -> None:
    """Compared with hooks in PyTorch, for modules that are single nodes."""
    manifest = half[1]
    assert manifest.half is not None
    assert len(manifest.half.largest) == 8
    values = [value for _, value in manifest.half.largest]
    assert values == sorted(values, reverse=True)
    limit = torch.finfo(torch.float16 if manifest.precision == "fp16" else torch.bfloat16).max
    assert manifest.half.headroom == pytest.approx(limit / values[0], rel=1e-2)
    seen: dict[str, float] = {}

    def hook(name: str) -> Callable[[Any, Any, torch.Tensor], None]:
        return lambda _module, _inputs, output: seen.__setitem__(name, float(output.abs().max()))

    handles = [module.register_forward_hook(hook(name)) for name, module in unet.module.named_modules() if name]
    with torch.inference_mode():
        unet.module(torch.from_numpy(calibration_images(manifest, None)[0].inputs[0]))
    for handle in handles:
        handle.remove()
    known = [
        (seen[module], value) for node, value in manifest.half.largest if (module := node.rpartition("/")[0]) in seen
    ]
    # The hook sees the output of a module's last node only.
    assert any(value == pytest.approx(expected, rel=1e-2) for expected, value in known)


def test_old_manifests_read_on(half: tuple[Path, Manifest]) -> None:
    text = json.loads(half[1].to_json())
    del text["half"]
    text["format_version"] = 1
    assert keygraph.manifest.from_json(json.dumps(text), "x").half is None


def test_a_session_runs_it_and_compare_accepts_it(half: tuple[Path, Manifest], unet: LoadedModel) -> None:
    path, manifest = half
    session = OnnxRuntimeSession(path)
    assert ("bfloat16 by rounding" in session.description) == (manifest.precision == "bf16")
    image = np.random.default_rng(3).random((1, 3, 32, 48), np.float32)
    restored = session.run(image, 20)
    with torch.inference_mode():
        expected = unet.module(torch.from_numpy(image), 20).numpy()
    assert psnr(restored, expected, UNIT) > TOLERANCES[manifest.precision].psnr - 10
    result = compare(path, unet.source)
    assert result.good, result.reasons
    assert f"at most 4 times what {manifest.precision} rounding explains" in result.comparisons[0].verdict.rule


def test_rounding_is_what_pytorch_rounds(unet: LoadedModel, half: tuple[Path, Manifest]) -> None:
    """The first convolution computes in float32 from rounded inputs and weights, and its result is rounded."""
    path, manifest = half
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[manifest.precision]
    model = emulate_half(onnx.load(path))
    model.graph.output.append(onnx.ValueInfoProto(name="head/Conv"))
    image = np.random.default_rng(3).random((1, 3, 16, 16), np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    features = torch.from_numpy(session.run(["head/Conv"], {"image": image, "k": np.array([20])})[0])
    head = unet.module.get_submodule("head")
    assert isinstance(head, torch.nn.Conv2d)
    assert head.bias is not None
    given, weight, bias = (t.to(dtype).float() for t in (torch.from_numpy(image), head.weight, head.bias))
    with torch.inference_mode():
        expected = torch.nn.functional.conv2d(given, weight, bias, padding=1).to(dtype).float()
    assert torch.equal(features, features.to(dtype).float())
    # A different order of summation may round differently.
    assert (features != expected).float().mean() < 0.01


def test_half_io_and_fixed_shape(unet: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "io.onnx"
    manifest = export(unet, path, precision="fp16", half_io=True, shape=(1, 32, 16), k=12)
    model = onnx.load(path)
    types = types_of(model)
    assert types["image"] == types["restored"] == TensorProto.FLOAT16
    assert manifest.half is not None
    assert manifest.half.half_io
    image = np.random.default_rng(3).random((1, 3, 32, 16), np.float32)
    restored = OnnxRuntimeSession(path).run(image, None)
    with torch.inference_mode():
        expected = unet.module(torch.from_numpy(image), 12).numpy()
    assert restored.dtype == np.float32
    assert psnr(restored, expected, UNIT) > 45


def test_patterns_keep_what_they_name(unet: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "kept.onnx"
    manifest = export(
        unet, path, precision="fp16", keep_fp32=["body.3.*", "*/KeyGraph", "body.0.layers.0.ffn"], verification=False
    )
    model = onnx.load(path)
    types = types_of(model)
    check_borders(model)
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and (node.op_type in MOVES or node.op_type in ("Cast", "Shape", "Div")):
            continue
        module = node.name.rpartition("/")[0]
        if (
            module.startswith("body.3")
            or node.op_type == "KeyGraph"
            or (".layers.0.ffn" in node.name and "body.0" in module)
        ):
            floats = {types[name] for name in node.input if types[name] in (TensorProto.FLOAT, TensorProto.FLOAT16)}
            assert floats == {TensorProto.FLOAT}, node.name
    assert types["body.1.layers.0.ffn.expand/Gemm"] == TensorProto.FLOAT16
    assert manifest.half is not None
    assert manifest.half.keep_fp32[-3:] == ("body.3.*", "*/KeyGraph", "body.0.layers.0.ffn")
    assert manifest.half.largest == ()


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "config",
    [
        KGTConfig(layers=(1, 2), channels=8, heads=2, window=8, k=9, scale=2, in_channels=1, out_channels=1),
        KGTConfig(layers=(1, 1), channels=8, heads=2, window=8, k=9, position_bias=True, similarity="cosine"),
    ],
    ids=["gray x2", "bias and cosine"],
)
def test_every_kind_of_network_verifies_in_half(tmp_path: Path, config: KGTConfig, precision: str) -> None:
    path = tmp_path / "kgt.onnx"
    export(load_checkpoint(save_network(tmp_path / "kgt.ckpt", config)), path, precision=precision)
    model = onnx.load(path)
    types = types_of(model)
    # An epsilon of 1e-12 would be 0 in fp16, and lead to 0/0.
    norms = [node for node in model.graph.node if node.op_type == "ReduceL2"]
    assert len(norms) == (len(config.layers) if config.similarity == "cosine" else 0)
    assert all(types[name] == TensorProto.FLOAT for node in norms for name in (node.input[0], *node.output))


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_checkpoint(save_network(tmp_path_factory.mktemp("hot") / "hot.ckpt", SMALL, overflowing))


def test_overflow_is_caught_and_named(hot: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(
        KeygraphError, match=r"^body\.1\.layers\.0\.ffn\.reduce/Gemm reaches 1\.\d+e\+05.*65504"
    ) as caught:
        export(hot, tmp_path / "hot.onnx", precision="fp16")
    assert "--precision auto" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_overflow_that_ranges_do_not_show_is_named_by_the_run(
    hot: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixed_precision, "_check_ranges", lambda _largest, _precision: None)
    with pytest.raises(
        KeygraphError, match=r"not finite.*the first such values are those of body\.1\.layers\.0\.ffn\.reduce/Gemm;"
    ):
        export(hot, tmp_path / "hot.onnx", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_auto_repairs_overflow_with_no_more_than_is_needed(hot: LoadedModel, tmp_path: Path) -> None:
    manifest = export(hot, tmp_path / "hot.onnx", precision="auto")
    assert manifest.precision == "fp16"
    assert manifest.half is not None
    found = manifest.half.found
    assert set(found) == {"body.1.layers.0.ffn.reduce", "body.1.layers.0/Add_1", "body.1.conv/Conv"}
    assert manifest.half.target_psnr == 50
    assert manifest.half.headroom > 1
    assert manifest.verification is not None
    assert all(c["psnr"] >= 50 for record in manifest.verification.values() for c in record["checks"])


def test_auto_adds_nothing_where_nothing_is_needed(unet: LoadedModel, tmp_path: Path) -> None:
    manifest = export(unet, tmp_path / "kgt.onnx", precision="auto", target_psnr=45)
    assert manifest.half is not None
    assert (manifest.half.found, manifest.half.target_psnr) == ((), 45)


def test_weights_beyond_half_are_named(tmp_path: Path) -> None:
    def heavy(network: KGT) -> None:
        network.get_parameter("body.0.conv.weight")[0, 0] = 1e6

    model = load_checkpoint(save_network(tmp_path / "heavy.ckpt", SMALL, heavy))
    with pytest.raises(KeygraphError, match=r"body\.0\.conv\.weight reaches 1e\+06, more than fp16 holds"):
        export(model, tmp_path / "heavy.onnx", precision="fp16", verification=False)


def test_calibration_images_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write(folder / "cat.png", Picture(np.ascontiguousarray(unseen_photo()[:90, :200])))
    model = load_checkpoint(save_network(tmp_path / "kgt.ckpt", SMALL))
    manifest = export(model, tmp_path / "kgt.onnx", precision="fp16", calibration=folder)
    assert manifest.half is not None
    assert manifest.half.pictures == ("cat.png",)
    assert manifest.verification is not None
    (check,) = (c for c in manifest.verification["library"]["checks"] if c["picture"])
    assert (check["picture"], check["shape"]) == ("cat.png", [1, 192, 192])
    assert check["psnr_as_run"] > 40


def test_inspect_shows_the_head_room(half: tuple[Path, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    path, manifest = half
    assert main(["inspect", str(path)]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert manifest.half is not None
    assert f"head-room {manifest.half.headroom:.4g} times before overflow on 1 image" in words
    assert f"{manifest.half.nodes_fp32} of {manifest.half.nodes} computing nodes in FP32" in words
    assert f"every stored tensor rounded to {manifest.precision}" in words


def test_a_pattern_that_matches_nothing(unet: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'body\.2\.layer' matches no node.*body\.2\.layers"):
        export(unet, tmp_path / "kgt.onnx", precision="fp16", keep_fp32=["body.2.layer"], verification=False)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_demo_promises(tmp_path: Path, precision: str) -> None:
    """At least 50 dB from FP32 PyTorch in fp16, and no more than 0.02 dB from its PSNR, each with its own graphs."""
    checkpoint = EXAMPLES / "kgt-denoise-tiny.ckpt"
    path = tmp_path / "kgt.onnx"
    export(load_checkpoint(checkpoint), path, precision=precision, verification=False)
    clean = np.ascontiguousarray(unseen_photo()[64:192, 128:288])
    image = add_noise(clean, 25.0, seed=1).astype(np.float32) / 255
    restored, reference = keygraph.load(path)(image), keygraph.load(checkpoint)(image)
    assert psnr(restored, reference, UNIT) >= TOLERANCES[precision].psnr
    truth = clean.astype(np.float32) / 255
    assert abs(psnr(restored, truth, UNIT) - psnr(reference, truth, UNIT)) <= 0.02
