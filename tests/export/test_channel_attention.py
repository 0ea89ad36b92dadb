"""Export of networks with attention between channels: several inputs, margins, and global sums in half precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from keygraph import manifest as manifests
from keygraph.cli import main
from keygraph.errors import InputError, KeygraphError
from keygraph.export import export, exporter
from keygraph.export.calibration_data import CalibrationImage, calibration_images
from keygraph.export.reference import Reference
from keygraph.export.rounding import ExpectedRounding
from keygraph.export.verify import rounding_inputs, verification_cases, verify
from keygraph.instrumentation.metrics import TOLERANCES, psnr
from keygraph.instrumentation.synthetic import synthetic_inputs as sample_inputs
from keygraph.manifest import Manifest
from keygraph.models import LoadedModel, registry, save_checkpoint
from keygraph.models.mst import MSTConfig
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import RestormerConfig
from keygraph.parity.rounding.network import Arithmetic, Network
from keygraph.runtime.io.images import Picture, write
from onnx import ModelProto, TensorProto
from tiny_kgt import one_thread

SMALL: dict[str, Any] = {"channels": 8, "blocks": (1, 1, 1, 1), "refinement_blocks": 1, "heads": (1, 2, 2, 4)}
DUAL_PIXEL = RestormerConfig(**SMALL, in_channels=6, dual_pixel=True, attention="glmha")
MST = MSTConfig(bands=4, channels=4, blocks=(1, 1))
MST_PLUS_PLUS = MSTPlusPlusConfig(channels=4, out_channels=4, stages=1, blocks=(1, 1))

#: Operators that only compute sizes.
SIZES = {"Shape", "Squeeze", "Unsqueeze", "Gather"}


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


def network(config: Any) -> LoadedModel:
    """Return a network of this configuration with weights that are all different, as after training."""
    torch.manual_seed(0)
    architecture = registry.of_config(config)
    module = architecture.build(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return LoadedModel(module, architecture, config, Path("test"), ())


@pytest.fixture(scope="module")
def dual_pixel() -> LoadedModel:
    return network(DUAL_PIXEL)


@pytest.fixture(scope="module")
def half(dual_pixel: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Any size, fp16; calibrated on pairs of views."""
    folder = tmp_path_factory.mktemp("dual pixel")
    for i, view in enumerate(("left", "right")):
        (folder / view).mkdir()
        write(folder / view / "a.png", Picture(photo(64, 80, 3, i)))
    path = folder / "restormer.onnx"
    return path, export(
        dual_pixel, path, precision="fp16", calibration=folder / "left", inputs={"right": folder / "right"}
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Path, Manifest]:
    """Any size, fp32; a measurement with its mask."""
    model = network(MST)
    path = tmp_path_factory.mktemp("mst") / "mst.onnx"
    steps, planned = list[str](), list[int]()
    manifest = export(model, path, progress=steps.append, planned=planned.append)
    assert planned == [len([step for step in steps if not step.startswith("no exact tiles")])], steps
    return model, path, manifest


def photo(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    smooth = np.random.default_rng(seed).random((height // 8 + 1, width // 8 + 1, channels))
    return (np.kron(smooth, np.ones((8, 8, 1)))[:height, :width] * 255).astype(np.uint8)


def run(path: Path, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    restored: np.ndarray = session.run(["restored"], dict(zip(names, inputs, strict=True)))[0]
    return restored


def expected(model: LoadedModel, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    with torch.inference_mode():
        restored: torch.Tensor = model.module(*map(torch.from_numpy, inputs))
    return restored.numpy()


def test_inputs_stand_in_the_order_of_the_manifest(measured: tuple[LoadedModel, Path, Manifest]) -> None:
    _, path, manifest = measured
    model = onnx.load(path)
    assert [value.name for value in model.graph.input] == ["image", "mask"]
    channels = [value.type.tensor_type.shape.dim[1].dim_value for value in model.graph.input]
    assert channels == [1, 1]
    (entry,) = model.metadata_props
    assert manifests.from_json(entry.value, "x") == manifest
    assert (manifest.margin, manifest.extra_inputs) == ((0, 6), (manifests.ExtraInput("mask", 1),))
    assert (manifest.normalisation, manifest.out_channels, manifest.neighbours) == ("none", 4, None)


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 34, 10), (1, 6, 40)])
def test_any_size_of_measurement_and_mask(
    measured: tuple[LoadedModel, Path, Manifest], shape: tuple[int, int, int]
) -> None:
    model, path, manifest = measured
    inputs = sample_inputs(manifest, shape)
    batch, height, width = shape
    assert [given.shape for given in inputs] == [(batch, 1, height, width + 6), (batch, 1, height, width)]
    restored = run(path, inputs)
    assert restored.shape == (batch, 4, height, width)
    assert np.abs(restored - expected(model, inputs)).max() < 1e-5


def test_verification_sums_over_many_pixels(half: tuple[Path, Manifest]) -> None:
    manifest = half[1]
    shapes = [shape for shape, _ in verification_cases(manifest)]
    assert shapes == [(1, 8, 8), (1, 8, 16), (2, 8, 8), (1, 96, 128)]
    assert manifest.verification is not None
    # The file has none of keygraph's operators: it is verified once, and once with emulated half precision.
    assert manifest.verification.keys() == {"standard operators", "rounded"}
    for record in manifest.verification.values():
        assert [tuple(check["shape"]) for check in record["checks"]] == [*shapes, (1, 192, 192)]
        assert [check["picture"] for check in record["checks"]] == [None] * 4 + ["a.png"]
        assert all(check["psnr"] >= 50 for check in record["checks"])


def test_a_wrong_mask_is_noticed(measured: tuple[LoadedModel, Path, Manifest], tmp_path: Path) -> None:
    """A file that ignores its mask fails verification."""
    model, path, manifest = measured
    proto = onnx.load(path)
    for node in proto.graph.node:
        if node.op_type == "Pad":
            proto.graph.node.remove(node)
            ones = onnx.helper.make_node("Mul", [node.input[0], "zero"], ["masked"])
            node.input[0] = "masked"
            proto.graph.node.insert(0, ones)
            proto.graph.node.insert(1, node)
            break
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    onnx.save(proto, tmp_path / "wrong.onnx")
    rounding = ExpectedRounding(Network(model.module, manifest), Arithmetic("fp32"), *rounding_inputs(manifest))
    reference = Reference(model.module, manifest.value_range, 1e-4)
    with pytest.raises(KeygraphError, match=r"differs from PyTorch at 1x2x2: \d+\.\d dB, error [\d,]+ times what fp32"):
        verify(tmp_path / "wrong.onnx", reference, manifest, None, rounding=rounding)


def types_of(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    values = (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {
        w.name: w.data_type for w in inferred.graph.initializer
    }


def test_sums_over_pixels_are_in_fp32(half: tuple[Path, Manifest]) -> None:
    model = onnx.load(half[0])
    types = types_of(model)
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    grams = [node for node in products if "similarity" in node.name]
    assert len(grams) == 8
    norms = [node for node in model.graph.node if node.op_type in ("ReduceL2", "ReduceSumSquare")]
    assert len(norms) == 16
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    for node in (*grams, *norms, *softmaxes):
        floats = {types[name] for name in (node.input[0], *node.output)}
        assert floats == {TensorProto.FLOAT}, node.name
    # The other product and the convolutions are half precision.
    applied = [node for node in products if node.name.endswith("mixer/MatMul")]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and "attn" in node.name]
    assert len(applied) == 8
    for node in (*applied, *convolutions):
        assert types[node.output[0]] == TensorProto.FLOAT16, node.name


def test_a_block_is_well_shaped(half: tuple[Path, Manifest]) -> None:
    """One Gram product per block, no normalised queries or keys, maxima of slices; sizes are computed once."""
    model = onnx.load(half[0])
    nodes = {node.name: node for node in model.graph.node}
    made = {name: node for node in model.graph.node for name in node.output}
    weights = {weight.name for weight in model.graph.initializer}
    block = [node for name, node in nodes.items() if name.startswith("encoder_level2.0.attn")]
    counts = Counter(node.op_type for node in block)
    assert counts["MatMul"] == 3  # the guide's weights, the Gram product, the attention
    assert (counts["ReduceMax"], counts["Slice"], counts["Softmax"]) == (6, 6, 1)
    similarity = "encoder_level2.0.attn.mixer.similarity"
    gram = nodes[f"{similarity}/MatMul"]
    through = [made[name].op_type for name in gram.input]
    assert set(through) <= {"Cast", "Transpose"}  # the queries and keys themselves
    (ratio,) = (node for node in block if node.op_type == "Div" and node.name.startswith(similarity))
    assert ratio.input[0] == gram.output[0]
    # Into heads: Reshapes of constants. Back: one Concat of sizes for all blocks of a level.
    reshapes = [node for node in block if node.op_type == "Reshape" and made.get(node.input[0]) is not None]
    computed = [node for node in reshapes if node.input[1] not in weights and "guide" not in node.name]
    assert len(computed) == 1
    assert counts["Concat"] == 2  # of maxima
    assert Counter(node.op_type for node in model.graph.node)["Shape"] == 3
    assert not counts.keys() & SIZES


CASES = {
    "BiasFree, fp32": (RestormerConfig(**SMALL, norm="BiasFree"), "fp32"),
    "gray, bf16": (RestormerConfig(**SMALL, in_channels=1, out_channels=1), "bf16"),
    "linformer, fp16": (RestormerConfig(**SMALL, attention="linformer"), "fp16"),
    "performer, fp16": (RestormerConfig(**SMALL, attention="performer"), "fp16"),
    # Rounding may change buckets: a discrete choice, like that of neighbours.
    "reformer, fp32": (RestormerConfig(**SMALL, attention="reformer"), "fp32"),
    "MST, real data, fp16": (MSTConfig(bands=4, channels=4, blocks=(1, 1), mask_guided=False), "fp16"),
    "MST, glmha, bf16": (MSTConfig(bands=4, channels=4, blocks=(1, 1), attention="glmha"), "bf16"),
    "MST++, fp16": (MST_PLUS_PLUS, "fp16"),
    "MST++, glmha, fp32": (
        MSTPlusPlusConfig(channels=4, out_channels=4, stages=1, blocks=(1, 1), attention="glmha"),
        "fp32",
    ),
}


#: Of these, what differs from the others is in the network, whose own tests cover it.
SLOW = {"gray, bf16", "performer, fp16", "reformer, fp32", "MST++, glmha, fp32"}


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES])
def test_every_kind_of_network_verifies(case: str, tmp_path: Path) -> None:
    config, precision = CASES[case]
    model = network(config)
    path = tmp_path / "model.onnx"
    manifest = export(model, path, precision=precision, shape=(1, 24, 32))
    onnx.checker.check_model(path, full_check=True)
    assert manifest.verification is not None
    for record in manifest.verification.values():
        assert all(check["psnr"] >= TOLERANCES[precision].psnr for check in record["checks"])
    assert "Shape" not in {node.op_type for node in onnx.load(path).graph.node}
    if precision == "fp32":
        inputs = sample_inputs(manifest, (1, 24, 32))
        assert psnr(run(path, inputs), expected(model, inputs), (0.0, 1.0)) > 90


def test_calibration_without_what_goes_beside(dual_pixel: LoadedModel, tmp_path: Path) -> None:
    write(tmp_path / "a.png", Picture(photo(64, 80, 3, 0)))
    wishes: dict[str, Any] = {"precision": "fp16", "calibration": tmp_path}
    with pytest.raises(InputError, match=r"takes right beside the image, and right is missing; give --input right="):
        export(dual_pixel, tmp_path / "x.onnx", **wishes)
    (tmp_path / "right").mkdir()
    with pytest.raises(InputError, match=r"right holds no a\.png"):
        export(dual_pixel, tmp_path / "x.onnx", **wishes, inputs={"right": tmp_path / "right"})
    with pytest.raises(InputError, match="--input gives the extra inputs for the images of --calibration"):
        export(dual_pixel, tmp_path / "x.onnx", precision="fp16", inputs={"right": tmp_path / "right"})
    assert not (tmp_path / "x.onnx").exists()


def test_measurements_and_their_mask_calibrate(tmp_path: Path) -> None:
    manifest = network(MST).manifest()
    folder = tmp_path / "measurements"
    folder.mkdir()
    measurement = np.random.default_rng(0).random((40, 56), np.float32) * 3
    np.save(folder / "scene.npy", measurement)
    np.save(tmp_path / "mask.npy", np.ones((40, 50), np.float32))
    (picture,) = calibration_images(manifest, folder, {"mask": tmp_path / "mask.npy"})
    image, mask = picture.inputs
    assert (image.shape, mask.shape) == ((1, 1, 192, 198), (1, 1, 192, 192))
    assert np.array_equal(image[0, 0, :40, :56], measurement)


def test_the_command_line_exports_with_several_inputs(
    dual_pixel: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def stop(_module: Any, _manifest: Manifest) -> None:
        raise InputError("far enough")

    def pictures(manifest: Manifest, *given: Any) -> list[CalibrationImage]:
        found = seen["pictures"] = calibration_images(manifest, *given)
        return found

    monkeypatch.setattr(exporter, "trace", stop)
    monkeypatch.setattr(exporter, "calibration_images", pictures)
    save_checkpoint(tmp_path / "dual.ckpt", dual_pixel.module)
    for i, view in enumerate(("left", "right")):
        (tmp_path / view).mkdir()
        write(tmp_path / view / "a.png", Picture(photo(64, 80, 3, i)))
    options = ["--precision", "fp16", "--calibration", str(tmp_path / "left"), "--input", f"right={tmp_path / 'right'}"]
    assert main(["export", str(tmp_path / "dual.ckpt"), *options]) == 2
    assert "far enough" in capsys.readouterr().err
    (picture,) = seen["pictures"]
    assert picture.inputs[0].shape == (1, 6, 192, 192)
    left, right = (photo(64, 80, 3, i)[0, 0] / 255 for i in (0, 1))
    assert np.allclose(picture.inputs[0][0, :, 0, 0], np.concatenate([left, right]), atol=1e-6)
